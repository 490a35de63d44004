"""`shoal.Response`: an answer with its own HTTP status and headers."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Iterable, Mapping
from typing import Any


class Response:
    """What a model returns to choose status and headers of one web answer.

    body is bytes (sent as they are), a str (sent as text) or anything that JSON can say. headers is a mapping
    or a list of pairs. content_type, or a Content-Type header, overrides the type that follows from the body.
    Raises ValueError, or TypeError, for a status or a header that no answer can have.
    """

    __slots__ = ("body", "status", "headers")

    def __init__(
        self,
        body: Any = b"",
        status: int = 200,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        content_type: str | None = None,
    ) -> None:
        self.body = body
        self.status = _checked_status(status)
        pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
        self.headers = [(str(name), str(value)) for name, value in pairs]
        if content_type is not None:
            self.headers = [pair for pair in self.headers if pair[0].lower() != "content-type"]
            self.headers.append(("Content-Type", content_type))
        for name, value in self.headers:
            _check_header(name, value)

    def encoded(self) -> tuple[bytes, list[tuple[str, str]]]:
        """The body as bytes, and the headers with a Content-Type. Raises what JSON encoding raises."""
        if isinstance(self.body, str):
            body, kind = self.body.encode(), "text/plain; charset=utf-8"
        elif isinstance(self.body, (bytes, bytearray, memoryview)):
            body, kind = bytes(self.body), "application/octet-stream"
        else:
            body, kind = json.dumps(self.body, allow_nan=False).encode(), "application/json"
        if any(name.lower() == "content-type" for name, _ in self.headers):
            return body, self.headers
        return body, [*self.headers, ("Content-Type", kind)]

    def __repr__(self) -> str:
        return f"Response(status={self.status}, body={self.body!r})"


_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def _checked_status(status: int) -> int:
    try:
        number = operator.index(status)
    except TypeError:
        raise TypeError(
            f"a status is a whole number from 200 to 599, not {status!r} of type {type(status).__name__}"
        ) from None
    if not 200 <= number <= 599:
        raise ValueError(f"a status is a whole number from 200 to 599, not {number}")
    return number


def _check_header(name: str, value: str) -> None:
    if not _TOKEN.fullmatch(name):
        raise ValueError(
            f"{name!r} is not the name of a header: it has letters, digits and some of !#$%&'*+.^_`|~-"
        )
    if _CONTROLS.search(value):
        raise ValueError(f"the header {name} must not hold line breaks or other controls, got {value!r}")
