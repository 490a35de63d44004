"""A plain socket that leads through a TLS connection.

Links read and write from different threads and without waiting, which a TLS connection does not allow. One
thread carries bytes between the two; it ends with either side.
"""

from __future__ import annotations

import selectors
import socket
import threading
from typing import Any

_CHUNK = 256 << 10


def tunnel(secure: Any) -> socket.socket:
    """Take over an ssl.SSLSocket; returns a socket whose bytes go through it."""
    ours, theirs = socket.socketpair()
    secure.setblocking(False)
    ours.setblocking(False)
    carrier = threading.Thread(target=_carry, args=(secure, ours), name="shoal-tls", daemon=True)
    carrier.start()
    return theirs


def _carry(secure: Any, plain: socket.socket) -> None:
    up, down = bytearray(), bytearray()  # to the server, to the client
    with secure, plain, selectors.DefaultSelector() as ready:
        ready.register(secure, selectors.EVENT_READ)
        ready.register(plain, selectors.EVENT_READ)
        try:
            while True:
                while _step(secure, plain, up, down):
                    pass
                _watch(ready, secure, len(down) < _CHUNK, bool(up))
                _watch(ready, plain, len(up) < _CHUNK, bool(down))
                ready.select()
        except OSError:  # one side is gone, and so is the other when this returns
            pass


def _step(secure: Any, plain: socket.socket, up: bytearray, down: bytearray) -> bool:
    """Do what is possible without waiting; whether anything was."""
    moved = False
    for read, write, pending in ((secure, plain, down), (plain, secure, up)):
        if len(pending) < _CHUNK:
            data = _try(read.recv, _CHUNK)
            if data == b"":
                raise ConnectionError("one side has ended")
            if data:
                pending += data
                moved = True
        if pending:
            sent = _try(write.send, bytes(pending))
            if sent:
                del pending[:sent]
                moved = True
    return moved


def _try(call: Any, argument: Any) -> Any:
    """What a call returns that does not wait; None where it would have to."""
    import ssl

    try:
        return call(argument)
    except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return None


def _watch(ready: selectors.BaseSelector, sock: Any, read: bool, write: bool) -> None:
    events = (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if write else 0)
    key = ready.get_map().get(sock)
    if key is None and events:
        ready.register(sock, events)
    elif key is not None and not events:
        ready.unregister(sock)  # the selector takes no empty mask
    elif key is not None and key.events != events:
        ready.modify(sock, events)
