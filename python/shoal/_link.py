"""The link: one connection that carries all queries of a client's handles, and their answers in any order.

A query leaves at once when nothing else is under way. Otherwise queries gather and leave together: when
somebody waits for an answer, when answers come in, when _GATHER of them are there, or when a thread in the
background finds the time. At most WINDOW queries are with the server; the rest wait here, so that a loop of
100,000 calls of remote fills this process's memory and not the server's queue.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import socket
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from . import _wire
from ._address import Address
from ._admin import problem
from ._errors import Draining, Error, Unavailable, from_object
from ._inbox import Inbox
from ._pickling import loads
from ._ref import Latch, Ref, resolve_error, resolve_raw
from ._turns import Turns
from ._wire import ANSWER_HEAD, QUERY_HEAD, REF_ID, U32, ProtocolError

WINDOW = 1024
_GATHER = 32
_CHUNK = 256 << 10
_QUERY_SIZE = QUERY_HEAD.size - U32.size


class Link:
    """An open link. Its threads in the background, which send and read, end with the connection."""

    def __init__(self, sock: socket.socket, early: bytes = b"") -> None:
        """Take over a socket on which the server has answered 101; early is what it sent after that."""
        sock.settimeout(None)
        self._sock = sock
        self._inbox = Inbox(early)
        self._ids = itertools.count(1)
        self._open: dict[int, Ref[Any]] = {}  # every query without an answer, sent or not
        self._outbox: deque[tuple[int, bytes]] = deque()  # frames not sent; 0 for those that are no query
        self._sent: set[int] = set()  # queries that the server has, as far as it has not answered
        self._unsent = memoryview(b"")  # the rest of a frame that did not fit into the socket's buffer
        self._sending = threading.Lock()
        self._bell: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._rung = False
        self._refusal: Callable[[], Error] | None = None
        self._lost = False
        self._turns = Turns(sock, self._receive, self.flush)
        if early:
            self._take(self._inbox.frames())
        self._turns.start()
        threading.Thread(target=self._send_loop, name="shoal-link", daemon=True).start()
        _links.add(self)

    def submit(
        self, names: bytes, sizes: tuple[int, int, int], timeout: int, head: bytes, payload: bytes
    ) -> Ref[Any]:
        """Send a query: the endpoint's, method's and shard key's names joined, with their sizes.

        Never blocks and never raises; a link that is lost gives refs that failed.
        """
        ref_id = next(self._ids)
        ref: Ref[Any] = Ref(self, ref_id)
        size = _QUERY_SIZE + len(names) + len(head) + len(payload)
        prefix = QUERY_HEAD.pack(size, _wire.QUERY, ref_id, timeout, *sizes, len(head))
        frame = b"".join((prefix, names, head, payload))
        idle = not self._open
        self._open[ref_id] = ref
        self._outbox.append((ref_id, frame))
        # Checked after the ref is in _open: either the reader's last sweep sees it, or this does.
        if self._refusal is not None:
            self._refuse(ref)
        elif idle or len(self._outbox) == _GATHER:
            self.flush()
        elif not self._turns.napping:
            self._ring()
        return ref

    def wait(self, refs: Sequence[Ref[Any]], count: int, deadline: float | None) -> bool:
        """Wait until count of refs have their answers; False at the deadline, a time.monotonic()."""
        self.flush()
        return self._turns.wait(refs, count, deadline)

    def wait_latch(self, latch: Latch) -> None:
        """Wait until a latch is open, or the link is lost or was given a turn."""
        self.flush()
        self._turns.wait_latch(latch, None)

    def wait_aside(self) -> None:
        """Somebody waits without calling wait."""
        self.flush()
        self._turns.attend()

    def flush(self) -> None:
        """Send what has gathered, as far as it goes without blocking."""
        if not self._outbox and not self._unsent:
            return
        if self._sending.acquire(blocking=False):
            try:
                done = self._send(wait=False)
            finally:
                self._sending.release()
            if done:
                return
        # Somebody else sends, perhaps without having seen the last frame, or the socket is full.
        self._ring()

    def cancel(self, ref: Ref[Any]) -> bool:
        """Forget a query and tell the server; False when its answer came first."""
        if self._open.pop(ref._id, None) is None:
            return False
        if ref._id in self._sent:
            self._sent.discard(ref._id)
            # In front of queries that wait for room: this makes some.
            self._outbox.appendleft((0, REF_ID.pack(9, _wire.CANCEL, ref._id)))
            self._ring()
        return True

    def decode(self, raw: bytearray) -> Any:
        """The value of an ANSWER frame; raises the error it holds."""
        _, code = ANSWER_HEAD.unpack_from(raw)
        return decode_answer(code, memoryview(raw)[10:])

    def close(self) -> None:
        """Close the connection; whoever still waits gets Unavailable."""
        self._lose("this client was shut down")

    @property
    def usable(self) -> bool:
        """Whether a query that is submitted now has a chance."""
        return not self._lost

    def _ring(self) -> None:
        if not self._rung:
            self._rung = True
            self._bell.put(True)

    def _send_loop(self) -> None:
        while self._bell.get():
            self._rung = False  # before looking: whoever adds a frame after this rings again
            with self._sending:
                self._send(wait=True)

    def _send(self, wait: bool) -> bool:
        """Send as much as the window allows; the sending lock is held. False when the socket is full."""
        flags = 0 if wait else socket.MSG_DONTWAIT
        while not self._lost:
            data = self._unsent or memoryview(self._next_chunk())
            if not data:
                return True
            try:
                sent = self._sock.send(data, flags)
            except BlockingIOError:
                sent = 0
            except OSError:  # the reader sees it too, and tells everybody
                return True
            except BaseException:  # Ctrl-C, and nobody knows what was sent
                self._lose("the connection was given up: the program was interrupted while it sent a query")
                raise
            self._unsent = data[sent:]
            if self._unsent and not wait:
                return False
        return True

    def _next_chunk(self) -> bytes:
        """Frames that may leave now, joined."""
        outbox, sent = self._outbox, self._sent
        frames: list[bytes] = []
        size = 0
        while size < _CHUNK:
            try:
                item = outbox.popleft()
            except IndexError:
                break
            ref_id, frame = item
            if ref_id:
                if len(sent) >= WINDOW:
                    outbox.appendleft(item)
                    break
                # First into sent, then the look at open: cancel does it the other way round.
                sent.add(ref_id)
                if ref_id not in self._open:
                    sent.discard(ref_id)
                    continue
            frames.append(frame)
            size += len(frame)
        return frames[0] if len(frames) == 1 else b"".join(frames)

    def _receive(self) -> None:
        """Take in what has arrived, without waiting. Whoever calls this has the turn."""
        try:
            if self._inbox.fill(self._sock):
                self._take(self._inbox.frames())
            else:
                self._lose("the server closed the connection")
        except BlockingIOError:
            pass  # nothing has arrived
        except (OSError, ProtocolError) as exc:
            self._lose(f"the connection to the server broke: {exc}")
        except BaseException:  # Ctrl-C, and nobody knows which answers were taken in
            self._lose("the connection was given up: the program was interrupted while it read answers")
            raise

    def _take(self, frames: list[bytearray]) -> None:
        answers: list[tuple[Ref[Any], Any]] = []
        for frame in frames:
            if frame[0] == _wire.ANSWER:
                ref_id = ANSWER_HEAD.unpack_from(frame)[0]
                self._sent.discard(ref_id)
                ref = self._open.pop(ref_id, None)
                if ref is not None:
                    answers.append((ref, frame))
            elif frame[0] == _wire.GOODBYE:
                self._drain(json.loads(frame[1:]).get("reason") or "the server is stopping")
            else:
                raise ProtocolError(f"a frame of kind {frame[0]} on the link")
        resolve_raw(answers)
        if self._outbox:
            self.flush()

    def _drain(self, reason: str) -> None:
        """The server takes no more: what was not sent is refused here, what was sent is answered."""
        self._refusal = lambda: Draining(reason)
        refs = []
        while self._outbox:
            try:
                ref = self._open.pop(self._outbox.popleft()[0], None)
            except IndexError:  # the sender took the last one
                break
            if ref is not None:
                refs.append(ref)
        resolve_error(refs, self._refusal)

    def _refuse(self, ref: Ref[Any]) -> None:
        if self._refusal is not None and self._open.pop(ref._id, None) is not None:
            resolve_error([ref], self._refusal)

    def _lose(self, why: str) -> None:
        """The connection is of no use any more."""
        if self._lost:
            return
        self._fail(why)
        self._bell.put(False)
        self._turns.end()
        try:
            self._sock.shutdown(socket.SHUT_RDWR)  # ends whatever still waits on it
        except OSError:
            pass

    def _fail(self, why: str) -> None:
        """No answer will come any more."""
        self._refusal = lambda: Unavailable(why)
        self._lost = True
        self._outbox.clear()
        refs = []
        while self._open:
            try:
                refs.append(self._open.popitem()[1])
            except KeyError:  # somebody else took the last one
                break
        resolve_error(refs, self._refusal)

    def _abandon(self) -> None:
        """In a forked child: the connection belongs to the parent, and there are no threads."""
        self._sending = threading.Lock()
        self._bell = queue.SimpleQueue()
        # Not _lose: what it does to the connection would be done to the parent's too.
        self._fail("the connection belongs to the process before the fork")
        self._sock.close()


_links: weakref.WeakSet[Link] = weakref.WeakSet()


def _after_fork() -> None:
    for link in list(_links):
        link._abandon()


os.register_at_fork(after_in_child=_after_fork)


def decode_answer(code: int, payload: memoryview) -> Any:
    """The value of one answer; raises the exception that it stands for."""
    if code == _wire.PICKLE:
        count: int = U32.unpack_from(payload)[0]
        if not count:
            return loads(payload[4:])
        sizes = [U32.unpack_from(payload, 4 + 4 * i)[0] for i in range(count)]
        return loads(payload[4 + 4 * count :], sizes)
    if code == _wire.FAULT:
        (size,) = U32.unpack_from(payload)
        raise from_object(json.loads(bytes(payload[4 : 4 + size])), payload[4 + size :])
    if code == _wire.JSON:
        return json.loads(bytes(payload))
    if code == _wire.TEXT:
        return bytes(payload).decode()
    if code == _wire.BYTES:
        return bytes(payload)
    raise ProtocolError(f"an answer with code {code}")


def open_link(address: Address, headers: dict[str, str]) -> Link:
    """Connect to a server and upgrade the connection. Raises typed errors; Unavailable without a server."""
    lines = [
        "GET /v1/link HTTP/1.1",
        f"Host: {address.authority}",
        "Connection: Upgrade",
        "Upgrade: shoal-link/1",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    sock = None
    try:
        sock = address.open()
        sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        early = _read_upgrade(sock)
    except OSError as exc:
        if sock is not None:
            sock.close()
        raise Unavailable(f"no shoal server at {address}: {exc}") from exc
    except BaseException:
        if sock is not None:
            sock.close()
        raise
    return Link(sock, early)


def _read_upgrade(sock: socket.socket) -> bytes:
    """Read the answer to the upgrade; returns what came after it. Raises what the server refused with."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(sock)
    head, _, rest = data.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status = status_line.split(" ")[1] if " " in status_line else ""
    if status == "101":
        return rest
    length = int(fields.get("content-length") or 0)
    while len(rest) < length:
        rest += _more(sock)
    raise problem(int(status) if status.isdigit() else 500, rest)


def _more(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    if not data:
        raise ConnectionError("the server closed the connection")
    return data
