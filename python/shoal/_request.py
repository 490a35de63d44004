"""What a model sees of one query: a web request, or a stand-in with the same face for a handle's query.

Nothing is parsed before it is asked for: a model that only reads `.data` of ten thousand requests pays for
ten thousand slices and no more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from ._errors import BadRequest
from ._needs import need

if TYPE_CHECKING:
    from werkzeug.datastructures import FileStorage, Headers, MultiDict

_multidict: Any = None  # werkzeug's MultiDict, once needed

_scan = json.scanner.make_scanner(json.JSONDecoder())  # type: ignore[attr-defined]


def read_json(body: bytes | bytearray) -> Any:
    """json.loads, five times as fast for the short texts that most queries are. Raises what it raises."""
    try:
        text = body.decode()
        value, end = _scan(text, 0)
        if end == len(text):
            return value
    except (StopIteration, ValueError):
        pass
    return json.loads(body)  # blanks around, other encodings, and what is wrong


class Request:
    """One web query.

    It reads out of the batch's frame: the head lies at [head, body), the body at [body, end).
    """

    __slots__ = ("_frame", "_head", "_body", "_end", "_memo")

    def __init__(self, frame: bytearray, head: int, body: int, end: int) -> None:
        self._frame = frame
        self._head = head
        self._body = body
        self._end = end
        self._memo: dict[str, Any] | None = None

    def _first_line(self) -> tuple[str, str, str]:
        """Method, raw path, raw query string."""
        end = self._frame.find(b"\n", self._head, self._body)
        line = self._frame[self._head : end if end >= 0 else self._body].decode("utf-8", "replace")
        method, _, target = line.partition(" ")
        path, _, query = target.partition("?")
        return method, path, query

    def _head_lines(self) -> list[str]:
        """Every line of the head: the request's own, its id, then the headers."""
        return self._frame[self._head : self._body].decode("utf-8", "replace").split("\n")

    def _kept(self) -> dict[str, Any]:
        if self._memo is None:
            self._memo = {}
        return self._memo

    @property
    def method(self) -> str:
        """The HTTP method, such as "GET"."""
        return self._first_line()[0]

    @property
    def path(self) -> str:
        """The path, percent-decoded, without the query string."""
        return unquote(self._first_line()[1])

    @property
    def query_string(self) -> bytes:
        """The query string as it was received, without the question mark."""
        return self._first_line()[2].encode()

    @property
    def id(self) -> str:
        """The request id that the server gave or took over from the caller."""
        lines = self._head_lines()
        return lines[1] if len(lines) > 1 else ""

    @property
    def args(self) -> MultiDict[str, str]:
        """The query string's parameters. A missing one raises KeyError, which answers HTTP 400."""
        kept = self._memo
        if kept is None or "args" not in kept:
            kept = self._kept()
            kept["args"] = _parse_query(self._first_line()[2])
        args: MultiDict[str, str] = kept["args"]
        return args

    @property
    def headers(self) -> Headers:
        """The request's headers, whatever the case they are asked in."""
        kept = self._kept()
        if "headers" not in kept:
            pairs = [line.partition(": ") for line in self._head_lines()[2:]]
            kept["headers"] = _headers([(name, value) for name, _, value in pairs if name])
        headers: Headers = kept["headers"]
        return headers

    @property
    def data(self) -> bytes:
        """The request's body."""
        kept = self._kept()
        if "data" not in kept:
            kept["data"] = bytes(memoryview(self._frame)[self._body : self._end])
        data: bytes = kept["data"]
        return data

    @property
    def json(self) -> Any:
        """The body as JSON, whatever its Content-Type. Raises BadRequest when it is not JSON."""
        kept = self._memo
        if kept is None or "json" not in kept:
            try:
                value = read_json(self._frame[self._body : self._end])
            except (ValueError, RecursionError) as exc:
                raise BadRequest(f"the body is not JSON: {exc}") from None
            kept = self._kept()
            kept["json"] = value
        return kept["json"]

    @property
    def form(self) -> MultiDict[str, str]:
        """The fields of a URL-encoded or multipart body; empty for any other."""
        form: MultiDict[str, str] = self._form()[0]
        return form

    @property
    def files(self) -> MultiDict[str, FileStorage]:
        """The files of a multipart body."""
        files: MultiDict[str, FileStorage] = self._form()[1]
        return files

    def _form(self) -> tuple[Any, Any]:
        kept = self._kept()
        if "form" not in kept:
            kept["form"] = _parse_form(self.headers.get("Content-Type", ""), self.data)
        form: tuple[Any, Any] = kept["form"]
        return form

    def get_json(self, force: bool = False, silent: bool = False) -> Any:
        """As json; with silent, None instead of BadRequest. force is accepted for Flask's sake."""
        try:
            return self.json
        except BadRequest:
            if silent:
                return None
            raise

    def get_data(self, as_text: bool = False) -> bytes | str:
        """The body as bytes or, with as_text, decoded as UTF-8."""
        return self.data.decode("utf-8", "replace") if as_text else self.data

    def __repr__(self) -> str:
        method, path, _ = self._first_line()
        return f"<shoal request {method} {path}>"


class Placeholder:
    """One query of a handle, with the face of a Request.

    data is what the caller gave as the first argument of remote (None where nothing was given): a dict shows
    in json and form, anything is in data as it is. args holds the keyword arguments.
    """

    __slots__ = ("data", "method", "_kwargs", "_headers")

    path = ""
    query_string = b""
    id = ""

    def __init__(
        self, data: Any, kwargs: dict[str, Any], method: str = "GET", headers: Mapping[str, str] | None = None
    ) -> None:
        self.data = data
        self.method = method
        self._kwargs = kwargs
        self._headers = headers

    @property
    def args(self) -> MultiDict[str, Any]:
        """The keyword arguments of the call."""
        return _fields(self._kwargs)

    @property
    def headers(self) -> Headers:
        """The headers given to handle.options(http_headers=)."""
        return _headers(list((self._headers or {}).items()))

    @property
    def json(self) -> Any:
        """The data, where it is a dict. Raises BadRequest otherwise."""
        if not isinstance(self.data, dict):
            raise BadRequest(f"the call's data is {type(self.data).__name__}, not a dict")
        return self.data

    @property
    def form(self) -> MultiDict[str, Any]:
        """The data's items, where it is a dict; empty otherwise."""
        return _fields(self.data if isinstance(self.data, dict) else {})

    @property
    def files(self) -> MultiDict[str, FileStorage]:
        """Always empty: a handle sends objects, not files."""
        return _fields({})

    def get_json(self, force: bool = False, silent: bool = False) -> Any:
        """As json; with silent, None instead of BadRequest."""
        return None if silent and not isinstance(self.data, dict) else self.json

    def get_data(self, as_text: bool = False) -> Any:
        """The data; with as_text, bytes are decoded as UTF-8 and other objects become their str."""
        if not as_text:
            return self.data
        return self.data.decode("utf-8", "replace") if isinstance(self.data, bytes) else str(self.data)

    def __repr__(self) -> str:
        return f"<shoal placeholder data={self.data!r} kwargs={self._kwargs!r}>"


def _fields(values: Mapping[str, Any]) -> MultiDict[str, Any]:
    return _make_multidict(values.items())


def _make_multidict(pairs: Iterable[Sequence[Any]]) -> MultiDict[str, Any]:
    global _multidict
    if _multidict is None:
        _multidict = need("werkzeug.datastructures", "to show a request's parameters").MultiDict
    # Its own __init__ takes longer than all else that a request's parameters need.
    made: MultiDict[str, Any] = _multidict.__new__(_multidict)
    for name, value in pairs:
        dict.setdefault(made, name, []).append(value)
    return made


def _headers(pairs: list[tuple[str, str]]) -> Headers:
    headers: Headers = need("werkzeug.datastructures", "to show a request's headers").Headers(pairs)
    return headers


def _parse_query(query: str) -> MultiDict[str, Any]:
    if "%" in query or "+" in query:
        return _make_multidict(parse_qsl(query, keep_blank_values=True))
    if "&" not in query:  # the common case: one plain parameter, or none
        name, _, value = query.partition("=")
        return _make_multidict([(name, value)] if query else ())
    return _make_multidict([part.partition("=")[::2] for part in query.split("&") if part])


def _parse_form(content_type: str, body: bytes) -> tuple[Any, Any]:
    from io import BytesIO

    http = need("werkzeug.http", "to read forms")
    parser = need("werkzeug.formparser", "to read forms").FormDataParser()
    mimetype, options = http.parse_options_header(content_type)
    _, form, files = parser.parse(BytesIO(body), mimetype, len(body), options)
    return form, files
