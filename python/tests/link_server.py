"""The server's side of the admin API and of the link, for tests: in this process, on a Unix socket."""

from __future__ import annotations

import json
import pickle
import queue
import socket
import struct
import threading
from typing import Any, NamedTuple

from shoal import _wire


class Query(NamedTuple):
    id: int
    timeout: int
    priority: int
    endpoint: str
    method: str
    key: str
    caller: str
    head: dict[str, Any]
    data: Any
    kwargs: dict[str, Any]


class LinkServer:
    """answer(query) gives a value to pickle, an Exception for an error answer, or WITHHELD for none.

    calls has every admin call (method, path, body); replies maps "METHOD /path" to (status, JSON).
    """

    WITHHELD = object()

    def __init__(self, path) -> None:
        self.address = f"unix:{path}"
        self.answer = lambda query: query.kwargs.get("number", 0) + 1
        self.calls: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.replies: dict[str, tuple[int, Any]] = {
            "GET /v1/status": (200, {"version": "test", "ready": True, "http_address": "127.0.0.1:1"}),
            "GET /v1/endpoints/adder": (200, {"name": "adder", "traffic": {"adder:v0": 1.0}}),
            "POST /v1/artifacts": (201, {"digest": "sha256:abc", "size": 1}),
        }
        self.queries: queue.Queue[Query] = queue.Queue()
        self.cancelled: queue.Queue[int] = queue.Queue()
        self.links: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._lock = threading.Lock()

    def __enter__(self) -> LinkServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self.links:
            link.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += sock.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        self.headers.append(headers)
        while len(body) < int(headers.get("content-length", 0)):
            body += sock.recv(65536)
        if headers.get("upgrade") == "shoal-link/3" and "GET /v1/link" not in self.replies:
            assert path == "/v1/link"
            sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n")
            self.links.append(sock)
            self._link(sock)
            return
        is_json = headers.get("content-type") == "application/json"
        self.calls.append((method, path, json.loads(body) if is_json else body))
        status, reply = self.replies.get(f"{method} {path.partition('?')[0]}", (200, {}))
        text = json.dumps(reply).encode() if reply is not None else b""
        sock.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
        sock.close()

    def _link(self, sock: socket.socket) -> None:
        reader = _wire.FrameReader(sock)
        try:
            while (frame := reader.read()) is not None:
                if frame[0] == _wire.CANCEL:
                    self.cancelled.put(struct.unpack_from("<xQ", frame)[0])
                    continue
                for query in parse_queries(frame):
                    self.queries.put(query)
                    answer = self.answer(query)
                    if answer is not self.WITHHELD:
                        self.send(query.id, answer, sock)
        except (OSError, _wire.ProtocolError):
            pass

    def send(self, ref_id: int, answer: Any, sock: socket.socket | None = None) -> None:
        """Answer a query that was withheld."""
        if isinstance(answer, dict) and "fault" in answer:
            text = json.dumps(answer["fault"]).encode()
            code, payload = 5, struct.pack("<I", len(text)) + text + answer.get("pickle", b"")
        else:
            buffers: list[pickle.PickleBuffer] = []
            data = pickle.dumps(answer, 5, buffer_callback=buffers.append)
            raws = [b.raw() for b in buffers]
            sizes = struct.pack(f"<{1 + len(raws)}I", len(raws), *map(len, raws))
            code, payload = 6, b"".join([sizes, data, *raws])
        head = struct.pack("<BIQBI", _wire.ANSWER, 1, ref_id, code, len(payload))
        self.send_frame(head + payload, sock)

    def send_frame(self, frame: bytes, sock: socket.socket | None = None) -> None:
        with self._lock:
            (sock or self.links[-1]).sendall(struct.pack("<I", len(frame)) + frame)


def parse_queries(frame: bytearray) -> list[Query]:
    assert frame[0] == _wire.QUERY
    count, timeout, *sizes, priority = struct.unpack_from("<xIIHHHHIb", frame)
    at = struct.calcsize("<xIIHHHHIb")
    parts = []
    for size in sizes:
        parts.append(bytes(frame[at : at + size]))
        at += size
    head = json.loads(parts[4]) if parts[4] else {}
    names = [part.decode() for part in parts[:4]]
    each = struct.unpack_from(f"<{count}Q{count}I", frame, at)
    at += 12 * count
    queries = []
    for ref_id, size in zip(each[:count], each[count:], strict=True):
        data, kwargs = parse_call(memoryview(frame)[at : at + size], head.get("buffers", []))
        queries.append(Query(ref_id, timeout, priority, *names, head, data, kwargs))
        at += size
    assert at == len(frame)
    return queries


def parse_call(payload: memoryview, sizes: list[int]) -> Any:
    end = len(payload) - sum(sizes)
    buffers, at = [], end
    for size in sizes:
        buffers.append(payload[at : at + size])
        at += size
    return pickle.loads(payload[:end], buffers=buffers)


def fault(kind: str, message: str = "no", pickled: bytes = b"", **more: Any) -> dict[str, Any]:
    error = {"type": kind, "message": message, "traceback": "", "status": 500, "headers": {}, **more}
    return {"fault": error, "pickle": pickled}
