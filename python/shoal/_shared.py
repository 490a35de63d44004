"""Memory that the server shares with this worker; see "Shared memory" in docs/protocol.md."""

from __future__ import annotations

import mmap
import weakref
from collections import deque
from typing import Any

from ._wire import BATCH, FREE, KEEP, REF_ID, SHARED, SHARED_ANSWER, SHARED_HEAD, Bytes, ProtocolError

SHARED_FROM = 64 << 10
"""From this many bytes on an answer goes through shared memory, where its batch has room for it."""


class SharedMemory:
    """The mapping of the server's memfd, made when it is first needed."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._size = size
        self._view: memoryview | None = None

    def __getitem__(self, span: slice) -> memoryview:
        if self._view is None:
            self._view = memoryview(mmap.mmap(self._fd, self._size))
        if not 0 <= span.start <= span.stop <= self._size:
            raise ProtocolError(f"bytes {span.start} to {span.stop} of {self._size} that are shared")
        return self._view[span]


class Region:
    """The part of the shared memory that belongs to one batch, until it was answered."""

    __slots__ = ("id", "flags", "_memory", "_start", "_length", "_room", "_answer", "root")

    def __init__(self, frame: bytearray, memory: SharedMemory | None) -> None:
        """Raises ProtocolError. The memory is not looked at yet: the batch may have been called back."""
        if memory is None or len(frame) < SHARED_HEAD.size:
            raise ProtocolError("a SHARED frame that is cut short, or without shared memory")
        self.id, self.flags, self._start, self._length, self._answer, self._room = SHARED_HEAD.unpack_from(
            frame
        )
        self._memory = memory
        self.root: Any = None
        """The array that all arrays of the batch are views of, where they lie in this region."""

    def open(self, frame: bytearray) -> bytearray | memoryview:
        """The frame that the SHARED frame is about: a view for arrays, else a copy of its own."""
        if not self._length:
            return frame[SHARED_HEAD.size :]
        view = self._memory[self._start : self._start + self._length]
        # What is unpickled out of a frame, or sliced from a request, may outlive the batch.
        return bytearray(view) if view[0] == BATCH else view

    def put(self, parts: list[Bytes], total: int) -> bytes | None:
        """Write an answer's parts where the server looks for it; None when they do not fit or are few.

        Returns the frame that tells the server. Parts begin with a frame's length, which stays away.
        """
        length = total - 4
        if length > self._room or length < SHARED_FROM:
            return None
        view = self._memory[self._answer : self._answer + length]
        first = memoryview(parts[0])[4:]
        at = len(first)
        view[:at] = first
        for part in parts[1:]:
            end = at + len(part)
            view[at:end] = part
            at = end
        return SHARED_ANSWER.pack(SHARED_ANSWER.size - 4, SHARED, self.id, length)


class Keeper:
    """Knows which regions the model still has arrays of, after their batch was answered."""

    def __init__(self) -> None:
        self._kept: dict[int, weakref.ref[Any]] = {}
        self._free: deque[int] = deque()  # appended to wherever the last array dies

    def settle(self, region: Region) -> bytes:
        """What is to be sent before the answer: a KEEP frame, or nothing."""
        if region.root is None:
            return b""
        # Nobody but the model can hold it now. Counts of references would depend on Python's version.
        ask = weakref.ref(region.root)
        region.root = None
        root = ask()
        if root is None:
            return b""
        batch_id = region.id
        self._kept[batch_id] = weakref.ref(root, lambda _: self._free.append(batch_id))
        return REF_ID.pack(REF_ID.size - 4, KEEP, batch_id)

    def freed(self) -> bytes:
        """FREE frames for what the model let go of since the last call."""
        frames = []
        while self._free:
            batch_id = self._free.popleft()
            del self._kept[batch_id]
            frames.append(REF_ID.pack(REF_ID.size - 4, FREE, batch_id))
        return b"".join(frames)
