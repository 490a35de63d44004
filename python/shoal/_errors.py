"""Every error that the server, a model or the SDK can give a caller, as an exception type."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any


class Error(Exception):
    """The base of all errors of Shoal.

    A model may raise it (or return it as one item of its answers) to choose what a web caller sees:
    status is the HTTP status, headers are added to the answer.
    """

    status: int = 500

    def __init__(
        self,
        message: str = "",
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        traceback: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.headers = dict(headers or {})
        self.traceback = traceback
        if status is not None:
            self.status = status

    def __str__(self) -> str:
        return self.message


class BadRequest(Error):
    """The query itself is wrong (HTTP 400), such as a body that is not JSON."""

    status = 400


class EndpointNotFound(Error):
    """There is no endpoint of that name."""

    status = 404


class BackendNotFound(Error):
    """There is no backend of that name."""

    status = 404


class AlreadyExists(Error, ValueError):
    """The name is taken by something else; a backend can be replaced with replace=True."""

    status = 409


class InvalidArgument(Error, ValueError):
    """An argument cannot be right, whatever the server's state."""

    status = 400


class InUse(Error, ValueError):
    """The backend still receives traffic (or shadow traffic) from an endpoint."""

    status = 409


class QueueFull(Error):
    """There is no room for the query, or not enough time: it was refused at once and not computed."""

    status = 503

    @property
    def retry_after(self) -> float | None:
        """Seconds after which there will probably be room; None when the server did not say."""
        value = self.headers.get("Retry-After", "")
        return float(value) if value.isdigit() else None


class TooLarge(Error):
    """The query is larger than the server accepts."""

    status = 413


class DeadlineExceeded(Error, TimeoutError):
    """The query's timeout passed before its answer was there."""

    status = 504


class Canceled(Error):
    """The query was cancelled."""

    status = 499


class Draining(Error):
    """The server is stopping: it answers what it accepted and takes no more."""

    status = 503


class Unavailable(Error):
    """There is nobody to compute the query: the server is gone, or its backend has no running replica."""

    status = 503


class WrongAnswerCount(Error):
    """The model returned more or fewer answers than there were queries in the batch."""


class WorkerDied(Error):
    """The model's process ended while it computed the batch."""


class BatchTimeout(Error, TimeoutError):
    """The batch computed for longer than the backend's batch_timeout; its worker was replaced."""

    status = 504


class LoadFailed(Error):
    """The backend could not be loaded; the message ends with the model's traceback."""

    status = 422

    def __str__(self) -> str:
        return f"{self.message}\n\n{self.traceback.rstrip()}" if self.traceback else self.message


class Unauthorized(Error):
    """The server wants another token."""

    status = 401


class Forbidden(Error):
    """The server knows the token, but its owner may not do this; or nobody may."""

    status = 403


class ModelError(Error):
    """The model raised an exception that could not travel here itself.

    type is the exception's class name, message its text, traceback the model's Python traceback.
    """

    def __init__(self, message: str = "", *, type: str = "Exception", **rest: Any) -> None:
        super().__init__(message, **rest)
        self.type = type

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"


class RemoteTraceback(Exception):
    """The cause of an exception that came from another process: shows the traceback it had there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"in the model's process:\n{self.text.rstrip()}"


SERVER_ERRORS: dict[str, type[Error]] = {
    cls.__name__: cls
    for cls in (
        EndpointNotFound,
        BackendNotFound,
        AlreadyExists,
        InvalidArgument,
        InUse,
        QueueFull,
        TooLarge,
        DeadlineExceeded,
        Canceled,
        Draining,
        Unavailable,
        WrongAnswerCount,
        WorkerDied,
        BatchTimeout,
        LoadFailed,
        Unauthorized,
        Forbidden,
    )
}
"""What the server gives under its own name (see "Link protocol" in docs/protocol.md)."""

# Users meet these classes as shoal.Name: that is also the type that travels.
for _cls in (Error, BadRequest, ModelError, *SERVER_ERRORS.values()):
    _cls.__module__ = "shoal"


def from_object(error: Mapping[str, Any], pickled: Any = b"") -> Exception:
    """The exception for an error object of the protocol and, where there is one, its pickle."""
    kind, message = str(error.get("type", "Error")), str(error.get("message", ""))
    text = str(error.get("traceback") or "")
    cls = SERVER_ERRORS.get(kind)
    if cls is not None:
        status = error.get("status")
        return cls(message, traceback=text, status=status and int(status), headers=error.get("headers"))
    found = _load_exception(pickled)
    if found is None:
        status = int(error.get("status") or 500)
        found = ModelError(message, type=kind, traceback=text, status=status, headers=error.get("headers"))
    if text:
        found.__cause__ = RemoteTraceback(text)
    return found


def _load_exception(pickled: Any) -> Exception | None:
    if not len(pickled):
        return None
    try:
        found = pickle.loads(pickled)
    except BaseException:  # whatever the class's own code does: the caller must get an error of the query
        return None
    # Only Exception: a SystemExit that a model raised must not end the caller's program.
    return found if isinstance(found, Exception) else None
