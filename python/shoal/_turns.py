"""Whose turn it is to read from a connection.

Whoever waits for an answer reads it, and those of others that come before it: an answer that another thread
reads and passes on costs two switches between threads, and in Python these cost more than all else about a
query. One thread reads at a time. Others who wait stand in line, and the next of them goes on when the first
has what it waited for. A thread in the background reads while nobody waits, and keeps out of the way while
somebody does.
"""

from __future__ import annotations

import queue
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ._ref import Latch, Ref, hang_all, is_pending, unhang

# How long the background thread keeps out of the way before it looks whether others still read.
_NAP = 0.002


class Turns:
    """The turns on one socket. receive takes in what has arrived, and never blocks.

    tidy is called now and then while others read, to send what nobody has sent. over is set by the owner when
    nothing more will come.
    """

    def __init__(self, sock: socket.socket, receive: Callable[[], None], tidy: Callable[[], None]) -> None:
        self._sock = sock
        self._receive = receive
        self._tidy = tidy
        self._turn = threading.Lock()  # held by whoever reads
        self._poller = _poller(sock)  # used by whoever reads
        self._line: deque[Latch] = deque()
        self._taken = 0  # turns so far
        self._bell: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._asleep = False  # the background thread waits for the bell
        self.napping = False
        """The background thread will call tidy soon."""
        self.over = False

    def start(self) -> None:
        """Start the background thread. It closes the socket when it is over."""
        threading.Thread(target=self._background, name="shoal-link", daemon=True).start()

    def wait(self, refs: Sequence[Ref[Any]], count: int, deadline: float | None) -> bool:
        """Return when count of refs are answered; False at the deadline."""
        if count == len(refs) and self._turn.acquire(blocking=False):
            # The usual case, without a latch.
            try:
                for ref in refs:
                    while is_pending(ref) and not self.over:
                        if not self._read(deadline):
                            return False
            finally:
                self._end_turn()
            refs = [ref for ref in refs if is_pending(ref)]
            count = len(refs)
            if not count:
                return True
        latch = Latch(count)
        try:
            return not hang_all(refs, latch) or self.wait_latch(latch, deadline)
        finally:
            unhang(refs, latch)

    def wait_latch(self, latch: Latch, deadline: float | None) -> bool:
        """Return when a latch is open; False at the deadline."""
        self._line.append(latch)
        try:
            while latch.count > 0:
                # First in the line, then this: whoever ends a turn does it the other way round.
                if not self.over and self._turn.acquire(blocking=False):
                    try:
                        while latch.count > 0 and not self.over:
                            if not self._read(deadline):
                                return False
                    finally:
                        self._end_turn()
                elif not latch.wait(deadline):
                    return latch.count <= 0
                elif latch.count > 0:
                    self._line.append(latch)  # it was taken out to have a turn
            return True
        finally:
            if latch in self._line:
                self._line.remove(latch)
            self._pass_on()  # it may have been given a turn that it did not take

    def attend(self) -> None:
        """Somebody waits who does not read."""
        if self.napping or self._asleep:
            self._bell.put(True)

    def _read(self, deadline: float | None) -> bool:
        """Wait until something has arrived and take it in; False at the deadline."""
        if deadline is None:
            self._poller.poll()
        else:
            left = deadline - time.monotonic()
            if not self._poller.poll(max(0.0, 1000 * left)) and left <= 0:
                return False
        self._receive()
        return True

    def _end_turn(self) -> None:
        self._taken += 1
        self._turn.release()
        if self._line or self._asleep:
            self._pass_on()

    def _pass_on(self) -> None:
        """If nobody reads, let the next in the line do it, or the background thread."""
        while self._line and not self._turn.locked():
            try:
                latch = self._line.popleft()
            except IndexError:  # another thread took the last one
                break
            if latch.wake():
                return
        if self._asleep and not self._turn.locked():
            self._bell.put(True)

    def _background(self) -> None:
        poller = _poller(self._sock)
        while not self.over:
            poller.poll()
            if self._turn.acquire(blocking=False):
                try:
                    if not self.over:
                        self._receive()
                finally:
                    self._turn.release()
                    self._pass_on()
            else:
                self._keep_away()
        with self._turn:
            self._sock.close()

    def _keep_away(self) -> None:
        """Return when others have stopped reading."""
        self.napping = True
        while not self.over:
            taken = self._taken
            if self._rings(_NAP):
                break
            self._tidy()
            if self._taken == taken:
                if not self._turn.locked():
                    break
                self._sleep()
        self.napping = False
        self._tidy()

    def _sleep(self) -> None:
        """Somebody reads and gets nothing: wait for the end of that turn."""
        self.napping = False
        self._tidy()
        self._asleep = True
        if self._turn.locked():
            self._bell.get()
        self._asleep = False
        self.napping = True

    def _rings(self, timeout: float) -> bool:
        try:
            return self._bell.get(timeout=timeout)
        except queue.Empty:
            return False

    def end(self) -> None:
        """Nothing more will come; whoever waits has been told."""
        self.over = True
        self._bell.put(True)


def _poller(sock: socket.socket) -> select.poll:
    poller = select.poll()
    poller.register(sock.fileno(), select.POLLIN)
    return poller
