"""Overload from end to end: who leaves first, who is refused; bench/overload.py in seconds, for counts."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from harness import ROOT, ask, backend, deploy, problem, run, until
from models import Gate, Journal

import shoal
from shoal import serve

SCRIPT = ROOT / "bench" / "overload.py"


@pytest.fixture
def handle(client: serve.Client, gate: Gate, journal: Journal) -> Any:
    """Of a model that waits at the gate and keeps a journal of its batches of at most 2; 6 may wait."""

    @serve.accept_batch
    def model(requests: list[Any], *, name: Any = None) -> list[Any]:
        if serve.context.web:
            name = [request.args["name"] for request in requests]
        journal.add(name)
        gate.wait()
        return list(name)

    deploy(client, "model", model, max_batch_size=2, max_queued=6, leave_at_once=True)
    return client.get_handle("model")


def busy(client: serve.Client, handle: Any, journal: Journal) -> list[Any]:
    """A batch that is computed, and one that was sent ahead: what comes now waits."""
    refs = [handle.remote(name="first")]
    until(journal.entries, "the first query to be computed")
    refs += [handle.remote(name="ahead") for _ in range(2)]
    until(lambda: backend(client, "model")["running"] == 3, "a batch to be sent ahead")
    return refs


def test_priorities_leave_first_and_callers_share(
    client: serve.Client, handle: Any, gate: Gate, journal: Journal
) -> None:
    with gate.closed():
        refs = busy(client, handle, journal)
        for number, (caller, priority, names) in enumerate(
            [("flood", 0, "abc"), ("other", 0, "x"), ("flood", -1, "l"), ("flood", 2, "h")]
        ):
            asker = handle.options(caller=caller, priority=priority)
            refs += [asker.remote(name=name) for name in names]
            waiting = [3, 4, 5, 6][number]
            until(lambda n=waiting: backend(client, "model")["queued"] == n, "the queries to wait")  # type: ignore[misc]
    shoal.get(refs, timeout=30)
    assert journal.entries()[2:] == [["h", "a"], ["x", "b"], ["c", "l"]]


def test_a_full_queue_belongs_to_all_and_refusals_say_when_to_come_again(
    client: serve.Client, handle: Any, gate: Gate, journal: Journal
) -> None:
    flood = handle.options(caller="flood")
    with gate.closed():
        refs = busy(client, handle, journal)
        waiting = [flood.remote(name=str(n)) for n in range(6)]
        until(lambda: backend(client, "model")["queued"] == 6, "the queue to be full")
        with pytest.raises(shoal.QueueFull, match="max_queued is 6") as refused:
            flood.remote(name="one too many").result(30)
        assert refused.value.retry_after is not None
        assert refused.value.retry_after >= 1
        response = ask(client, "/model?name=web", headers={"Shoal-Caller": "flood"})
        problem(response, 503, "QueueFull")
        assert int(response.headers["Retry-After"]) >= 1
        refs.append(handle.options(caller="other").remote(name="other"))
        with pytest.raises(shoal.QueueFull, match="made room"):
            waiting[5].result(30)
    assert shoal.get(waiting[:5], timeout=30) == ["0", "1", "2", "3", "4"]
    shoal.get(refs, timeout=30)
    stats = backend(client, "model")["stats"]
    assert stats["evicted"] == 1
    assert stats["refusals"] == {"queue_full": 2}


def test_a_query_whose_time_is_over_while_it_waits_is_told_then_and_never_computed(
    client: serve.Client, handle: Any, gate: Gate, journal: Journal
) -> None:
    with gate.closed():
        refs = busy(client, handle, journal)
        late = handle.options(timeout=0.2).remote(name="late")
        with pytest.raises(shoal.DeadlineExceeded):
            late.result(30)  # the gate is still closed
        problem(ask(client, "/model?name=late", headers={"Shoal-Timeout": "200ms"}), 504, "DeadlineExceeded")
        assert backend(client, "model")["queued"] == 0
    shoal.get(refs, timeout=30)
    assert ["late"] not in journal.entries()


def test_ten_times_the_capacity_for_a_few_seconds() -> None:
    arguments = ["--json", "--seconds", "6", "--calm", "2"]
    done = run([sys.executable, SCRIPT, *arguments], patience=180)
    assert done.output.startswith("{"), done.said
    result: dict[str, Any] = json.loads(done.output)
    for phase in (result["before"], result["overload"], result["after"]):
        assert phase["asked"] == phase["answered"] + phase["late"] + phase["refused"] + phase["failed"]
        assert phase["failed"] <= phase["asked"] // 10  # a client that was held up has too few descriptors
    peak = result["overload"]
    assert peak["refused"] > peak["answered"] > 0
    assert peak["with_retry_after"] == peak["refused"]
    assert result["after"]["answered"] > 0
    refusals = result["stats"]["refusals"]
    assert refusals["deadline"] > 0
    assert "queue_full" not in refusals
