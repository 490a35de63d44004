"""Serving models: ``from shoal import serve``.

The functions of this module act on the server that init() or start() began, or that connect() found; a
Client has the same as methods.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._accept import accept_batch
from ._array_spec import Array
from ._context import Context, context
from ._errors import Error

if TYPE_CHECKING:
    from ._client import Client
    from ._handle import Handle

__all__ = [
    "Array",
    "Client",
    "Context",
    "abort_canary",
    "accept_batch",
    "canary",
    "connect",
    "context",
    "create_backend",
    "create_endpoint",
    "delete_backend",
    "delete_endpoint",
    "get_backend_config",
    "get_handle",
    "init",
    "list_backends",
    "list_endpoints",
    "promote_canary",
    "set_traffic",
    "shadow_traffic",
    "shutdown",
    "start",
    "start_canary",
    "status",
    "update_backend_config",
    "verify",
]

_client: Client | None = None


def init(http_host: str = "127.0.0.1", http_port: int = 8000) -> Client:
    """Start a server for this program, unless there is one already; returns the client.

    With $SHOAL_SERVER (an address, and $SHOAL_TOKEN where it needs one) it connects to that server instead.
    """
    if _client is not None and not _client.closed:
        return _client
    return start(http_host=http_host, http_port=http_port)


def start(detached: bool = False, http_host: str = "127.0.0.1", http_port: int = 8000) -> Client:
    """Start a server and use it from now on; returns a client of it.

    It listens for HTTP on http_host and http_port (0 picks a free one, see client.http_address), and stops
    when this program ends, in whatever way. detached: it goes on until it is stopped, and connect() without
    an address finds it. With $SHOAL_SERVER it connects to that server instead of starting one.
    Raises shoal.Unavailable with the server's words when it does not come up.
    """
    global _client
    from . import _client as clients

    if os.environ.get("SHOAL_SERVER"):
        return connect()
    _client = clients.start(http_host, http_port, detached=detached)
    return _client


def connect(address: str | None = None, token: str | None = None, *, allow_pickle: bool = True) -> Client:
    """Use a running server from now on; returns a client of it.

    address is "unix:/path/to/socket" or "http://host:port"; without one it is $SHOAL_SERVER, else
    the one server of this user that runs on this machine. allow_pickle=False is for a server that is not
    trusted to run code here: queries go as JSON, and no answer of it is unpickled.
    Raises shoal.Unavailable, shoal.Unauthorized.
    """
    global _client
    from . import _client as clients

    _client = clients.connect(address, token, allow_pickle=allow_pickle)
    return _client


def shutdown() -> None:
    """Leave the server; one that init() or start() began is stopped gracefully."""
    global _client
    if _client is not None:
        client, _client = _client, None
        client.shutdown()


def _current() -> Client:
    if _client is None:
        raise Error("there is no server yet: call serve.init() or serve.start(), or serve.connect(address)")
    return _client


def create_backend(
    name: str,
    func_or_class: Callable[..., Any],
    /,
    *init_args: Any,
    config: Mapping[str, Any] | None = None,
    replace: bool | None = None,
    ray_actor_options: Mapping[str, Any] | None = None,
    **init_kwargs: Any,
) -> None:
    """Deploy a function or class as a backend; see Client.create_backend."""
    _current().create_backend(
        name,
        func_or_class,
        *init_args,
        config=config,
        replace=replace,
        ray_actor_options=ray_actor_options,
        **init_kwargs,
    )


def update_backend_config(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Change some keys of a backend's config while it runs; see Client.update_backend_config."""
    return _current().update_backend_config(name, config)


def get_backend_config(name: str) -> dict[str, Any]:
    """A backend's config; see Client.get_backend_config."""
    return _current().get_backend_config(name)


def list_backends() -> dict[str, dict[str, Any]]:
    """The config of every backend, by name."""
    return _current().list_backends()


def delete_backend(name: str) -> None:
    """Remove a backend; see Client.delete_backend."""
    _current().delete_backend(name)


def create_endpoint(
    name: str,
    /,
    *,
    backend: str,
    route: str | None = None,
    methods: Sequence[str] = ("GET",),
    example: Mapping[str, Any] | None = None,
) -> None:
    """Create an endpoint for a backend; see Client.create_endpoint."""
    _current().create_endpoint(name, backend=backend, route=route, methods=methods, example=example)


def list_endpoints() -> dict[str, dict[str, Any]]:
    """Route, methods, traffic and shadows of every endpoint, by name."""
    return _current().list_endpoints()


def delete_endpoint(name: str) -> None:
    """Remove an endpoint; its backends stay."""
    _current().delete_endpoint(name)


def set_traffic(endpoint: str, traffic: Mapping[str, float]) -> None:
    """Split an endpoint's traffic over backends; see Client.set_traffic."""
    _current().set_traffic(endpoint, traffic)


def shadow_traffic(
    endpoint: str, backend: str, proportion: float, *, compare: Mapping[str, Any] | None = None
) -> None:
    """Copy a part of an endpoint's traffic to a backend; see Client.shadow_traffic."""
    _current().shadow_traffic(endpoint, backend, proportion, compare=compare)


def start_canary(endpoint: str, backend: str, **options: Any) -> dict[str, Any]:
    """Have a backend take over an endpoint's traffic in steps; see Client.start_canary."""
    return _current().start_canary(endpoint, backend, **options)


def canary(endpoint: str) -> dict[str, Any] | None:
    """The canary of an endpoint that runs, or the last one; None if there was none."""
    return _current().canary(endpoint)


def abort_canary(endpoint: str) -> dict[str, Any]:
    """Turn an endpoint's canary back to the traffic before it."""
    return _current().abort_canary(endpoint)


def promote_canary(endpoint: str) -> dict[str, Any]:
    """Give an endpoint's canary all of the traffic now."""
    return _current().promote_canary(endpoint)


def verify(endpoint: str, /, *items: Mapping[str, Any], **options: Any) -> list[dict[str, Any]]:
    """Whether an endpoint's models give the same answers in any company; see Client.verify."""
    return _current().verify(endpoint, *items, **options)


def get_handle(endpoint: str) -> Handle:
    """A handle that calls an endpoint. Raises EndpointNotFound."""
    return _current().get_handle(endpoint)


def status() -> dict[str, Any]:
    """What the server says about itself; see Client.status."""
    return _current().status()


def __getattr__(name: str) -> Any:
    # Workers import this module for context and accept_batch; they need no client.
    if name == "Client":
        from ._client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
