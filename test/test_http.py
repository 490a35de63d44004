"""The HTTP front: what clients get, in HTTP/1.1 and cleartext HTTP/2, and health."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from harness import ask, backend, deploy, sizes, unanswered, until
from models import Gate, Journal

import shoal
from shoal import serve


def test_answers_go_out_as_what_the_model_returned(client: serve.Client) -> None:
    import numpy as np

    def kinds(request: Any) -> Any:
        return {
            "text": "grüezi",
            "bytes": b"\x00\xff",
            "json": {"a": [1, None, "ü"]},
            "array": np.arange(3),
            "none": None,
            "response": shoal.Response(b"short", status=418, headers={"X-Kind": "teapot"}),
        }[request.args["kind"]]

    deploy(client, "kinds", kinds)
    text = ask(client, "/kinds?kind=text")
    assert text.content.decode() == "grüezi"
    assert text.headers["Content-Type"].startswith("text/plain")
    raw = ask(client, "/kinds?kind=bytes")
    assert raw.content == b"\x00\xff"
    assert raw.headers["Content-Type"] == "application/octet-stream"
    answer = ask(client, "/kinds?kind=json")
    assert answer.json() == {"a": [1, None, "ü"]}
    assert answer.headers["Content-Type"].startswith("application/json")
    assert ask(client, "/kinds?kind=array").json() == [0, 1, 2]
    response = ask(client, "/kinds?kind=response")
    assert (response.status_code, response.content) == (418, b"short")
    assert response.headers["X-Kind"] == "teapot"
    assert ask(client, "/kinds?kind=none").status_code in (200, 204)


def test_the_model_sees_the_request(client: serve.Client) -> None:
    def echo(request: Any) -> dict[str, Any]:
        return {
            "method": request.method,
            "path": request.path,
            "args": {key: request.args.getlist(key) for key in request.args},
            "header": request.headers["x-some-header"],
            "body": request.data.decode("latin-1"),
            "id": request.id,
        }

    deploy(client, "echo", echo, methods=["POST"])
    response = ask(
        client,
        "/echo?a=1&a=%C3%BC+2&b=",
        "POST",
        data=b"\x00\xffbody",
        headers={"X-Some-Header": "yes", "X-Request-Id": "my-own-id"},
    )
    assert response.json() == {
        "method": "POST",
        "path": "/echo",
        "args": {"a": ["1", "ü 2"], "b": [""]},
        "header": "yes",
        "body": "\x00ÿbody",
        "id": "my-own-id",
    }
    assert response.headers["X-Request-Id"] == "my-own-id"
    first, second = (ask(client, "/echo", "POST", headers={"X-Some-Header": ""}) for _ in range(2))
    assert first.headers["X-Request-Id"] != second.headers["X-Request-Id"]


def test_answers_say_how_long_they_took_and_in_how_large_a_batch(
    client: serve.Client, pool: ThreadPoolExecutor, gate: Gate, journal: Journal
) -> None:
    @serve.accept_batch
    def model(requests: list[Any]) -> list[int]:
        journal.add(len(requests))
        gate.wait()
        return [0] * len(requests)

    deploy(client, "model", model, max_batch_size=4)
    with gate.closed():
        first = pool.submit(ask, client, "/model")
        until(journal.entries, "the first query to be computed")
        rest = [pool.submit(ask, client, "/model") for _ in range(5)]
        until(lambda: unanswered(client, "model") == 6, "five queries to wait")
    assert 'desc="size=1 reason=free' in first.result().headers["Server-Timing"]
    timings = [query.result().headers["Server-Timing"] for query in rest]
    assert all("queue;dur=" in timing and "compute;dur=" in timing for timing in timings)
    assert sum('desc="size=4 reason=full' in timing for timing in timings) == 4
    assert sum('desc="size=1 reason=free' in timing for timing in timings) == 1
    assert first.result().headers["Shoal-Backend"] == "model"
    assert sizes(client, "model") == {1: 2, 4: 1}


def test_one_connection_of_http2_carries_queries_that_are_batched(
    client: serve.Client, gate: Gate, journal: Journal
) -> None:
    @serve.accept_batch
    def model(requests: list[Any]) -> list[int]:
        journal.add(len(requests))
        gate.wait()
        return [int(request.args["number"]) + 1 for request in requests]

    deploy(client, "model", model, max_batch_size=16)

    async def ask_all() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(http1=False, http2=True, limits=limits, timeout=30) as http:
            url = f"http://{client.http_address}/model"
            queries = [asyncio.ensure_future(http.get(url, params={"number": n})) for n in range(33)]
            while await asyncio.to_thread(unanswered, client, "model") < 33:
                assert not any(query.done() for query in queries)
            opened.close()
            return await asyncio.gather(*queries)

    with ExitStack() as opened:
        opened.enter_context(gate.closed())
        responses = asyncio.run(ask_all())
    assert {response.http_version for response in responses} == {"HTTP/2"}
    assert [int(response.text) for response in responses] == list(range(1, 34))
    assert journal.entries() == [1, 16, 16]


def test_http2_clients_get_the_same_errors(client: serve.Client) -> None:
    def fails(request: Any) -> None:
        raise KeyError("nothing here")

    deploy(client, "fails", fails, methods=["GET"])
    with httpx.Client(http1=False, http2=True, base_url=f"http://{client.http_address}") as http:
        assert http.get("/nowhere").json()["code"] == "EndpointNotFound"
        refused = http.post("/fails")
        assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD")
        failed = http.get("/fails")
        assert (failed.status_code, failed.json()["code"]) == (500, "KeyError")
        assert failed.http_version == "HTTP/2"


def test_routes_are_listed(client: serve.Client) -> None:
    def model(request: Any) -> int:
        return 0

    deploy(client, "model", model, methods=["GET", "POST"])
    client.create_endpoint("hidden", backend="model")
    text = ask(client, "/-/routes").text
    assert "/model" in text
    assert "hidden" not in text
    assert ask(client, "/model/").status_code == 404
    assert ask(client, "/model/more").status_code == 404


def test_ready_means_that_the_example_was_computed_through_a_batch(
    client: serve.Client, pool: ThreadPoolExecutor, gate: Gate, journal: Journal
) -> None:
    assert ask(client, "/livez").status_code == 200
    assert ask(client, "/readyz").status_code == 200

    @serve.accept_batch
    def model(requests: list[Any]) -> list[int]:
        numbers = [int(request.args["number"]) for request in requests]
        journal.add(numbers)
        gate.wait()
        return numbers

    client.create_backend("model", model)
    client.create_endpoint("model", backend="model", route="/model", example={"query": {"number": "7"}})
    with gate.closed():
        probe = pool.submit(ask, client, "/readyz")
        until(journal.entries, "the example to be computed")
        assert not probe.done()
        assert ask(client, "/livez").status_code == 200
    assert probe.result().status_code == 200
    assert journal.entries() == [[7]]
    assert ask(client, "/readyz").status_code == 200
    assert journal.entries() == [[7]], "a version that has proved itself is not asked again"
    assert backend(client, "model")["stats"]["batches"] == 1


def test_an_example_that_fails_keeps_the_server_unready_and_says_why(client: serve.Client) -> None:
    def model(request: Any) -> int:
        return int(request.json["number"])

    client.create_backend("model", model)
    client.create_endpoint(
        "model", backend="model", route="/model", methods=["POST"], example={"json": {"nummer": 1}}
    )
    response = ask(client, "/readyz")
    assert response.status_code == 503
    assert "model" in response.text
    assert "KeyError" in response.text
    good = {"json": {"number": 1}}
    client.delete_endpoint("model")
    client.create_endpoint("model", backend="model", route="/model", methods=["POST"], example=good)
    assert ask(client, "/readyz").status_code == 200


def test_a_caller_that_hangs_up_gives_its_seat_back(
    client: serve.Client, pool: ThreadPoolExecutor, gate: Gate, journal: Journal
) -> None:
    @serve.accept_batch
    def model(requests: list[Any]) -> list[int]:
        journal.add([request.args["number"] for request in requests])
        gate.wait()
        return [0] * len(requests)

    deploy(client, "model", model)
    with gate.closed():
        first = pool.submit(ask, client, "/model?number=0")
        until(journal.entries, "the first query to be computed")
        with httpx.Client(timeout=httpx.Timeout(30, read=0.1)) as impatient, pytest.raises(httpx.ReadTimeout):
            impatient.get(f"http://{client.http_address}/model?number=1")
        until(lambda: backend(client, "model")["stats"]["dropped"] == 1, "the query to be dropped")
        assert backend(client, "model")["queued"] == 0
    assert first.result().status_code == 200
    assert journal.entries() == [["0"]]


def test_a_header_that_is_too_large_is_refused(client: serve.Client) -> None:
    def model(request: Any) -> int:
        return 0

    deploy(client, "model", model)
    assert ask(client, "/model", headers={"X-Large": "x" * (4 << 20)}).status_code in (400, 431)
    assert ask(client, "/model").status_code == 200


def test_a_caller_that_closes_its_half_of_the_connection_is_not_told_that_all_is_well(
    client: serve.Client, gate: Gate, journal: Journal
) -> None:
    def model(request: Any) -> str:
        journal.add(1)
        gate.wait()
        return "the answer"

    deploy(client, "model", model)
    host, _, port = client.http_address.rpartition(":")
    with gate.closed(), socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"GET /model HTTP/1.1\r\nHost: x\r\n\r\n")
        until(journal.entries, "the query to be computed")
        connection.shutdown(socket.SHUT_WR)
        said = b"".join(iter(lambda: connection.recv(4096), b""))
    assert b" 200 " not in said
