"""Batches that nobody waits for any more."""

from __future__ import annotations

import os
import threading

_MOST = 512  # ids that are read at once


class Cancels:
    """The worker's end of a pipe into which the server writes the ids of batches that every caller has left.

    It is read when a model asks: the thread that computes is often the one that reads the socket. Safe in
    threads.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._ids: dict[int, None] = {}  # the newest last

    def has(self, batch_id: int) -> bool:
        """Whether every caller of the batch has left."""
        with self._lock:
            while True:
                try:
                    read = os.read(self._fd, 8 * _MOST)
                except BlockingIOError:
                    break
                for at in range(0, len(read), 8):
                    self._ids[int.from_bytes(read[at : at + 8], "little")] = None
                if len(read) < 8 * _MOST:
                    break
            while len(self._ids) > 8 * _MOST:  # batches that ended long ago
                del self._ids[next(iter(self._ids))]
            return batch_id in self._ids
