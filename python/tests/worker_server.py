"""The server's side of the worker protocol, for tests: starts a real worker and speaks to it."""

from __future__ import annotations

import json
import mmap
import os
import pickle
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cloudpickle

from shoal import _wire
from shoal._errors import from_object

ROOT = Path(__file__).parent.parent


class Response:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body


class RemoteError(Exception):
    """An error answer: its JSON object, and the exception that came along (or stands for it)."""

    def __init__(self, error, pickled):
        super().__init__(f"{error['type']}: {error['message']}")
        self.error = error
        self.pickled = bytes(pickled)
        self.exception = from_object(error, pickled)


class WorkerServer:
    """One worker process. Use as a context manager."""

    def __init__(self, func_or_class=None, *args, tmp_path, source=None, env=None, shared=0, **init) -> None:
        if source is None:
            blob = tmp_path / "blob"
            blob.write_bytes(cloudpickle.dumps((func_or_class, args, init.pop("init_kwargs", {}))))
            source = {"kind": "pickle", "path": str(blob)}
        self.init = {
            "protocol": _wire.PROTOCOL,
            "backend": "adder:v1",
            "replica": 0,
            "source": source,
            "concurrency": 1,
            "max_batch_size": 1,
            "sys_path": [],
            "cwd": "",
            **init,
        }
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(20)
        fd = theirs.fileno()
        claims, self.claims = os.pipe()
        os.set_blocking(claims, False)
        cancels, self.cancels = os.pipe()
        os.set_blocking(cancels, False)
        inherited = [fd, claims, cancels]
        self.memory: Any = None
        self.room = (0, 0)
        self.kept: list[int] = []
        self.freed: list[int] = []
        if shared:
            inherited.append(os.memfd_create("shoal"))
            os.ftruncate(inherited[-1], shared)
            self.memory = mmap.mmap(inherited[-1], shared)
            self.init["shared"] = {"fd": inherited[-1], "size": shared}
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "shoal._worker"),
                *("--fd", str(fd), "--claims", str(claims), "--cancels", str(cancels)),
            ],
            pass_fds=inherited,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        )
        theirs.close()
        for memory in inherited[2:]:
            os.close(memory)
        self.unclaimed = claims
        self.reader = _wire.FrameReader(self.sock)
        self.next_id = 100
        self.lock = threading.Lock()

    def __enter__(self) -> WorkerServer:
        self.sock.sendall(_wire.json_frame(_wire.INIT, self.init))
        self.first = self.reader.read()
        return self

    def __exit__(self, *_: Any) -> None:
        self.sock.close()
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.communicate()
            os.close(self.claims)
            os.close(self.cancels)
            os.close(self.unclaimed)

    @property
    def ready(self) -> dict[str, Any]:
        assert self.first is not None
        assert self.first[0] == _wire.READY, bytes(self.first)
        return json.loads(self.first[1:])

    @property
    def failed(self) -> dict[str, Any]:
        assert self.first is not None
        assert self.first[0] == _wire.FAILED, bytes(self.first)
        return json.loads(self.first[1:])

    def finish(self) -> tuple[int, str, str]:
        """Close the connection; the worker's exit status, output and error output."""
        self.sock.close()
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err

    def web(self, *targets, method="", body=b"", headers=(), verb="GET"):
        """Answers of one web batch, a query for each target; errors are RemoteError instances."""
        heads = [
            "".join([f"{verb} {t}\nid-{i}\n", *(f"{k}: {v}\n" for k, v in headers)]).encode()
            for i, t in enumerate(targets)
        ]
        bodies = body if isinstance(body, list) else [body] * len(targets)
        return self.receive(self.send(1, list(zip(heads, bodies, strict=True)), method))

    def api(self, *calls, method="", options=None):
        """Answers of one api batch; each call is a dict of keywords or a tuple (data, keywords)."""
        items = []
        for call in calls:
            if isinstance(call, bytes):
                items.append((b"", call))
                continue
            call = call if isinstance(call, tuple) else (None, call)
            buffers: list[pickle.PickleBuffer] = []
            data = cloudpickle.dumps(call, 5, buffer_callback=buffers.append)
            raws = [b.raw() for b in buffers]
            head = dict(options or {})
            if raws:
                head["buffers"] = [len(r) for r in raws]
            items.append((json.dumps(head).encode() if head else b"", b"".join([data, *raws])))
        return self.receive(self.send(2, items, method))

    def json_api(self, *calls):
        head = b'{"encoding": "json"}'
        return self.receive(self.send(2, [(head, json.dumps(c).encode()) for c in calls]))

    def send_ahead(self, origin, items, offer=True) -> int:
        """Send a batch that the worker must claim; without an offer it cannot."""
        if offer:
            os.write(self.claims, struct.pack("<Q", self.next_id + 1))
        return self.send(origin, items, flags=_wire.MUST_CLAIM)

    def cancel(self, *batch_ids) -> None:
        """Tell the worker that every caller of the batches has left."""
        os.write(self.cancels, struct.pack(f"<{len(batch_ids)}Q", *batch_ids))

    def send(self, origin, items, method="", flags=0) -> int:
        self.next_id += 1
        name = method.encode(errors="surrogateescape")
        body = struct.pack("<BBHIQ", origin, flags, len(name), len(items), self.next_id)
        body += b"".join(struct.pack("<II", len(h), len(p)) for h, p in items)
        body += name + b"".join(h + p for h, p in items)
        self.sock.sendall(struct.pack("<IB", 1 + len(body), 4) + body)
        return self.next_id

    def arrays(self, inputs, method="", requests=None, at=None, room=(0, 0), api=False):
        """Answers of one batch of arrays; at is where it lies in shared memory, room where the answer may."""
        return self.receive(self.send_arrays(inputs, method, requests, at, room, api))

    def send_arrays(self, inputs, method="", requests=None, at=None, room=(0, 0), api=False) -> int:
        frame = self.arrays_frame(inputs, method, requests, api)
        if at is None and not room[1]:
            self.sock.sendall(struct.pack("<I", len(frame)) + frame)
        else:
            self.share(frame, at, room)
        return self.next_id

    def arrays_frame(self, inputs, method="", requests=None, api=False) -> bytes:
        """An ARRAYS frame from its kind on."""
        self.next_id += 1
        layout = json.dumps(
            [[k, v.dtype.str, v.shape] for k, v in inputs.items()], separators=(",", ":")
        ).encode()
        n = len(next(iter(inputs.values())))
        flags = 0 if requests is None else _wire.HAS_REQUESTS
        head = struct.pack("<BBBHIQI", 7, 1 + api, flags, len(method), n, self.next_id, len(layout))
        frame = bytearray(head + method.encode() + layout)
        if requests is not None:
            frame += b"".join(struct.pack("<II", len(h), len(p)) for h, p in requests)
            frame += b"".join(h + p for h, p in requests)
        for array in inputs.values():
            frame += bytes(-len(frame) % 64) + array.tobytes()
        return bytes(frame)

    def share(self, frame, at=None, room=(0, 0), flags=0) -> int:
        """Send a frame in shared memory at an offset or, without one, with room for its answer."""
        self.room = room
        inline = b""
        if at is None:
            at, length, inline = 0, 0, frame
        else:
            length = len(frame)
            self.memory[at : at + length] = frame
        body = struct.pack("<BQBQQQQ", 9, self.next_id, flags, at, length, *room) + inline
        self.sock.sendall(struct.pack("<I", len(body)) + body)
        return self.next_id

    def receive(self, expected_id=None):
        """The next answers; with several batches in flight use receive_any."""
        got, answers = self.receive_any()
        assert expected_id is None or got == expected_id
        return answers

    def receive_any(self):
        frame = self.reader.read()
        assert frame is not None, "the worker closed the connection"
        if frame[0] in (_wire.KEEP, _wire.FREE):
            (batch_id,) = struct.unpack_from("<xQ", frame)
            (self.kept if frame[0] == _wire.KEEP else self.freed).append(batch_id)
            return self.receive_any()
        self.answered_in_memory = frame[0] == _wire.SHARED
        if self.answered_in_memory:
            batch_id, length = struct.unpack("<xQQ", frame)
            assert length <= self.room[1]
            frame = bytearray(self.memory[self.room[0] : self.room[0] + length])
        if frame[0] == _wire.ANSWERS:
            return read_arrays(frame)
        if frame[0] == _wire.ERROR:
            (batch_id,) = struct.unpack_from("<xQ", frame)
            raise _remote_error(memoryview(frame)[9:])
        assert frame[0] == _wire.RESULT
        batch_id, count = struct.unpack_from("<xQI", frame)
        codes = frame[13 : 13 + count]
        lengths = struct.unpack_from(f"<{count}I", frame, 13 + count)
        at = 13 + 5 * count
        answers = []
        for code, length in zip(codes, lengths, strict=True):
            answers.append(decode(code, memoryview(frame)[at : at + length]))
            at += length
        assert at == len(frame)
        return batch_id, answers


def read_arrays(frame):
    """The batch id of an ANSWERS frame, and its array or dict of arrays."""
    import numpy as np

    batch_id, count, length = struct.unpack_from("<xQII", frame)
    at = 17 + length
    found = {}
    for name, typestr, shape in json.loads(frame[17:at]):
        assert shape[0] == count
        at += -at % 64
        array = np.frombuffer(frame, typestr, int(np.prod(shape)), at).reshape(shape)
        found[name] = array
        at += array.nbytes
    assert at == len(frame)
    return batch_id, found.get(None, found)


def _remote_error(payload):
    (size,) = struct.unpack_from("<I", payload)
    return RemoteError(json.loads(bytes(payload[4 : 4 + size])), payload[4 + size :])


def decode(code, payload):
    if code == 1:
        return json.loads(bytes(payload), parse_constant=_no_constant)
    if code == 2:
        return bytes(payload).decode()
    if code == 3:
        return bytes(payload)
    if code == 4:
        (size,) = struct.unpack_from("<I", payload)
        head = json.loads(bytes(payload[4 : 4 + size]))
        return Response(head["status"], dict(head["headers"]), bytes(payload[4 + size :]))
    if code == 5:
        return _remote_error(payload)
    assert code == 6
    (k,) = struct.unpack_from("<I", payload)
    sizes = struct.unpack_from(f"<{k}I", payload, 4)
    rest = payload[4 + 4 * k :]
    end = len(rest) - sum(sizes)
    buffers, at = [], end
    for size in sizes:
        buffers.append(rest[at : at + size])
        at += size
    return pickle.loads(rest[:end], buffers=buffers)


def _no_constant(name):
    raise AssertionError(f"{name} is not JSON")
