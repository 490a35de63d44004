"""Queries a second through a handle, alone: `python tests/bench_link.py [SECONDS]`. Not a test.

The server is a process that answers every query at once with the same small answer, so this measures the
client: pickling, the link's sending and gathering, refs, and decoding answers.
"""

from __future__ import annotations

import itertools
import pickle
import socket
import struct
import subprocess
import sys
import tempfile
import time

import shoal
from shoal import _address, _wire
from shoal._handle import Handle
from shoal._link import open_link

ANSWER = struct.pack("<I", 0) + pickle.dumps(42, 5)


def serve(path: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    sock, _ = listener.accept()
    sock.recv(65536)
    sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    reader = _wire.FrameReader(sock)
    payload = ANSWER
    while (frame := reader.read()) is not None:
        if frame[0] != _wire.QUERY:
            continue
        count = struct.unpack_from("<xI", frame)[0]
        at = 1 + 18 + sum(struct.unpack_from("<9xHHHI", frame))
        head = struct.pack("<IBI", 5 + count * (13 + len(payload)), _wire.ANSWER, count)
        codes, lengths = b"\x06" * count, struct.pack("<I", len(payload)) * count
        sock.sendall(b"".join([head, frame[at : at + 8 * count], codes, lengths, payload * count]))


def report(label: str, count: int, start: float, cpu: float) -> None:
    wall = time.perf_counter() - start
    used = time.process_time() - cpu
    print(f"{label}: {count / wall:,.0f} queries/s, {used / count * 1e6:.2f} us CPU of this process a query")


def main(seconds: float) -> None:
    path = tempfile.mkdtemp() + "/s"
    with subprocess.Popen([sys.executable, __file__, "--serve", path], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        link = open_link(_address.parse(f"unix:{path}"), {})
        handle = Handle("adder", lambda: link, lambda _: {})
        for width in (1, 8, 64, 1000):
            start, cpu, count = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() - start < seconds:
                shoal.get([handle.remote(number=i) for i in range(width)])
                count += width
            report(f"get of {width}", count, start, cpu)
        start, cpu, count = time.perf_counter(), time.process_time(), 0
        for _ in handle.map(itertools.count(), name="number"):
            count += 1
            if not count % 1000 and time.perf_counter() - start > seconds:
                break
        report("map", count, start, cpu)
        start, cpu, count = time.perf_counter(), time.process_time(), 100_000
        shoal.get([handle.remote(number=i) for i in range(count)])
        report("get of 100,000", count, start, cpu)
        server.kill()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
    else:
        main(float(sys.argv[1]) if len(sys.argv) > 1 else 2.0)
