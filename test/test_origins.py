"""Queries of both origins at the same time: a batch never holds both."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from harness import Keeper, Load, deploy, unanswered, until
from models import Gate, Journal

import shoal
from shoal import serve


def test_an_interleaved_load_yields_only_pure_batches_and_no_error(
    client: serve.Client, journal: Journal
) -> None:
    @serve.accept_batch
    def model(requests: list[Any], *, number: Any = None) -> list[int]:
        web = serve.context.web
        kinds = {type(request).__name__ for request in requests}
        assert kinds == {"Request" if web else "Placeholder"}, kinds
        if web:
            assert number is None
            number = [int(request.args["number"]) for request in requests]
        assert len(number) == len(requests)
        # Web callers send even numbers and handles odd ones.
        assert {n % 2 for n in number} == {0 if web else 1}, (web, number)
        journal.add(["web" if web else "api", len(number)])
        return [n + 1 for n in number]

    deploy(client, "model", model, max_batch_size=8)
    keeper = Keeper(client.http_address)
    handle = client.get_handle("model")

    def over_http(i: int) -> None:
        status, body = keeper.get(f"/model?number={2 * i}")
        assert (status, int(body)) == (200, 2 * i + 1)

    def through_handle(i: int) -> None:
        numbers = [2 * (10 * i + k) + 1 for k in range(10)]
        answers = shoal.get([handle.remote(number=n) for n in numbers], timeout=30)
        assert answers == [n + 1 for n in numbers]

    with Load(over_http, 12) as web, Load(through_handle, 3) as api:
        web.more(1000)
        api.more(100)
    assert not web.errors, web.errors
    assert not api.errors, api.errors
    entries = journal.entries()
    for origin, load, each in (("web", web, 1), ("api", api, 10)):
        batches = [size for kind, size in entries if kind == origin]
        assert sum(batches) == each * len(load.answers)
        assert max(batches) > 1, f"{origin} queries were never batched"
        assert max(batches) <= 8


def test_neither_origin_waits_for_ever_behind_the_other(
    client: serve.Client, pool: ThreadPoolExecutor, gate: Gate, journal: Journal
) -> None:
    @serve.accept_batch
    def model(requests: list[Any], *, number: Any = None) -> list[bool]:
        journal.add("web" if serve.context.web else "api")
        gate.wait()
        return [serve.context.web] * len(requests)

    deploy(client, "model", model, max_batch_size=2)
    keeper = Keeper(client.http_address)
    handle = client.get_handle("model")
    with gate.closed():
        refs = [handle.remote(number=0)]
        until(journal.entries, "the first query to be computed")
        refs += [handle.remote(number=n) for n in range(4)]
        until(lambda: unanswered(client, "model") == 5, "four queries to wait")
        web = pool.submit(keeper.get, "/model")
        until(lambda: unanswered(client, "model") == 6, "a query over HTTP to wait")
        refs += [handle.remote(number=n) for n in range(20)]
        until(lambda: unanswered(client, "model") == 26, "all queries to wait")
    assert web.result() == (200, b"true")
    assert shoal.get(refs, timeout=30) == [False] * len(refs)
    # One query alone, the four that were there first, the one over HTTP, and only then the twenty.
    assert journal.entries() == ["api", "api", "api", "web", *["api"] * 10]
