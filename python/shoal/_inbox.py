"""What a socket brings, split into frames, without ever waiting for more of it."""

from __future__ import annotations

import socket

from ._wire import LIMIT, U32, ProtocolError

_ROOM = 256 << 10


class Inbox:
    """Splits a stream into frames. Each frame is a fresh bytearray of kind and body.

    So buffers inside a frame may be handed out without copying, and stay writable. early is what was read
    from the socket before.
    """

    def __init__(self, early: bytes = b"") -> None:
        self._buffer = bytearray(max(_ROOM, len(early)))
        self._view = memoryview(self._buffer)
        self._buffer[: len(early)] = early
        self._start, self._end = 0, len(early)
        # A frame that is too long for the buffer, and how much of it is there.
        self._large: bytearray | None = None
        self._have = 0

    def fill(self, sock: socket.socket) -> bool:
        """Receive once; False at the end of the stream.

        Raises BlockingIOError when nothing is there, ProtocolError at an end within a frame, and OSError.
        """
        if self._large is not None:
            with memoryview(self._large)[self._have :] as rest:
                n = sock.recv_into(rest, 0, socket.MSG_DONTWAIT)
            self._have += n
        else:
            if self._start:
                have = self._end - self._start
                self._view[:have] = self._view[self._start : self._end]
                self._start, self._end = 0, have
            n = sock.recv_into(self._view[self._end :], 0, socket.MSG_DONTWAIT)
            self._end += n
        if not n and (self._end or self._large is not None):
            raise ProtocolError("the stream ended in the middle of a frame")
        return n > 0

    def frames(self) -> list[bytearray]:
        """The frames that are complete. Raises ProtocolError."""
        found: list[bytearray] = []
        if self._large is not None:
            if self._have < len(self._large):
                return found
            found.append(self._large)
            self._large = None
        buffer, start, end = self._buffer, self._start, self._end
        while end - start >= 4:
            length: int = U32.unpack_from(buffer, start)[0]
            if not 0 < length <= LIMIT:
                raise ProtocolError(f"a frame of {length} bytes (the limit is {LIMIT})")
            start += 4
            if length > end - start:
                if length + 4 > _ROOM:
                    self._begin_large(length, start)
                    return found
                start -= 4
                break
            found.append(buffer[start : start + length])
            start += length
        self._start = start
        return found

    def _begin_large(self, length: int, start: int) -> None:
        self._large = bytearray(length)
        self._have = self._end - start
        self._large[: self._have] = self._view[start : self._end]
        self._start = self._end = 0
