"""A BATCH frame, taken apart."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Sequence
from typing import Any

from ._errors import BadRequest
from ._pickling import loads
from ._request import Placeholder, Request
from ._wire import API, BATCH_HEAD, MUST_CLAIM, Bytes, ProtocolError

_NO_CALL = "a call in pickle is a tuple of its data and a dict of its keyword arguments"


def take_requests(frame: bytearray, at: int, lengths: Sequence[int]) -> list[Any]:
    """Requests that read out of frame, whose heads and bodies begin at at, one after the other."""
    requests: list[Any] = []
    pairs = iter(lengths)
    for head, payload in zip(pairs, pairs, strict=True):
        body = at + head
        end = body + payload
        requests.append(Request(frame, at, body, end))
        at = end
    return requests


class Batch:
    """One batch as the server sent it: n queries of one origin, for one method.

    requests has n entries, Request or Placeholder. For api queries kwargs has their keyword arguments and
    plain says which callers want JSON; faults maps the places of queries that could not be decoded. A batch
    that was sent ahead must be claimed before it begins.
    """

    __slots__ = ("id", "ahead", "api", "method", "size", "requests", "kwargs", "plain", "faults")

    def __init__(self, frame: bytearray) -> None:
        """Raises ProtocolError when the frame's own numbers do not fit together."""
        try:
            origin, flags, method_length, size, self.id = BATCH_HEAD.unpack_from(frame)
            lengths = struct.unpack_from(f"<{2 * size}I", frame, BATCH_HEAD.size)
        except struct.error as exc:
            raise ProtocolError(f"a BATCH frame is cut short: {exc}") from None
        start = BATCH_HEAD.size + 8 * size
        at = start + method_length
        if at + sum(lengths) != len(frame):
            raise ProtocolError("the lengths in a BATCH frame do not add up")
        self.method = frame[start:at].decode() if method_length else ""
        self.ahead = bool(flags & MUST_CLAIM)
        self.api = origin == API
        self.size = size
        self.faults: dict[int, BaseException] = {}
        if self.api:
            self.requests: list[Any] = []
            self.kwargs: list[dict[str, Any]] = []
            self.plain: list[bool] = []
            self._take_api(frame, at, lengths)
        else:
            self.requests = take_requests(frame, at, lengths)

    def _take_api(self, frame: bytearray, at: int, lengths: tuple[int, ...]) -> None:
        view = memoryview(frame)
        requests, rows, plain = self.requests, self.kwargs, self.plain
        unpickle = pickle.loads
        pairs = iter(lengths)
        for head, payload in zip(pairs, pairs, strict=True):
            body = at + head
            end = body + payload
            if head:
                self._take_call(frame[at:body], view[body:end])
            else:  # as most are: a pickle and nothing else
                try:
                    data, kwargs = unpickle(view[at:end])
                    if type(kwargs) is not dict:
                        raise BadRequest(_NO_CALL)
                except BaseException as exc:  # unpickling runs code of the model's modules
                    self.faults[len(requests)] = exc
                    data, kwargs = None, {}
                requests.append(Placeholder(data, kwargs))
                rows.append(kwargs)
                plain.append(False)
            at = end

    def _take_call(self, head: bytearray, payload: memoryview) -> None:
        options: dict[str, Any] = {}
        data: Any = None
        kwargs: dict[str, Any] = {}
        try:
            options = _call_head(head)
            if options.get("encoding") == "json":
                data, kwargs = _json_call(payload)
            else:
                data, kwargs = loads(payload, options.get("buffers") or ())
                if type(kwargs) is not dict:
                    raise BadRequest(_NO_CALL)
        except BaseException as exc:
            self.faults[len(self.requests)] = exc
            kwargs = {}
        self.requests.append(_placeholder(options, data, kwargs))
        self.kwargs.append(kwargs)
        self.plain.append(options.get("encoding") == "json")


def take_json_calls(frame: bytearray, at: int, lengths: Sequence[int]) -> list[Any]:
    """As take_requests, for queries of handles in JSON that the server has read already."""
    placeholders: list[Any] = []
    pairs = iter(lengths)
    for head, payload in zip(pairs, pairs, strict=True):
        body = at + head
        end = body + payload
        placeholders.append(_placeholder(_readable_head(frame[at:body]), *_json_call(frame[body:end])))
        at = end
    return placeholders


def _readable_head(head: bytearray) -> dict[str, Any]:
    """The head of a call whose arrays are in the batch already; an empty one where it cannot be read."""
    try:
        return _call_head(head)
    except (BadRequest, ValueError, RecursionError):
        return {}


def _call_head(head: bytearray) -> dict[str, Any]:
    """The head of a call. Raises BadRequest, and ValueError where it is no JSON."""
    options = json.loads(head)
    if not isinstance(options, dict):
        raise BadRequest(f"the head of a call is an object, not {type(options).__name__}")
    if not isinstance(options.get("headers") or {}, dict):
        raise BadRequest("the headers of a call are an object")
    return options


def _json_call(payload: Bytes) -> tuple[Any, dict[str, Any]]:
    call = json.loads(bytes(payload))
    if not isinstance(call, dict) or not isinstance(call.get("kwargs") or {}, dict):
        raise BadRequest("a call in JSON is an object whose kwargs are an object")
    return call.get("data"), call.get("kwargs") or {}


def _placeholder(head: dict[str, Any], data: Any, kwargs: dict[str, Any]) -> Placeholder:
    headers = head.get("headers")
    return Placeholder(
        data, kwargs, head.get("method") or "GET", headers if isinstance(headers, dict) else None
    )
