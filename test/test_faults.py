"""Faults from end to end: poison queries, callers that hang up, computations that nobody waits for."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from harness import SHOAL, Process, ask, backend, deploy, problem, run, unanswered, until
from models import Gate, Journal

import shoal
from shoal import serve

WAYS = {
    "raise": "ValueError",
    "memory": "MemoryError",
    "exit": "WorkerDied",
    "kill": "WorkerDied",
    "segfault": "WorkerDied",
}


@pytest.fixture
def fragile(gate: Gate, journal: Journal) -> Callable[..., Any]:
    """A model that adds one, unless one query says how it is to fail."""

    @serve.accept_batch
    def fragile(requests: list[Any]) -> list[int]:
        journal.add([request.args["number"] for request in requests])
        gate.wait()
        for how in [request.args.get("how") for request in requests]:
            if how == "raise":
                raise ValueError("a bad query")
            if how == "memory":
                bytearray(1 << 62)
            elif how == "exit":
                os._exit(3)
            elif how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif how == "segfault":
                ctypes.string_at(0)
        return [int(request.args["number"]) + 1 for request in requests]

    return fragile


@pytest.mark.parametrize("how", WAYS)
def test_one_bad_query_among_many_fails_alone(
    client: serve.Client,
    pool: ThreadPoolExecutor,
    fragile: Callable[..., Any],
    gate: Gate,
    journal: Journal,
    how: str,
) -> None:
    deploy(client, "fragile", fragile, max_batch_size=8, num_replicas=2)
    guilty = 21
    with gate.closed():  # so that they wait, and leave in full batches
        path = [f"/fragile?number={n}" + f"&how={how}" * (n == guilty) for n in range(41)]
        asked = [pool.submit(ask, client, path[n]) for n in range(2)]
        until(lambda: len(journal.entries()) == 2, "both workers to be busy")
        asked += [pool.submit(ask, client, path[n]) for n in range(2, 41)]
        until(lambda: unanswered(client, "fragile") == 41, "all to be with the server")
    responses = [future.result() for future in asked]
    details = problem(responses.pop(guilty), 500, WAYS[how])
    if WAYS[how] == "WorkerDied":
        assert "ended while they computed it" in details["detail"]
        assert backend(client, "fragile")["restarts"] <= 4  # of a batch of 8
    assert [r.json() for r in responses] == [n + 1 for n in range(41) if n != guilty]
    stats = backend(client, "fragile")["stats"]
    assert (stats["isolated"], stats["failed"]) == (1, 1)
    assert any(str(guilty) in batch and len(batch) > 1 for batch in journal.entries())
    assert ask(client, "/fragile?number=1").json() == 2


@pytest.fixture
def slow(gate: Gate, journal: Journal) -> Callable[..., Any]:
    """A model that waits at the gate."""

    @serve.accept_batch
    def slow(requests: list[Any], *, number: Any = None) -> list[Any]:
        if serve.context.web:
            number = [int(request.args["number"]) for request in requests]
        journal.add(number)
        gate.wait()
        return list(number)

    return slow


def hanging(client: serve.Client, path: str) -> socket.socket:
    """A query over HTTP whose answer nobody reads yet."""
    host, _, port = client.http_address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return connection


def test_callers_that_hang_up_have_no_seat_when_the_batch_forms(
    client: serve.Client, slow: Callable[..., Any], gate: Gate, journal: Journal
) -> None:
    deploy(client, "slow", slow, max_batch_size=8, max_queued=6)
    with gate.closed():
        first = client.get_handle("slow").remote(number=0)
        until(journal.entries, "the first query to be computed")
        web = [hanging(client, f"/slow?number={n}") for n in range(1, 4)]
        program = (
            "import sys, time\nfrom shoal import serve\n"
            "handle = serve.connect(sys.argv[1]).get_handle('slow')\n"
            "refs = [handle.remote(number=n) for n in range(4, 7)]\ntime.sleep(600)\n"
        )
        with Process([sys.executable, "-c", program, client.address]) as other:
            until(lambda: backend(client, "slow")["queued"] == 6, f"all to wait {other.said}")
            with pytest.raises(shoal.QueueFull):
                client.get_handle("slow").remote(number=7).result(30)
            for connection in web[1:]:
                connection.close()
            until(lambda: backend(client, "slow")["queued"] == 4, "two clients to be gone")
            other.signal(signal.SIGKILL)
            until(lambda: backend(client, "slow")["queued"] == 1, "the program to be gone")
        last = client.get_handle("slow").remote(number=8)  # there is room again
        until(lambda: backend(client, "slow")["queued"] == 2, "the last query to wait")
    assert first.result(30) == 0
    assert last.result(30) == 8
    with web[0]:
        assert web[0].recv(4096).startswith(b"HTTP/1.1 200")
    assert sorted(journal.entries()) == [[0], [1], [8]]
    assert backend(client, "slow")["stats"]["dropped"] == 5


def test_a_batch_that_every_caller_left_is_told_and_counted(client: serve.Client, journal: Journal) -> None:
    @serve.accept_batch
    def endless(requests: list[Any]) -> list[int]:
        journal.add(sorted(request.args["number"] for request in requests))
        while not serve.context.cancelled:
            time.sleep(0.005)
        journal.add("cancelled")
        return [0] * len(requests)

    deploy(client, "endless", endless, max_batch_size=3, batch_wait_timeout="60s")
    connections = [hanging(client, f"/endless?number={n}") for n in range(3)]
    until(journal.entries, "the batch to be computed")
    for connection in connections[:2]:
        connection.close()
    time.sleep(0.2)  # should it be told too early, it most likely is by now
    assert journal.entries() == [["0", "1", "2"]]
    connections[2].close()
    until(lambda: journal.entries()[1:] == ["cancelled"], "the model to be told")
    until(lambda: unanswered(client, "endless") == 0, "the batch to end")
    line = next(
        line
        for line in ask(client, "/metrics").text.splitlines()
        if line.startswith("shoal_wasted_compute_seconds_total{")
    )
    assert 'backend="endless"' in line
    assert float(line.rpartition(" ")[2]) > 0


def test_a_timeout_of_remote_is_kept_by_the_server(
    client: serve.Client, slow: Callable[..., Any], gate: Gate, journal: Journal
) -> None:
    deploy(client, "slow", slow)
    handle = client.get_handle("slow")
    with gate.closed():
        first = handle.remote(number=0)
        until(journal.entries, "the first query to be computed")
        late = handle.remote(number=1, timeout=0.2)
        with pytest.raises(TimeoutError) as caught:
            late.result(30)
        assert isinstance(caught.value, shoal.DeadlineExceeded)
        until(lambda: unanswered(client, "slow") == 1, "it to leave the queue")
        patient = handle.options(timeout=0.01).remote(number=2, timeout=30)
        until(lambda: unanswered(client, "slow") == 2, "the other to wait")
    assert shoal.get([first, patient], timeout=30) == [0, 2]
    assert journal.entries() == [[0], [2]]


def test_a_models_own_timeout_is_reached_by_map_and_its_log_says_so(client: serve.Client) -> None:
    @serve.accept_batch
    def model(requests: list[Any], *, timeout: Any = None) -> list[Any]:
        return [None] * len(requests) if timeout is None else list(timeout)

    deploy(client, "model", model)
    handle = client.get_handle("model")
    assert handle.remote(timeout=20).result(30) is None
    assert list(handle.map([{"timeout": 7}])) == [7]
    logged = run([SHOAL, "logs", "--server", client.address, "model"])
    assert "has a parameter 'timeout'" in logged.said
