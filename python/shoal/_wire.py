"""Frames, as docs/protocol.md describes them; the mirror of internal/wire in Go."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from struct import Struct
from typing import Any, TypeAlias

Bytes: TypeAlias = bytes | bytearray | memoryview

INIT, READY, FAILED, BATCH, RESULT, ERROR = 1, 2, 3, 4, 5, 6
ARRAYS, ANSWERS, SHARED, KEEP, FREE = 7, 8, 9, 10, 11
PING, PONG = 14, 15
QUERY, ANSWER, CANCEL, GOODBYE = 16, 17, 18, 19

JSON, TEXT, BYTES, RESPONSE, FAULT, PICKLE = 1, 2, 3, 4, 5, 6
"""Codes of an answer. FAULT is the protocol's "error" answer."""

WEB, API = 1, 2
"""Origins of a batch."""

MUST_CLAIM = 1
"""Flag of a batch that was sent ahead: the worker claims it before it begins."""
HAS_REQUESTS = 2
"""Flag of an ARRAYS frame in which the requests come along."""

PROTOCOL = 2
LIMIT = 1 << 30

U32 = Struct("<I")
PREFIX = Struct("<IB")  # length, kind
BATCH_HEAD = Struct("<xBBHIQ")  # kind (skipped), origin, flags, method length, count, id
RESULT_HEAD = Struct("<IBQI")  # length, kind, id, count
QUERY_HEAD = Struct("<IBI")  # length, kind, count
QUERY_COMMON = Struct("<IHHHHIb")  # timeout, lengths of endpoint, method, shard key, caller, head; priority
REF_ID = Struct("<IBQ")  # length, kind, id
SHARED_HEAD = Struct("<xQBQQQQ")  # kind (skipped), id, flags, offset, length, answer offset, answer room
SHARED_ANSWER = Struct("<IBQQ")  # length, kind, id, length of the answer
ALIGNMENT = 64  # of arrays within a frame

_SCRATCH = 256 << 10
# Up to here joining a frame's parts costs less than a system call for each of them.
_JOIN = 1 << 20


class ProtocolError(ConnectionError):
    """The other side broke the protocol, or went away in the middle of a frame."""


class FrameReader:
    """Splits what a blocking stream socket brings into frames.

    Each frame is a fresh bytearray of kind and body: buffers inside it may be handed out without copying,
    and stay writable.
    """

    def __init__(self, sock: socket.socket, limit: int = LIMIT) -> None:
        self._recv_into = sock.recv_into
        self._limit = limit
        self._buffer = bytearray(_SCRATCH)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0

    def read(self) -> bytearray | None:
        """The next frame; None at the end of the stream. Raises ProtocolError, OSError."""
        while True:
            frame = self._next()
            if frame is not None:
                return frame
            if not self._fill():
                return None

    def _next(self) -> bytearray | None:
        start = self._start + 4
        have = self._end - start
        if have < 0:
            return None
        length: int = U32.unpack_from(self._buffer, start - 4)[0]
        if not 0 < length <= self._limit:
            raise ProtocolError(f"a frame of {length} bytes (the limit is {self._limit})")
        if length <= have:
            self._start = start + length
            return self._buffer[start : start + length]
        if length + 4 <= _SCRATCH:
            return None
        return self._read_large(start, have, length)

    def _read_large(self, start: int, have: int, length: int) -> bytearray:
        frame = bytearray(length)
        frame[:have] = self._view[start : start + have]
        self._start = self._end = 0
        rest = memoryview(frame)[have:]
        while rest:
            n = self._recv_into(rest)
            if not n:
                raise ProtocolError("the stream ended in the middle of a frame")
            rest = rest[n:]
        return frame

    def _fill(self) -> bool:
        if self._start:
            have = self._end - self._start
            self._view[:have] = self._view[self._start : self._end]
            self._start, self._end = 0, have
        n = self._recv_into(self._view[self._end :])
        if not n and self._end:
            raise ProtocolError("the stream ended in the middle of a frame")
        self._end += n
        return n > 0


def json_frame(kind: int, body: Any) -> bytes:
    """A frame whose body is one JSON object."""
    text = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
    return PREFIX.pack(1 + len(text), kind) + text


def send_parts(sock: socket.socket, parts: Sequence[Bytes], total: int) -> None:
    """Send the parts of one frame (total bytes): in one call, unless joining them would cost more."""
    if total <= _JOIN:
        sock.sendall(b"".join(parts))
        return
    small: list[Bytes] = []
    for part in parts:
        if len(part) < _SCRATCH:
            small.append(part)
            continue
        sock.sendall(b"".join(small))
        small.clear()
        sock.sendall(part)
    sock.sendall(b"".join(small))
