"""`shoal.remote`: plain functions in background threads, with refs for their results.

It lets a client program send many queries in parallel. Threads are enough for that, since such functions
mostly wait for the network.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar, overload

from . import _ref
from ._ref import Latch, Ref, hang, resolve_error, resolve_value, wait_latched

P = ParamSpec("P")
R = TypeVar("R")

_DEFAULT_THREADS = 32

# Ray's options for a task. They place a process in a cluster; here there is none to place.
_PLACEMENT = frozenset(
    ["num_cpus", "num_gpus", "memory", "resources", "max_calls", "max_retries", "runtime_env", "name"]
)


class _Pool:
    """Threads that run tasks. One that waits for a ref does not count, so that tasks may wait for tasks."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.Condition()
        self._tasks: deque[_Task] = deque()
        self._idle = 0
        self._busy = 0
        self._here = threading.local()

    def submit(self, task: _Task) -> None:
        with self._lock:
            self._tasks.append(task)
            self._serve()

    def resize(self, size: int) -> None:
        with self._lock:
            self.size = size
            for _ in range(len(self._tasks)):
                self._serve()

    def drop(self) -> None:
        """Cancel every task that has not begun."""
        with self._lock:
            tasks = list(self._tasks)
        for task in tasks:
            task.ref.cancel()

    def withdraw(self, task: _Task) -> bool:
        """Take back a task that has not begun."""
        with self._lock:
            try:
                self._tasks.remove(task)
            except ValueError:
                return False
            return True

    def _serve(self) -> None:
        """See to it that the oldest task has a thread, where the size allows it; the lock is held."""
        if self._busy >= self.size:
            return
        if self._idle >= len(self._tasks):
            self._lock.notify()
            return
        self._busy += 1
        threading.Thread(target=self._run, name="shoal.remote", daemon=True).start()

    def _run(self) -> None:
        self._here.inside = True
        while True:
            with self._lock:
                self._busy -= 1
                self._idle += 1
                while not self._tasks or self._busy >= self.size:
                    self._lock.wait()
                self._idle -= 1
                self._busy += 1
                task = self._tasks.popleft()
                if self._tasks:
                    self._serve()
            task.run()
            del task

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """Around a wait: in a thread of the pool another one may work meanwhile."""
        if not getattr(self._here, "inside", False):
            yield
            return
        with self._lock:
            self._busy -= 1
            if self._tasks:
                self._serve()
        try:
            yield
        finally:
            with self._lock:
                self._busy += 1


class _Task:
    """One call of a remote function; the source of its ref."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._ready = threading.Lock()
        self._missing = 1  # refs without a value among the arguments; one more until begin has seen them all
        self.ref: Ref[Any] = Ref(self)

    def begin(self) -> None:
        """Go to the pool as soon as all refs among the arguments have their values."""
        for value in (*self._args, *self._kwargs.values()):
            if isinstance(value, Ref):
                with self._ready:
                    self._missing += 1
                if not hang(value, self):
                    self.notify(value)
                elif value._source is not None:
                    value._source.wait_aside()
        self.notify(self.ref)

    def notify(self, ref: Ref[Any]) -> None:
        with self._ready:
            self._missing -= 1
            go = self._missing == 0
        if go:
            _get_pool().submit(self)

    def run(self) -> None:
        try:
            args = [_value(a) for a in self._args]
            kwargs = {name: _value(a) for name, a in self._kwargs.items()}
            value = self._function(*args, **kwargs)
        except BaseException as exc:  # also SystemExit: it ends the task, and its waiter must hear of it
            failure = exc if isinstance(exc, Exception) else RuntimeError(f"the task raised {exc!r}")
            resolve_error([self.ref], lambda: failure)
        else:
            resolve_value(self.ref, value)

    def wait(self, refs: Sequence[Ref[Any]], count: int, deadline: float | None) -> bool:
        return wait_latched(refs, count, deadline)

    def wait_latch(self, latch: Latch) -> None:
        latch.wait(None)

    def wait_aside(self) -> None:
        """The pool needs nobody to wait for it."""

    def cancel(self, ref: Ref[Any]) -> bool:
        with self._ready:
            if self._missing > 0:
                self._missing = 0  # and below, as its arguments arrive: it never begins
                return True
        return _get_pool().withdraw(self)

    def decode(self, raw: Any) -> Any:
        return raw


def _value(argument: Any) -> Any:
    return argument._take() if isinstance(argument, Ref) else argument


class RemoteFunction(Generic[P, R]):
    """A function that runs in the background: ``f.remote(...)`` returns a Ref at once."""

    def __init__(self, function: Callable[P, R]) -> None:
        self._function = function
        update_wrapper(self, function)

    def remote(self, *args: Any, **kwargs: Any) -> Ref[R]:
        """Run the function in the background. Refs among the arguments are replaced by their values first."""
        task = _Task(self._function, args, kwargs)
        task.begin()
        return task.ref

    def options(self, **options: Any) -> RemoteFunction[P, R]:
        """Takes the placement options that Ray has (num_cpus, ...) and does without them."""
        _check_options(options)
        return self

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Refused: calling it directly is most often a forgotten ``.remote``."""
        name = getattr(self._function, "__name__", "f")
        raise TypeError(f"{name} is a remote function: call {name}.remote(...), then shoal.get(...)")


@overload
def remote(function: Callable[P, R], /) -> RemoteFunction[P, R]: ...
@overload
def remote(**options: Any) -> Callable[[Callable[P, R]], RemoteFunction[P, R]]: ...
def remote(function: Any = None, /, **options: Any) -> Any:
    """Decorator: let a plain function run in parallel, in background threads of this process.

    ``f.remote(*args, **kwargs)`` returns a Ref at once. Options are those of RemoteFunction.options.
    """
    _check_options(options)
    if function is None:
        return remote
    if isinstance(function, type) or not callable(function):
        raise TypeError(
            f"shoal.remote takes a function, not {function!r}; for state that lives in a process of its own "
            "deploy a class with serve.create_backend"
        )
    return RemoteFunction(function)


def _check_options(options: dict[str, Any]) -> None:
    if options.get("num_returns", 1) != 1:
        raise ValueError("a remote function returns one ref; let it return a tuple instead of num_returns")
    unknown = options.keys() - _PLACEMENT - {"num_returns"}
    if unknown:
        raise ValueError(f"shoal.remote has no option {sorted(unknown)[0]!r}")


_pool: _Pool | None = None
_making = threading.Lock()


def _get_pool() -> _Pool:
    global _pool
    with _making:
        if _pool is None:
            _pool = _Pool(_DEFAULT_THREADS)
            _ref.blocked = _pool.blocked
        return _pool


def resize(num_cpus: float | None) -> None:
    """Let at most num_cpus remote functions run at a time (None: as many as before)."""
    if num_cpus is None:
        return
    if num_cpus < 1:
        raise ValueError(f"num_cpus is {num_cpus}; it must be at least 1")
    _get_pool().resize(int(num_cpus))


def _forget() -> None:
    """In a forked child the threads are gone."""
    global _pool, _making
    _making = threading.Lock()
    _pool = None
    _ref.blocked = nullcontext


os.register_at_fork(after_in_child=_forget)


def stop() -> None:
    """Drop the tasks that have not begun: their refs fail with Canceled."""
    if _pool is not None:
        _pool.drop()
