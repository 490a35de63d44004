"""Shoal serves vectorised models: callers send single queries, the model computes opportunistic batches.

``serve`` deploys and calls models, ``remote`` runs plain functions in the background, ``get`` and ``wait``
collect answers. Errors of the server, of models and of this package are all shoal.Error.
"""

from __future__ import annotations

from typing import Any

from . import serve
from ._errors import (
    AlreadyExists,
    BackendNotFound,
    BadRequest,
    BatchTimeout,
    Canceled,
    DeadlineExceeded,
    Draining,
    EndpointNotFound,
    Error,
    Forbidden,
    InUse,
    InvalidArgument,
    LoadFailed,
    ModelError,
    QueueFull,
    TooLarge,
    Unauthorized,
    Unavailable,
    WorkerDied,
    WrongAnswerCount,
)
from ._ref import Ref, get, wait
from ._remote import remote, resize, stop
from ._request import Placeholder, Request
from ._response import Response
from ._version import __version__

__all__ = [
    "AlreadyExists",
    "BackendNotFound",
    "BadRequest",
    "BatchTimeout",
    "Canceled",
    "DeadlineExceeded",
    "Draining",
    "EndpointNotFound",
    "Error",
    "InUse",
    "InvalidArgument",
    "LoadFailed",
    "ModelError",
    "Placeholder",
    "QueueFull",
    "Ref",
    "Request",
    "Response",
    "TooLarge",
    "Forbidden",
    "Unauthorized",
    "Unavailable",
    "WorkerDied",
    "WrongAnswerCount",
    "__version__",
    "get",
    "init",
    "remote",
    "serve",
    "shutdown",
    "wait",
]


def init(num_cpus: float | None = None, **ray_arguments: Any) -> None:
    """Let at most num_cpus functions of shoal.remote run at a time (32 without it).

    Calling it is never needed. It takes, and does without, the other arguments of ray.init, so that a script
    written for Ray runs with ``import shoal as ray``.
    """
    resize(num_cpus)


def shutdown() -> None:
    """Leave the server (see serve.shutdown) and drop what shoal.remote has not begun."""
    serve.shutdown()
    stop()
