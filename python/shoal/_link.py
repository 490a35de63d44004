"""The link: one connection that carries all queries of a client's handles, and their answers in any order.

A query leaves at once when nothing else is under way. Otherwise queries gather and leave together: when
somebody waits for an answer, when answers come in, when _GATHER of them are there, or when a thread in the
background finds the time. At most WINDOW queries are with the server; the rest wait here, so that a loop of
100,000 calls of remote fills this process's memory and not the server's queue.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import pickle
import queue
import socket
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, TypeAlias

from . import _wire
from ._address import Address
from ._admin import problem
from ._errors import Draining, Error, Unavailable, from_object
from ._inbox import Inbox
from ._pickling import loads
from ._ref import Latch, Ref, resolve_error, resolve_raw
from ._tunnel import tunnel
from ._turns import Turns
from ._wire import LIMIT, QUERY_COMMON, QUERY_HEAD, REF_ID, U32, Bytes, ProtocolError

WINDOW = 1024
_GATHER = 32
_CHUNK = 64 << 10  # bytes from which a frame takes no more queries
_TOGETHER = 128  # the most queries that a frame takes
MOST = LIMIT - (1 << 20)  # bytes of a payload, so that its frame keeps within the limit

Query: TypeAlias = "tuple[int, Common | None, Bytes]"
"""Id, what it has in common with others, and payload; 0, None and a whole frame for what is no query."""


class Common:
    """What many queries have in common: all but their payloads."""

    __slots__ = ("packed",)

    def __init__(self, names: Sequence[bytes], timeout: int, priority: int, head: bytes) -> None:
        """Names are endpoint, method, shard key, caller; timeout is in milliseconds, 0 the backend's own."""
        sizes = *map(len, names), len(head)
        self.packed = QUERY_COMMON.pack(timeout, *sizes, priority) + b"".join(names) + head


def _query_frame(common: Common, ids: list[int], payloads: list[Bytes]) -> bytes:
    count, sizes = len(ids), list(map(len, payloads))
    each = _query_each(count)
    length = 5 + len(common.packed) + each.size + sum(sizes)
    head = QUERY_HEAD.pack(length, _wire.QUERY, count)
    return b"".join((head, common.packed, each.pack(*ids, *sizes), *payloads))


@functools.cache
def _query_each(count: int) -> Struct:
    """The ids and lengths of so many queries."""
    return Struct(f"<{count}Q{count}I")


@functools.lru_cache(maxsize=WINDOW)
def _answer_each(count: int) -> Struct:
    """The ids, codes and lengths of so many answers, from the frame's start on."""
    return Struct(f"<5x{count}Q{count}B{count}I")


class Link:
    """An open link. Its threads in the background, which send and read, end with the connection."""

    def __init__(self, sock: socket.socket, early: bytes = b"", *, plain: bool = False) -> None:
        """Take over a socket on which the server has answered 101; early is what it sent after that."""
        self.plain = plain
        """Whether queries go as JSON and no pickle comes back: the server or the client takes none."""
        sock.settimeout(None)
        self._sock = sock
        self._inbox = Inbox(early)
        self._ids = itertools.count(1)
        self._open: dict[int, Ref[Any]] = {}  # every query without an answer, sent or not
        self._outbox: deque[Query] = deque()  # what is not sent
        self._sent: set[int] = set()  # queries that the server has, as far as it has not answered
        self._unsent = memoryview(b"")  # the rest of a frame that did not fit into the socket's buffer
        self._sending = threading.Lock()
        self._bell: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._rung = False
        self._refusal: Callable[[], Error] | None = None
        self.usable = True
        """Whether a query that is submitted now has a chance."""
        self._turns = Turns(sock, self._receive, self.flush)
        if early:
            self._take(self._inbox.frames())
        self._turns.start()
        threading.Thread(target=self._send_loop, name="shoal-link", daemon=True).start()
        _links.add(self)

    def submit(self, common: Common, payload: Bytes) -> Ref[Any]:
        """Send a query. Never blocks and never raises; a link that is lost gives refs that failed."""
        ref_id = next(self._ids)
        ref: Ref[Any] = Ref(self, ref_id)
        idle = not self._open
        self._open[ref_id] = ref
        self._outbox.append((ref_id, common, payload))
        # Checked after the ref is in _open: either the reader's last sweep sees it, or this does.
        if self._refusal is not None:
            self._refuse(ref, self._refusal)
        elif idle or len(self._outbox) == _GATHER:
            self.flush()
        elif not self._turns.napping:
            self._ring()
        return ref

    def refuse(self, error: Error) -> Ref[Any]:
        """The ref of a query that is not sent at all."""
        ref: Ref[Any] = Ref(self)
        resolve_error([ref], lambda: error)
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
            self._outbox.appendleft((0, None, REF_ID.pack(9, _wire.CANCEL, ref._id)))
            self._ring()
        return True

    def decode(self, raw: tuple[int, memoryview]) -> Any:
        """The value of an answer's code and payload; raises the error that they stand for."""
        code, payload = raw
        if self.plain:
            return decode_plain(code, payload)
        if code == _wire.PICKLE and not U32.unpack_from(payload)[0]:
            return pickle.loads(payload[4:])
        return decode_answer(code, payload)

    def close(self) -> None:
        """Close the connection; whoever still waits gets Unavailable."""
        self._lose("this client was shut down")

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
        while self.usable:
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
        """A frame of what may leave now, or several, joined; empty when nothing may."""
        outbox = self._outbox
        room = WINDOW - len(self._sent)
        frames: list[bytes] = []
        ids: list[int] = []
        payloads: list[Bytes] = []
        size = 0
        together: Common | None = None
        while size < _CHUNK and len(ids) < _TOGETHER:
            try:
                item = outbox.popleft()
            except IndexError:
                break
            ref_id, common, payload = item
            if common is None:
                frames.append(bytes(payload))
                continue
            if len(ids) >= room or (ids and common is not together):
                outbox.appendleft(item)
                break
            # First into sent, then the look at open: cancel does it the other way round.
            self._sent.add(ref_id)
            if ref_id not in self._open:
                self._sent.discard(ref_id)
                continue
            together = common
            ids.append(ref_id)
            payloads.append(payload)
            size += len(payload)
        if together is not None:
            frames.append(_query_frame(together, ids, payloads))
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
        for frame in frames:
            if frame[0] == _wire.ANSWER:
                self._take_answers(frame)
            elif frame[0] == _wire.GOODBYE:
                self._drain(json.loads(frame[1:]).get("reason") or "the server is stopping")
            else:
                raise ProtocolError(f"a frame of kind {frame[0]} on the link")
        if self._outbox:
            self.flush()

    def _take_answers(self, frame: bytearray) -> None:
        count = U32.unpack_from(frame, 1)[0] if len(frame) > 5 else 0
        if not 0 < count <= (len(frame) - 5) // 13:
            raise ProtocolError(f"an ANSWER frame of {len(frame)} bytes with {count} answers")
        each = _answer_each(count)
        fields = each.unpack_from(frame)
        ids = fields[:count]
        self._sent.difference_update(ids)
        answers: list[tuple[Ref[Any], Any]] = []
        find, view, at = self._open.pop, memoryview(frame), each.size
        for ref_id, code, size in zip(ids, fields[count : 2 * count], fields[2 * count :], strict=True):
            end = at + size
            ref = find(ref_id, None)
            if ref is not None:
                answers.append((ref, (code, view[at:end])))
            at = end
        if at != len(frame):
            raise ProtocolError(f"an ANSWER frame of {len(frame)} bytes, whose lengths say {at}")
        resolve_raw(answers)

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

    def _refuse(self, ref: Ref[Any], refusal: Callable[[], Error]) -> None:
        if self._open.pop(ref._id, None) is not None:
            resolve_error([ref], refusal)

    def _lose(self, why: str) -> None:
        """The connection is of no use any more."""
        if not self.usable:
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
        self.usable = False
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


def decode_plain(code: int, payload: memoryview) -> Any:
    """As decode_answer, for a query in JSON: it unpickles nothing, whatever the server says."""
    if code == _wire.PICKLE:
        raise ProtocolError("the server answered a query in JSON with a pickle, which is not read")
    if code == _wire.FAULT:
        (size,) = U32.unpack_from(payload)
        raise from_object(json.loads(bytes(payload[4 : 4 + size])))
    return decode_answer(code, payload)


def open_link(address: Address, headers: dict[str, str], *, allow_pickle: bool = True) -> Link:
    """Connect to a server and upgrade the connection. Raises typed errors; Unavailable without a server."""
    lines = [
        "GET /v1/link HTTP/1.1",
        f"Host: {address.authority}",
        "Connection: Upgrade",
        "Upgrade: shoal-link/3",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    sock = None
    try:
        sock = address.open()
        sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        early, plain = _read_upgrade(sock)
    except OSError as exc:
        if sock is not None:
            sock.close()
        raise Unavailable(f"no shoal server at {address}: {exc}") from exc
    except BaseException:
        if sock is not None:
            sock.close()
        raise
    if address.secure:
        sock = tunnel(sock)
    return Link(sock, early, plain=plain or not allow_pickle)


def _read_upgrade(sock: socket.socket) -> tuple[bytes, bool]:
    """Read the answer to the upgrade; returns what came after it, and whether queries must be JSON.

    Raises what the server refused with.
    """
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(sock)
    head, _, rest = data.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status = status_line.split(" ")[1] if " " in status_line else ""
    if status == "101":
        return rest, fields.get("shoal-encodings") == "json"
    length = int(fields.get("content-length") or 0)
    while len(rest) < length:
        rest += _more(sock)
    raise problem(int(status) if status.isdigit() else 500, rest)


def _more(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    if not data:
        raise ConnectionError("the server closed the connection")
    return data
