"""Handles: calling an endpoint from Python."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from datetime import timedelta
from numbers import Real
from typing import Any, NamedTuple, TypeAlias

from . import _link
from ._errors import Error, InvalidArgument, QueueFull, TooLarge
from ._pickling import dumps_call
from ._progress import Bar
from ._ref import Arrivals, Ref

# map keeps this many queries open: enough to fill the link's window while results are being consumed.
_AHEAD = 2 * _link.WINDOW
_LEFT = _AHEAD - 256  # and never fewer than these while there are items
_MOST_CALLER = 128  # bytes
_RETRY_FIRST, _RETRY_MOST = 0.005, 0.5  # seconds between attempts when the server's queue is full

Call: TypeAlias = tuple[Any, dict[str, Any]]
_UNSET: Any = object()


class Options(NamedTuple):
    """What handle.options sets; see there."""

    method_name: str = ""
    shard_key: str = ""
    http_method: str = "GET"
    http_headers: Mapping[str, str] | None = None
    timeout: float | None = None
    caller: str = ""
    priority: int = 0


class Handle:
    """Calls one endpoint. Cheap to make, safe to share between threads."""

    __slots__ = ("_endpoint", "_connect", "_traffic", "_options", "_names", "_timeout", "_common", "_plain")

    def __init__(
        self,
        endpoint: str,
        connect: Callable[[], _link.Link],
        traffic: Callable[[str], Mapping[str, float]],
        options: Options = Options(),  # noqa: B008 a tuple
    ) -> None:
        self._endpoint = endpoint
        self._connect = connect
        self._traffic = traffic
        self._options = options
        given = endpoint, options.method_name, options.shard_key, options.caller
        names = [name.encode() for name in given]
        if any(len(name) > 0xFFFF for name in names):
            raise InvalidArgument("endpoint, method name and shard key are limited to 65,535 bytes each")
        if len(names[3]) > _MOST_CALLER:
            raise InvalidArgument(f"caller has {len(names[3])} bytes; at most {_MOST_CALLER} are possible")
        if not isinstance(options.priority, int) or not -3 <= options.priority <= 3:
            raise InvalidArgument(f"priority is {options.priority!r}; it must be a whole number from -3 to 3")
        self._names = names[0], names[1], names[2], names[3]
        self._timeout = _milliseconds(options.timeout)
        self._common = _link.Common(self._names, self._timeout, options.priority, _head(options))
        self._plain = _link.Common(
            self._names, self._timeout, options.priority, _head(options, encoding="json")
        )

    def remote(
        self, data: Any = None, /, *, timeout: float | timedelta | None = _UNSET, **kwargs: Any
    ) -> Ref[Any]:
        """Send one query and return a Ref to its answer at once.

        The model sees data as its request's data (a dict also as json and form), and each keyword argument
        as an argument of that name. Only timeout is the query's own, as in options: for this query it
        replaces what was set there, and the ref raises DeadlineExceeded, a TimeoutError. (A model's parameter
        of that name is reached by map, whose items may be dicts of any keyword arguments.)

        At most 1,024 queries of a client are with the server at a time, others wait in this process; so any
        number of calls may be made in a row. Raises what pickling raises, InvalidArgument for a timeout that
        cannot be, and Unavailable when the client is shut down; everything else is raised by the ref.
        """
        handle = self if timeout is _UNSET else self.options(timeout=timeout)
        return handle._send(data, kwargs)

    def _send(self, data: Any, kwargs: dict[str, Any]) -> Ref[Any]:
        link = self._connect()
        if link.plain:
            return self._remote_plain(link, data, kwargs)
        payload, buffers = dumps_call(data, kwargs)
        if buffers or len(payload) > _link.MOST:  # which bytes and texts, that are no buffers, may be too
            return self._remote_with(payload, buffers)
        return link.submit(self._common, payload)

    def _remote_plain(self, link: _link.Link, data: Any, kwargs: dict[str, Any]) -> Ref[Any]:
        """Send a query as JSON, to a server that takes no pickles from this client."""
        try:
            payload = json.dumps({"data": data, "kwargs": kwargs}, allow_nan=False).encode()
        except (TypeError, ValueError) as exc:
            raise InvalidArgument(
                f"no pickles go to or come from this server, and JSON cannot carry the query: {exc}"
            ) from None
        if len(payload) > _link.MOST:
            return link.refuse(
                TooLarge(f"a query of {len(payload)} bytes; at most {_link.MOST} are possible")
            )
        return link.submit(self._plain, payload)

    def _remote_with(self, payload: bytes, buffers: list[memoryview]) -> Ref[Any]:
        sizes = [len(buffer) for buffer in buffers]
        link, length = self._connect(), len(payload) + sum(sizes)
        if length > _link.MOST:
            return link.refuse(TooLarge(f"a query of {length} bytes; at most {_link.MOST} are possible"))
        options = self._options
        common = _link.Common(self._names, self._timeout, options.priority, _head(options, sizes))
        return link.submit(common, b"".join((payload, *buffers)))

    def options(
        self,
        method_name: str = _UNSET,
        *,
        shard_key: str = _UNSET,
        http_method: str = _UNSET,
        http_headers: Mapping[str, str] = _UNSET,
        timeout: float | timedelta | None = _UNSET,
        caller: str = _UNSET,
        priority: int = _UNSET,
    ) -> Handle:
        """A new handle with some options changed; what is given here replaces what was set before.

        method_name: the method of a class backend to call, instead of __call__.
        shard_key: queries with the same key go to the same backend of the endpoint.
        http_method, http_headers: what the model sees as its request's method and headers.
        timeout: seconds from sending to answer, after which the ref raises DeadlineExceeded; None is the
        backend's own.
        caller: for whom the queries are; callers get fair shares of a backend, see docs/overload.md.
        priority: a whole number from -3 to 3, 0 unless it is set; queries of a higher one leave first.
        """
        given: dict[str, Any] = {
            "method_name": method_name,
            "shard_key": shard_key,
            "http_method": http_method,
            "http_headers": http_headers,
            "timeout": timeout.total_seconds() if isinstance(timeout, timedelta) else timeout,
            "caller": caller,
            "priority": priority,
        }
        changed = {name: value for name, value in given.items() if value is not _UNSET}
        return Handle(self._endpoint, self._connect, self._traffic, self._options._replace(**changed))

    def map(
        self,
        items: Iterable[Any],
        *,
        name: str | None = None,
        ordered: bool = True,
        progress: bool | None = None,
    ) -> Iterator[Any]:
        """Query every item and iterate over the answers, with many queries under way at any time.

        An item is a dict of keyword arguments, else the data of a query; with name, each item is the value
        of that one keyword. items may be endless: it is read only as far ahead as needed. Answers come in
        the order of items, or with ordered=False as they arrive. A query that the server refuses because its
        queue is full is sent again later; any other error is raised in its turn and ends the iteration.

        progress: True shows a bar, False none; None shows one on a terminal when it takes more than 2 s.
        """
        run = _ordered if ordered else _unordered
        answers = run(self, _calls(items, name))
        bar = Bar(self._endpoint, len(items) if isinstance(items, Sized) else None, progress)
        return _with_bar(answers, bar) if bar.wanted else answers

    def __repr__(self) -> str:
        try:
            traffic = dict(self._traffic(self._endpoint))
        except Error:  # a repr must not fail because the server is gone
            return f'Handle(endpoint="{self._endpoint}")'
        return f'Handle(endpoint="{self._endpoint}", traffic={_quoted(traffic)})'


def _quoted(traffic: Mapping[str, float]) -> str:
    return "{" + ", ".join(f"{json.dumps(name)}: {float(weight)}" for name, weight in traffic.items()) + "}"


def _milliseconds(timeout: float | None) -> int:
    if timeout is None:
        return 0
    if not isinstance(timeout, Real):
        raise InvalidArgument(
            f"timeout is {timeout!r}; it must be a number of seconds, since it is the query's own deadline "
            "and no argument of the model"
        )
    if not 0 < timeout <= 0xFFFFFFFF / 1000:
        raise InvalidArgument(f"timeout is {timeout}; it must be a positive number of seconds, below 49 days")
    return max(1, round(timeout * 1000))


def _head(options: Options, buffers: list[int] | None = None, encoding: str = "") -> bytes:
    fields: dict[str, Any] = {"encoding": encoding} if encoding else {}
    if buffers:
        fields["buffers"] = buffers
    if options.http_method != "GET":
        fields["method"] = options.http_method
    if options.http_headers:
        fields["headers"] = dict(options.http_headers)
    return json.dumps(fields).encode() if fields else b""


def _calls(items: Iterable[Any], name: str | None) -> Iterator[Call]:
    for item in items:
        if name is not None:
            yield None, {name: item}
        elif isinstance(item, dict):
            yield None, item
        else:
            yield item, {}


def _ordered(handle: Handle, calls: Iterator[Call]) -> Iterator[Any]:
    under_way: deque[tuple[Ref[Any], Call]] = deque()
    send = handle._send
    try:
        for call in calls:
            under_way.append((send(*call), call))
            if len(under_way) < _AHEAD:
                continue
            # All that are there, so that the pipeline is filled up again in one go.
            yield _answer(handle, *under_way.popleft())
            while len(under_way) > _LEFT and under_way[0][0].done():
                yield _answer(handle, *under_way.popleft())
        while under_way:
            yield _answer(handle, *under_way.popleft())
    finally:
        for ref, _ in under_way:  # the iteration was left early
            ref.cancel()


def _unordered(handle: Handle, calls: Iterator[Call]) -> Iterator[Any]:
    under_way: dict[Ref[Any], Call] = {}
    arrivals = Arrivals()
    link = handle._connect()

    def take() -> Any:
        ref = arrivals.next(link)
        return _answer(handle, ref, under_way.pop(ref))

    try:
        for call in calls:
            ref = handle._send(*call)
            under_way[ref] = call
            arrivals.expect(ref)
            if len(under_way) >= _AHEAD:
                yield take()
        while under_way:
            yield take()
    finally:
        for ref in under_way:
            ref.cancel()


def _answer(handle: Handle, ref: Ref[Any], call: Call) -> Any:
    """The answer to a call; sends it again for as long as the server's queue is full."""
    pause = _RETRY_FIRST
    while True:
        try:
            return ref.result()
        except QueueFull:
            time.sleep(pause)
            pause = min(2 * pause, _RETRY_MOST)
            ref = handle._send(*call)


def _with_bar(answers: Iterator[Any], bar: Bar) -> Iterator[Any]:
    with bar:
        for answer in answers:
            yield answer
            bar.advance()
