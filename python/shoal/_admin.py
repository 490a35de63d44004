"""The admin API: HTTP and JSON calls to a server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import quote

from . import _address
from ._errors import SERVER_ERRORS, Error, InvalidArgument, Unavailable


class Admin:
    """Calls to one server. Safe for use by several threads: each call has a connection of its own."""

    def __init__(self, address: _address.Address, token: str | None = None) -> None:
        self.address = address
        self._token = token

    def headers(self) -> dict[str, str]:
        """The headers that every request to the server carries."""
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def call(
        self, method: str, path: str, body: Any = None, *, query: str = "", timeout: float | None = None
    ) -> Any:
        """Make a call whose path is built with `at`; returns the JSON answer, None where there is none.

        body is bytes (sent as they are) or anything for JSON. Raises the typed error that the server names,
        InvalidArgument for what JSON does not have, and Unavailable when there is no server.
        """
        headers = self.headers()
        if isinstance(body, bytes):
            headers["Content-Type"] = "application/octet-stream"
        elif body is not None:
            body = _json(body)
            headers["Content-Type"] = "application/json"
        connection = _address.Connection(self.address, timeout)
        try:
            connection.request(method, path + query, body, headers)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, HTTPException) as exc:
            raise Unavailable(f"no answer from a shoal server at {self.address}: {exc}") from exc
        finally:
            connection.close()
        if not 200 <= response.status < 300:
            raise problem(response.status, answer)
        return json.loads(answer) if answer.strip() else None


def _json(body: Any) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError) as exc:
        raise InvalidArgument(f"this cannot be sent to the server: {exc}") from None


def at(*parts: str) -> str:
    """The path of a call, with names escaped. Raises InvalidArgument for what a path cannot hold."""
    for part in parts:
        if part in ("", ".", ".."):
            raise InvalidArgument(f"{part!r} cannot be a name")
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def problem(status: int, body: bytes) -> Exception:
    """The typed error in a problem details body."""
    try:
        details = json.loads(body)
    except ValueError:
        details = None
    if not isinstance(details, Mapping):
        return Error(f"the server answered {status}: {body[:500].decode('utf-8', 'replace')}", status=status)
    message = str(details.get("detail") or details.get("title") or f"the server answered {status}")
    cls = SERVER_ERRORS.get(str(details.get("code")), Error)
    return cls(message, status=status, traceback=str(details.get("traceback") or ""))
