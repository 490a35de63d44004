"""References: answers that are not there yet.

A Ref is cheap, because a program may make hundreds of thousands: it has no lock and no event of its own.
Whoever waits hangs a waiter on it; one lock for all refs covers the moment where an answer meets a waiter.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

from ._errors import Canceled

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_PENDING, _RAW, _VALUE, _ERROR = 0, 1, 2, 3

_meeting = threading.Lock()


def _new_lock() -> None:
    global _meeting
    _meeting = threading.Lock()


# A fork may copy the lock while it is held; nobody would ever release the copy.
os.register_at_fork(after_in_child=_new_lock)


class Source(Protocol):
    """Where a ref's answer comes from."""

    def wait(self, refs: Sequence[Ref[Any]], count: int, deadline: float | None) -> bool:
        """Return when count of refs, which are all from here, have their answers; False at the deadline."""

    def wait_latch(self, latch: Latch) -> None:
        """Return when a latch is open that hangs on refs from here, or somewhat earlier."""

    def wait_aside(self) -> None:
        """Somebody hung a waiter on a ref and waits elsewhere: see to it that answers come in meanwhile."""

    def cancel(self, ref: Ref[Any]) -> bool:
        """Nobody waits for ref any more; True when its answer was still open."""

    def decode(self, raw: Any) -> Any:
        """The value in an answer as it came. Raises the exception that it stands for."""


class Waiter(Protocol):
    """What is told, once, that a ref has its answer. It is called with the lock of all refs held."""

    def notify(self, ref: Ref[Any]) -> None:
        """Ref has its answer. Must be quick and must not touch refs."""


class Ref(Generic[T_co]):
    """The answer of a call that was made with remote, now or later.

    Wait for it with result(), shoal.get(ref), or ``await ref``. Safe to share between threads.
    """

    __slots__ = ("_source", "_id", "_state", "_raw", "_content", "_waiters", "__weakref__")

    def __init__(self, source: Source | None, id: int = 0) -> None:
        self._source = source
        self._id = id
        self._state = _PENDING
        self._raw: Any = None
        self._content: Any = None
        self._waiters: list[Waiter] | None = None

    def done(self) -> bool:
        """Whether the answer (or an error) is there."""
        return self._state != _PENDING

    def result(self, timeout: float | None = None) -> T_co:
        """Wait for the answer and return it. Raises what the model raised.

        After timeout seconds without an answer it raises TimeoutError; the query goes on.
        """
        if self._state == _PENDING and not wait_for((self,), 1, timeout):
            raise TimeoutError(f"no answer within {timeout} s")
        return self._take()

    def cancel(self) -> bool:
        """Say that nobody needs the answer: result() raises shoal.Canceled from now on.

        Returns False when the answer was already there. A query that has not been computed yet is dropped.
        """
        if self._source is None or self._state != _PENDING or not self._source.cancel(self):
            return False
        resolve(((self, _ERROR, Canceled("the query was cancelled")),))
        return True

    def __await__(self) -> Generator[Any, None, T_co]:
        if self._state == _PENDING:
            import asyncio  # there already, in whatever awaits

            waiter = _AsyncWaiter(asyncio.get_running_loop())
            if hang(self, waiter):
                if self._source is not None:
                    self._source.wait_aside()
                yield from waiter.future
        return self._take()

    def _take(self) -> T_co:
        """The answer of a ref that is done."""
        raw = self._raw
        if raw is not None and self._source is not None:
            # Two threads may do it at once. Content is there before the state says so, and raw goes last:
            # whoever misses it knows that the other one has finished.
            try:
                self._content, state = self._source.decode(raw), _VALUE
            except Exception as exc:
                self._content, state = exc, _ERROR
            self._state = state
            self._raw = None
        if self._state == _ERROR:
            raise self._content
        value: T_co = self._content
        return value

    def __repr__(self) -> str:
        state = ("pending", "done", "done", "failed")[self._state]
        return f"<shoal.Ref {state}>"


class _AsyncWaiter:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.future: asyncio.Future[None] = loop.create_future()

    def notify(self, ref: Ref[Any]) -> None:
        try:
            self.loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop was closed meanwhile: nobody waits
            pass

    def _wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Latch:
    """Opens when count more refs have their answers, and can be woken before."""

    __slots__ = ("count", "gate", "awake")

    def __init__(self, count: int) -> None:
        self.count = count
        self.awake = False  # the gate was opened, and wait has not returned yet
        self.gate = threading.Lock()
        self.gate.acquire()

    def notify(self, ref: Ref[Any]) -> None:
        self.count -= 1
        if self.count == 0 and not self.awake:
            self.awake = True
            self.gate.release()

    def wake(self) -> bool:
        """Let wait return although answers are missing; False when it is about to return anyway."""
        with _meeting:
            if self.awake:
                return False
            self.awake = True
            self.gate.release()
            return True

    def wait(self, deadline: float | None) -> bool:
        """Wait until it opens or is woken; False at the deadline."""
        timeout = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
        if not self.gate.acquire(timeout=timeout):
            return False
        with _meeting:
            self.awake = False
        return True


def is_pending(ref: Ref[Any]) -> bool:
    """Whether a ref has no answer yet."""
    return ref._state == _PENDING


def hang(ref: Ref[Any], waiter: Waiter) -> bool:
    """Have waiter told when ref has its answer; False (and no call) when it has it already."""
    with _meeting:
        if ref._state != _PENDING:
            return False
        if ref._waiters is None:
            ref._waiters = [waiter]
        else:
            ref._waiters.append(waiter)
    return True


def resolve(answers: Iterable[tuple[Ref[Any], int, Any]]) -> None:
    """Give refs their answers: (ref, state, content). A ref that has one already keeps it."""
    with _meeting:
        for ref, state, content in answers:
            if ref._state == _PENDING:
                ref._content = content
                ref._state = state
                _tell(ref)


def resolve_raw(answers: Iterable[tuple[Ref[Any], Any]]) -> None:
    """Give refs answers that are still encoded; whoever takes one decodes it."""
    with _meeting:
        for ref, raw in answers:
            if ref._state == _PENDING:
                ref._raw = raw
                ref._state = _RAW
                if ref._waiters is not None:
                    _tell(ref)


def _tell(ref: Ref[Any]) -> None:
    """Tell a ref's waiters that its answer is there; the lock of all refs is held."""
    if ref._waiters is not None:
        for waiter in ref._waiters:
            waiter.notify(ref)
        ref._waiters = None


def resolve_value(ref: Ref[Any], value: Any) -> None:
    """Give a ref its value."""
    resolve(((ref, _VALUE, value),))


def resolve_error(refs: Iterable[Ref[Any]], make: Callable[[], BaseException]) -> None:
    """Let each of refs fail with an exception of its own."""
    resolve((ref, _ERROR, make()) for ref in refs)


# Set by the pool of shoal.remote: tells it that one of its threads is about to block.
blocked: Callable[[], AbstractContextManager[None]] = nullcontext


def wait_for(refs: Sequence[Ref[Any]], count: int, timeout: float | None) -> bool:
    """Wait until at least count of refs have answers; False when that takes longer than timeout seconds."""
    pending = [ref for ref in refs if ref._state == _PENDING]
    missing = count - (len(refs) - len(pending))
    if missing <= 0:
        return True
    deadline = None if timeout is None else time.monotonic() + timeout
    sources = {ref._source for ref in pending}
    with blocked():
        if len(sources) == 1 and (source := sources.pop()) is not None:
            return source.wait(pending, missing, deadline)
        return wait_latched(pending, missing, deadline)


def wait_latched(refs: Sequence[Ref[Any]], count: int, deadline: float | None) -> bool:
    """Wait for refs wherever they are from, and leave the work to others meanwhile."""
    latch = Latch(count)
    try:
        if not hang_all(refs, latch):
            return True
        for source in {ref._source for ref in refs}:
            if source is not None:
                source.wait_aside()
        return latch.wait(deadline)
    finally:
        unhang(refs, latch)


def hang_all(refs: Iterable[Ref[Any]], latch: Latch) -> bool:
    """Hang a latch on many refs; False when enough of them are done by now."""
    with _meeting:
        for ref in refs:
            if ref._state != _PENDING:
                latch.count -= 1
            elif ref._waiters is None:
                ref._waiters = [latch]
            else:
                ref._waiters.append(latch)
        return latch.count > 0


def unhang(refs: Iterable[Ref[Any]], waiter: Waiter) -> None:
    """Forget a waiter, so that polling a ref again and again does not pile waiters up on it."""
    with _meeting:
        for ref in refs:
            if ref._waiters is not None and waiter in ref._waiters:
                ref._waiters.remove(waiter)


class Arrivals:
    """Refs of one source in the order in which their answers come."""

    def __init__(self) -> None:
        self._arrived: deque[Ref[Any]] = deque()
        self._latch: Latch | None = None  # of whoever waits in next

    def expect(self, ref: Ref[Any]) -> None:
        """Count on an answer of ref."""
        if not hang(ref, self):
            self._arrived.append(ref)

    def notify(self, ref: Ref[Any]) -> None:
        self._arrived.append(ref)
        if self._latch is not None:
            self._latch.notify(ref)
            self._latch = None

    def next(self, source: Source) -> Ref[Any]:
        """The next ref whose answer came. There must be one that is expected and was not returned."""
        while not self._arrived:
            latch = Latch(1)
            with _meeting:
                if self._arrived:
                    break
                self._latch = latch
            source.wait_latch(latch)
        return self._arrived.popleft()


@overload
def get(refs: Ref[T], timeout: float | None = None) -> T: ...
@overload
def get(refs: Iterable[Ref[T]], timeout: float | None = None) -> list[T]: ...
def get(refs: Any, timeout: float | None = None) -> Any:
    """The answer of one ref, or the list of the answers of many, in order.

    Raises the error of the first one (in order) that failed, and TimeoutError when not all answers are
    there within timeout seconds.
    """
    if isinstance(refs, Ref):
        return refs.result(timeout)
    many = _refs(refs, "get")
    if not wait_for(many, len(many), timeout):
        missing = sum(not ref.done() for ref in many)
        raise TimeoutError(f"{missing} of {len(many)} answers were not there within {timeout} s")
    return [ref._take() for ref in many]


def wait(
    refs: Iterable[Ref[T]], num_returns: int = 1, timeout: float | None = None
) -> tuple[list[Ref[T]], list[Ref[T]]]:
    """Wait until num_returns of refs are done, or for timeout seconds.

    Returns (done, not_done), each in the order of refs; done has at most num_returns entries.
    """
    many = _refs(refs, "wait")
    if not 0 < num_returns <= len(many):
        raise ValueError(
            f"num_returns is {num_returns}; it must be from 1 to the number of refs, {len(many)}"
        )
    wait_for(many, num_returns, timeout)
    done: list[Ref[T]] = []
    rest: list[Ref[T]] = []
    for ref in many:
        (done if ref.done() and len(done) < num_returns else rest).append(ref)
    return done, rest


def _refs(refs: Any, caller: str) -> list[Ref[Any]]:
    many = list(refs) if isinstance(refs, Iterable) else [refs]
    for ref in many:
        if not isinstance(ref, Ref):
            raise TypeError(f"shoal.{caller} takes refs (what .remote returns), not {type(ref).__name__}")
    return many
