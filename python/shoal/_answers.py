"""Answers of a model as bytes: the codes and payloads of a RESULT frame."""

from __future__ import annotations

import json
import pickle
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from . import _wire
from ._errors import Error
from ._pickling import dumps
from ._response import Response
from ._wire import U32, Bytes

Payload: TypeAlias = "Bytes | list[Bytes]"
Coded: TypeAlias = tuple[int, Payload]

_NULL = (_wire.JSON, b"null")
_TRUE = (_wire.JSON, b"true")
_FALSE = (_wire.JSON, b"false")
PLAIN = frozenset((int, float, bool, type(None), str))
"""Types that pickle alone can do, and in little space."""

_PACKAGE = str(Path(__file__).parent) + "/"


def encode_plain(answer: Any) -> Coded:
    """One answer for a web query, or a handle's query in JSON. Raises what encoding raises."""
    handler = _HANDLERS.get(type(answer))
    return handler(answer) if handler is not None else _encode_other(answer)


def encode_pickle(answer: Any) -> Coded:
    """One answer for a query whose caller wants Python objects. Raises what pickling raises."""
    if type(answer) in PLAIN:
        return _wire.PICKLE, b"\0\0\0\0" + pickle.dumps(answer, 5)
    data, buffers = dumps(answer)
    if not buffers:
        return _wire.PICKLE, b"\0\0\0\0" + data
    sizes = b"".join([U32.pack(len(buffers)), *(U32.pack(len(b)) for b in buffers)])
    return _wire.PICKLE, [sizes, data, *buffers]


def encode_fault(error: BaseException, api: bool) -> Coded:
    """The answer of one query that failed; with api, the exception itself goes along where it can."""
    return _wire.FAULT, error_payload(error, api)


def error_payload(error: BaseException, api: bool) -> bytes:
    """An error payload of the protocol."""
    text = json.dumps(error_object(error)).encode()
    return b"".join((U32.pack(len(text)), text, _pickled_exception(error) if api else b""))


def error_object(error: BaseException) -> dict[str, Any]:
    """The JSON error object of the protocol for an exception, with the traceback that its author sees."""
    cls = type(error)
    name = cls.__qualname__
    if cls.__module__ not in ("builtins", "shoal"):
        name = f"{cls.__module__}.{name}"
    status, headers = _http_face(error)
    return {
        "type": name,
        "message": _message(error),
        "traceback": format_traceback(error),
        "status": status,
        "headers": headers,
    }


def _message(error: BaseException) -> str:
    werkzeug = sys.modules.get("werkzeug.exceptions")
    if werkzeug is not None and isinstance(error, werkzeug.BadRequestKeyError) and error.args:
        # Its own text does not say what is missing.
        return f"the request has no parameter {error.args[0]!r}"
    try:
        nothing = "out of memory" if isinstance(error, MemoryError) else "(it has no message)"
        return str(error) or nothing
    except Exception as exc:
        return f"(its message could not be shown: {type(exc).__name__})"


def format_traceback(error: BaseException) -> str:
    """The traceback of error from the model's first frame on: the worker's own frames above are left out."""
    tb = _below_package(error.__traceback__)
    try:
        return "".join(traceback.format_exception(type(error), error, tb))
    except Exception:  # an exception whose own __str__ or __repr__ raises
        return "".join(traceback.format_tb(tb)) + type(error).__qualname__ + "\n"


def _below_package(tb: TracebackType | None) -> TracebackType | None:
    while tb is not None and tb.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        tb = tb.tb_next
    return tb


def _http_face(error: BaseException) -> tuple[int, dict[str, str]]:
    if isinstance(error, Error):
        return error.status, error.headers
    werkzeug = sys.modules.get("werkzeug.exceptions")
    if werkzeug is not None and isinstance(error, werkzeug.HTTPException) and error.code:
        return error.code, {}
    return 500, {}


def _pickled_exception(error: BaseException) -> bytes:
    if not isinstance(error, Exception):
        return b""
    try:
        data, buffers = dumps(error)
        if buffers:  # an exception that holds arrays: everything inside the one pickle
            data = pickle.dumps(error, 5)
    except Exception:
        return b""
    return data


def _encode_int(answer: int) -> Coded:
    return _wire.JSON, str(answer).encode()


def _encode_float(answer: float) -> Coded:
    # Anything but NaN and the infinities gives 0.0.
    if answer * 0.0 != 0.0:
        raise ValueError(f"{answer!r} has no form in JSON")
    return _wire.JSON, repr(answer).encode()


def _encode_json(answer: Any) -> Coded:
    return _wire.JSON, _to_json(answer).encode()


def _encode_response(answer: Response) -> Coded:
    body, headers = answer.encoded()
    return _response(answer.status, headers, body)


def _response(status: int, headers: Any, body: bytes) -> Coded:
    head = json.dumps({"status": status, "headers": headers}).encode()
    return _wire.RESPONSE, [U32.pack(len(head)), head, body]


def _encode_other(answer: Any) -> Coded:
    """Subclasses, and types of libraries that this package does not import."""
    if isinstance(answer, BaseException):
        return encode_fault(answer, api=False)
    if isinstance(answer, str):
        return _wire.TEXT, str(answer).encode()
    if isinstance(answer, (bytes, bytearray, memoryview)):
        return _wire.BYTES, bytes(answer)
    if isinstance(answer, Response):
        return _encode_response(answer)
    werkzeug = sys.modules.get("werkzeug.wrappers")
    if werkzeug is not None and isinstance(answer, werkzeug.Response):
        return _response(answer.status_code, list(answer.headers.items()), answer.get_data())
    if hasattr(answer, "tolist"):
        return encode_plain(answer.tolist())
    return _encode_json(answer)


def _json_default(value: Any) -> Any:
    """What JSON gets for an object that it does not know. tolist: arrays and scalars of numpy, tensors."""
    for method in ("tolist", "model_dump"):
        convert = getattr(value, method, None)
        if callable(convert) and not isinstance(value, type):
            return convert() if method == "tolist" else convert(mode="json")
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return {name: getattr(value, name) for name in value.__dataclass_fields__}
    raise TypeError(f"{type(value).__name__} has no form in JSON")


_to_json = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_json_default
).encode

_HANDLERS: dict[type, Callable[[Any], Coded]] = {
    type(None): lambda _: _NULL,
    bool: lambda answer: _TRUE if answer else _FALSE,
    int: _encode_int,
    float: _encode_float,
    str: lambda answer: (_wire.TEXT, answer.encode()),
    bytes: lambda answer: (_wire.BYTES, answer),
    bytearray: lambda answer: (_wire.BYTES, answer),
    list: _encode_json,
    tuple: _encode_json,
    dict: _encode_json,
    Response: _encode_response,
}
