"""Items a second through one worker, alone: `python tests/bench_worker.py [SECONDS]`. Not a test.

32-item web batches of `GET /adder?number=N` against a numpy adder; two batches are kept in flight, so that
the worker never waits for this side.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from worker_server import WorkerServer

SIZE = 32


def adder(requests):
    numbers = np.array([int(request.args["number"]) for request in requests])
    return (numbers + 1).tolist()


adder._shoal_accept_batch = {}  # type: ignore[attr-defined]


def keyword_adder(requests, *, number=None):
    return (np.array(number) + 1).tolist()


keyword_adder._shoal_accept_batch = {}  # type: ignore[attr-defined]


def json_adder(requests):
    return (np.array([request.json["x"] for request in requests]) + 1).tolist()


json_adder._shoal_accept_batch = {}  # type: ignore[attr-defined]


def array_adder(x):
    return x + 1


array_adder._shoal_accept_batch = {}  # type: ignore[attr-defined]
array_adder._shoal_arrays = True  # type: ignore[attr-defined]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def measure(model, make_frame, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = WorkerServer(model, tmp_path=Path(folder), max_batch_size=SIZE)
        with server:
            assert server.ready
            frame = make_frame(server)
            reader = server.reader
            for _ in range(2):
                server.sock.sendall(frame)
            before = cpu_seconds(server.process.pid)
            start = time.perf_counter()
            batches = 0
            while time.perf_counter() - start < seconds:
                for _ in range(100):
                    assert reader.read()[0] in (5, 8)  # RESULT, ANSWERS
                    server.sock.sendall(frame)
                batches += 100
            wall = time.perf_counter() - start
            cpu = cpu_seconds(server.process.pid) - before
            items = batches * SIZE
            print(
                f"{model.__name__}: {items / wall:,.0f} items/s, {items / cpu:,.0f} items a CPU second "
                f"({cpu / items * 1e6:.2f} us an item)"
            )


def capture(server: WorkerServer, send) -> bytes:
    """The frame that send would write."""
    frames = []
    real = server.sock
    server.sock = type("Sink", (), {"sendall": lambda _, data: frames.append(data)})()
    try:
        send()
    finally:
        server.sock = real
    return frames[0]


def web_frame(server: WorkerServer) -> bytes:
    heads = "GET /adder?number=%d\nf3a9c1d2-%d\nAccept: */*\nHost: 127.0.0.1:8000\nUser-Agent: wrk\n"
    items = [((heads % (i, i)).encode(), b"") for i in range(SIZE)]
    return capture(server, lambda: server.send(1, items))


def json_frame(server: WorkerServer) -> bytes:
    head = "POST /adder\nf3a9c1d2-%d\nAccept: */*\nHost: 127.0.0.1:8000\nUser-Agent: wrk\n"
    head += "Content-Type: application/json\nContent-Length: 8\n"
    return capture(
        server, lambda: server.send(1, [((head % i).encode(), b'{"x":%d}' % i) for i in range(SIZE)])
    )


def array_frame(server: WorkerServer) -> bytes:
    return capture(server, lambda: server.send_arrays({"x": np.arange(SIZE)}))


def api_frame(server: WorkerServer) -> bytes:
    import pickle

    items = [(b"", pickle.dumps((None, {"number": i}), 5)) for i in range(SIZE)]
    return capture(server, lambda: server.send(2, items))


def api_array_frame(server: WorkerServer) -> bytes:
    import pickle

    items = [(b"", pickle.dumps((None, {"x": i}), 5)) for i in range(SIZE)]
    return capture(server, lambda: server.send(2, items))


if __name__ == "__main__":
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    measure(adder, web_frame, seconds)
    measure(keyword_adder, api_frame, seconds)
    measure(json_adder, json_frame, seconds)
    measure(array_adder, array_frame, seconds)
    measure(array_adder, api_array_frame, seconds)
