"""Replicas and versions that come and go while queries run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from harness import Loads, alive, ask, backend, deploy, unanswered, until
from models import Gate, Journal

import shoal
from shoal import serve


class Numbered:
    """Answers with its version's name and the number that it was asked."""

    def __init__(self, version: str) -> None:
        self.version = version

    @serve.accept_batch
    def __call__(self, requests: list[Any], *, number: Any = None) -> list[list[Any]]:
        if serve.context.web:
            number = [int(request.args["number"]) for request in requests]
        return [[self.version, n] for n in number]


@pytest.fixture
def numbered(client: serve.Client) -> str:
    client.create_backend("m:v1", Numbered, "v1")
    client.create_endpoint("m", backend="m:v1", route="/m")
    return "m"


def test_traffic_moves_to_a_new_version_under_load_without_a_failed_query(
    client: serve.Client, numbered: str
) -> None:
    with Loads(client, numbered) as load:
        load.more()
        client.create_backend("m:v2", Numbered, "v2")
        client.set_traffic("m", {"m:v1": 0.5, "m:v2": 0.5})
        split = load.marks
        load.more(200)
        both = load.versions(split)
        client.set_traffic("m", {"m:v2": 1.0})
        moved = load.marks
        load.more()
        client.delete_backend("m:v1")
        load.more()
    assert load.errors == []
    assert min(both["v1"], both["v2"]) > 0.2 * both.total(), both
    assert set(load.versions(moved)) == {"v2"}
    assert list(client.list_backends()) == ["m:v2"]


def test_a_shadow_computes_copies_and_nobody_sees_its_answers(
    client: serve.Client, numbered: str, journal: Journal
) -> None:
    @serve.accept_batch
    def shadow(requests: list[Any], *, number: Any = None) -> list[Any]:
        journal.add(len(requests))
        raise RuntimeError("not finished yet")

    client.create_backend("m:shadow", shadow)
    with Loads(client, numbered) as load:
        client.shadow_traffic("m", "m:shadow", 1.0)
        load.more()
        until(lambda: sum(journal.entries()) > 50, "the shadow to see queries")
        client.shadow_traffic("m", "m:shadow", 0)
        load.more()
    assert load.errors == []
    assert set(load.versions()) == {"v1"}
    client.delete_backend("m:shadow")


def test_a_backend_is_replaced_under_load_without_a_failed_query(client: serve.Client, numbered: str) -> None:
    with Loads(client, numbered) as load:
        for version in ("v2", "v3"):
            load.more()
            client.create_backend("m:v1", Numbered, version, replace=True)
        replaced = load.marks
        load.more()
    assert load.errors == []
    assert set(load.versions(replaced)) == {"v3"}
    assert len(backend(client, "m:v1")["replicas"]) == 1


def test_the_config_changes_under_load_without_a_failed_query(client: serve.Client, numbered: str) -> None:
    with Loads(client, numbered) as load:
        for change in (
            {"max_batch_size": 2},
            {"num_replicas": 3},
            {"batch_wait_timeout": "1ms"},
            {"env": {"SOME_SETTING": "1"}},
            {"num_replicas": 1, "batch_wait_timeout": 0},
            {"max_concurrent_batches": 2, "max_batch_size": 16},
        ):
            load.more()
            config = client.update_backend_config("m:v1", change)
            assert set(change) <= set(config)
        load.more()
    assert load.errors == []
    assert client.get_backend_config("m:v1")["max_batch_size"] == 16
    until(lambda: len(backend(client, "m:v1")["replicas"]) == 1, "the replicas that are not needed to go")


def test_the_environment_of_the_config_reaches_the_model(client: serve.Client) -> None:
    def setting(request: Any) -> str:
        return os.environ["SOME_SETTING"]

    deploy(client, "setting", setting, env={"SOME_SETTING": "first"})
    assert ask(client, "/setting").text == "first"
    client.update_backend_config("setting", {"env": {"SOME_SETTING": "second"}})
    assert ask(client, "/setting").text == "second"


@pytest.fixture
def gated(gate: Gate, journal: Journal) -> Callable[..., Any]:
    @serve.accept_batch
    def gated(requests: list[Any], *, number: Any) -> list[list[int]]:
        journal.add(number)
        gate.wait()
        return [[n, os.getpid()] for n in number]

    return gated


def ten_queries(client: serve.Client, handle: Any, journal: Journal) -> list[Any]:
    """One that is computed, and nine that wait."""
    first = handle.remote(number=0)
    until(journal.entries, "the first query to be computed")
    waiting = [handle.remote(number=n) for n in range(1, 10)]
    until(lambda: unanswered(client, "gated") == 10, "nine queries to wait")
    return [first, *waiting]


def test_a_killed_worker_loses_nothing(
    client: serve.Client, gated: Callable[..., Any], gate: Gate, journal: Journal
) -> None:
    deploy(client, "gated", gated, max_batch_size=4)
    handle = client.get_handle("gated")
    victim = backend(client, "gated")["replicas"][0]["pid"]
    with gate.closed():
        first, *waiting = ten_queries(client, handle, journal)
        os.kill(victim, signal.SIGKILL)
        until(lambda: len(journal.entries()) == 2, "the first query to be computed again")
    answers = shoal.get([first, *waiting], timeout=30)
    assert [number for number, _ in answers] == list(range(10))
    pids = {pid for _, pid in answers}
    assert victim not in pids
    replica = backend(client, "gated")["replicas"][0]
    assert replica["pid"] in pids
    assert replica["restarts"] == 1
    assert backend(client, "gated")["stats"]["failed"] == 0


def test_with_on_batch_error_fail_a_killed_worker_fails_what_it_computed_and_nothing_else(
    client: serve.Client, gated: Callable[..., Any], gate: Gate, journal: Journal
) -> None:
    deploy(client, "gated", gated, max_batch_size=4, on_batch_error="fail")
    handle = client.get_handle("gated")
    victim = backend(client, "gated")["replicas"][0]["pid"]
    with gate.closed():
        first, *waiting = ten_queries(client, handle, journal)
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(shoal.WorkerDied):
            first.result(30)
    answers = shoal.get(waiting, timeout=30)
    assert [number for number, _ in answers] == list(range(1, 10))
    assert sorted(n for batch in journal.entries() for n in batch) == list(range(10))


def test_under_load_a_killed_worker_loses_nothing(client: serve.Client) -> None:
    deploy(client, "m", Numbered, "v1", max_batch_size=4, num_replicas=2)
    with Loads(client, "m") as load:
        load.more()
        victim = backend(client, "m")["replicas"][0]["pid"]
        os.kill(victim, signal.SIGKILL)
        load.more(200)
        until(
            lambda: [r["state"] for r in backend(client, "m")["replicas"]] == ["ready", "ready"],
            "the replica to be replaced",
        )
        load.more()
    assert load.errors == []
    assert victim not in {replica["pid"] for replica in backend(client, "m")["replicas"]}
    assert not alive(victim)


def test_init_runs_once_for_each_replica(client: serve.Client, journal: Journal) -> None:
    class Model:
        def __init__(self, factor: int, *, offset: int) -> None:
            self.factor, self.offset = factor, offset
            journal.add(os.getpid())

        @serve.accept_batch
        def __call__(self, requests: list[Any], *, number: Any) -> list[int]:
            return [self.factor * n + self.offset for n in number]

    client.create_backend("m", Model, 3, offset=1, config={"num_replicas": 2})
    client.create_endpoint("m", backend="m")
    handle = client.get_handle("m")
    assert shoal.get([handle.remote(number=n) for n in range(100)]) == [3 * n + 1 for n in range(100)]
    pids = journal.entries()
    assert len(pids) == 2
    assert set(pids) == {replica["pid"] for replica in backend(client, "m")["replicas"]}
    client.update_backend_config("m", {"num_replicas": 3, "max_batch_size": 8})
    assert len(journal.entries()) == 3
    assert len(set(journal.entries())) == 3


def test_a_deleted_backend_finishes_its_queries_and_its_worker_ends(
    client: serve.Client, gated: Callable[..., Any], gate: Gate, journal: Journal
) -> None:
    deploy(client, "gated", gated)
    handle = client.get_handle("gated")
    pid = backend(client, "gated")["replicas"][0]["pid"]
    with gate.closed():
        refs = [handle.remote(number=0)]
        until(journal.entries, "the first query to be computed")
        refs += [handle.remote(number=n) for n in (1, 2)]
        until(lambda: backend(client, "gated")["queued"] == 2, "two queries to wait")
        client.delete_endpoint("gated")
        with pytest.raises(shoal.EndpointNotFound):
            handle.remote(number=3).result(30)
    client.delete_backend("gated")
    assert [number for number, _ in shoal.get(refs, timeout=30)] == [0, 1, 2]
    until(lambda: not alive(pid), "the worker to end")
