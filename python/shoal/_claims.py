"""Batches that were sent ahead: which of them are still this worker's to compute."""

from __future__ import annotations

import os
import threading

from ._wire import ProtocolError


class Claims:
    """The worker's end of a pipe that the server reads too: who reads a batch's id has the batch.

    The server writes the id when it sends the batch, and reads it again when another replica could compute
    the batch sooner. So neither side has to ask the other. Safe in threads.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._read: set[int] = set()  # claimed for batches whose turn comes later

    def take(self, batch_id: int) -> bool:
        """Whether the batch is this worker's; False when the server took it back."""
        with self._lock:
            while batch_id not in self._read:
                try:
                    token = os.read(self._fd, 8)
                except BlockingIOError:
                    return False
                if len(token) != 8:
                    raise ProtocolError("the pipe of claims ended")
                self._read.add(int.from_bytes(token, "little"))
            self._read.remove(batch_id)
            return True
