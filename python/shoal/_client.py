"""A client of one server: everything that `serve` can do, as methods."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from . import _address, _link
from ._accept import default_config
from ._admin import Admin, at
from ._config import check_batching, check_config
from ._deploy import check_target, pickle_target, surroundings
from ._errors import EndpointNotFound, Error, InvalidArgument
from ._handle import Handle
from ._server import ServerProcess

Config = Mapping[str, Any]


class Client:
    """Deploys and calls models on one server. Safe to share between threads.

    serve.start() and serve.connect() make clients. Every method raises shoal.Unavailable when the server is
    gone, and shoal.Error after shutdown().
    """

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        process: ServerProcess | None = None,
        allow_pickle: bool = True,
    ) -> None:
        self._admin = Admin(_address.parse(address), token)
        self._allow_pickle = allow_pickle
        self._process = process
        self._link: _link.Link | None = None
        self._opening = threading.Lock()
        self._closed = False
        self.deployed: list[str] = []
        """The backends that this client has created, in order."""
        _clients.add(self)

    @property
    def closed(self) -> bool:
        """Whether shutdown() was called."""
        return self._closed

    @property
    def address(self) -> str:
        """Where the server's admin API listens."""
        return str(self._admin.address)

    @property
    def http_address(self) -> str:
        """Where the server's HTTP front listens, such as "127.0.0.1:8000"."""
        return self._process.http_address if self._process else str(self.status()["http_address"])

    def status(self) -> dict[str, Any]:
        """What the server says about itself: version, addresses, backends with their figures, endpoints."""
        found: dict[str, Any] = self._call("GET", at("status"))
        return found

    def create_backend(
        self,
        name: str,
        func_or_class: Callable[..., Any],
        /,
        *init_args: Any,
        config: Config | None = None,
        replace: bool | None = None,
        ray_actor_options: Mapping[str, Any] | None = None,
        **init_kwargs: Any,
    ) -> None:
        """Deploy a function, or a class whose __init__ runs once a replica, and wait until it is ready.

        config: keys of Config in docs/protocol.md, such as max_batch_size. replace: put it in the
        place of a backend of that name, which goes on until the new one is ready; the default is False,
        and True in a file that a reload of `shoal serve FILE.py` runs again.
        Raises InvalidArgument, AlreadyExists, and LoadFailed with the model's traceback.
        """
        if ray_actor_options:
            raise InvalidArgument(
                "ray_actor_options has no meaning here: use config's num_replicas for how many processes "
                "and its env for their environment variables"
            )
        check_target(func_or_class, init_args, init_kwargs)
        checked = {**check_config(default_config(func_or_class)), **check_config(config or {})}
        check_batching(name, func_or_class, checked)
        blob = pickle_target(func_or_class, init_args, init_kwargs)
        artifact = self._call("POST", at("artifacts"), blob)
        if replace is None:
            replace = os.environ.get("SHOAL_REPLACE") == "1"
        self.deploy(name, {"kind": "pickle", "digest": artifact["digest"]}, checked, replace=replace)

    def deploy(self, name: str, source: dict[str, Any], config: Config, *, replace: bool = False) -> None:
        """Create a backend from a source as the admin API takes it: an uploaded artifact or a file.

        create_backend is the comfortable way. Raises as it does.
        """
        spec = {"python": source, "config": dict(config), **surroundings()}
        self._call("PUT", at("backends", name), spec, query=f"?replace={str(replace).lower()}")
        self.deployed.append(name)

    def update_backend_config(self, name: str, config: Config) -> dict[str, Any]:
        """Change some keys of a backend's config while it runs; returns the whole config after that."""
        return self._config(self._call("PATCH", at("backends", name, "config"), check_config(config)))

    def get_backend_config(self, name: str) -> dict[str, Any]:
        """A backend's config. Raises BackendNotFound."""
        return self._config(self._call("GET", at("backends", name)))

    @staticmethod
    def _config(backend: dict[str, Any]) -> dict[str, Any]:
        config: dict[str, Any] = backend["config"]
        return config

    def list_backends(self) -> dict[str, dict[str, Any]]:
        """The config of every backend, by name."""
        backends = self._call("GET", at("backends"))["backends"]
        return {backend["name"]: backend["config"] for backend in backends}

    def delete_backend(self, name: str) -> None:
        """Remove a backend; nothing happens when there is none. Raises InUse while an endpoint uses it."""
        self._call("DELETE", at("backends", name))

    def create_endpoint(
        self,
        name: str,
        /,
        *,
        backend: str,
        route: str | None = None,
        methods: Sequence[str] = ("GET",),
        example: Mapping[str, Any] | None = None,
    ) -> None:
        """Create an endpoint that sends all its traffic to backend.

        route: an exact HTTP path such as "/adder"; None is for handles only. example: a web request for
        the readiness probe, such as {"query": {"number": "1"}}. The same endpoint may be created again.
        Raises BackendNotFound, AlreadyExists, InvalidArgument.
        """
        if isinstance(methods, str):
            raise InvalidArgument(f'methods is a list, such as ["{methods}"]')
        body = {"backend": backend, "route": route, "methods": list(methods), "example": example}
        sent = {key: value for key, value in body.items() if value is not None}
        self._call("PUT", at("endpoints", name), sent)

    def list_endpoints(self) -> dict[str, dict[str, Any]]:
        """Route, methods, traffic and shadows of every endpoint, by name."""
        endpoints = self._call("GET", at("endpoints"))["endpoints"]
        keys = ("route", "methods", "traffic", "shadows")
        return {endpoint["name"]: {key: endpoint.get(key) for key in keys} for endpoint in endpoints}

    def delete_endpoint(self, name: str) -> None:
        """Remove an endpoint; its backends stay."""
        self._call("DELETE", at("endpoints", name))

    def set_traffic(self, endpoint: str, traffic: Mapping[str, float]) -> None:
        """Split an endpoint's traffic over backends by weights that sum to 1.

        Raises EndpointNotFound, BackendNotFound, InvalidArgument.
        """
        self._call("PUT", at("endpoints", endpoint, "traffic"), dict(traffic))

    def shadow_traffic(
        self, endpoint: str, backend: str, proportion: float, *, compare: Mapping[str, Any] | None = None
    ) -> None:
        """Send a copy of that part (0 to 1) of an endpoint's queries to backend too; its answers are dropped.

        0 stops it. compare: count in status() how the answers differ from the endpoint's, with the keys
        tolerance (1e-5), top_k and ignore, all of them optional.
        """
        body: dict[str, Any] = {"backend": backend, "proportion": proportion}
        if compare is not None:
            body["compare"] = dict(compare)
        self._call("PUT", at("endpoints", endpoint, "shadow"), body)

    def start_canary(self, endpoint: str, backend: str, **options: Any) -> dict[str, Any]:
        """Have a backend take over an endpoint's traffic in steps; it is turned back when it does worse.

        options: steps ([0.05, 0.25, 0.5, 1]), step_time ("1m"), min_queries (50), max_error_rate,
        max_latency_ratio, compare ({"tolerance": 1e-5, "top_k": 0, "ignore": []}: answers to copies are
        compared first), min_compared (100), max_different (0). Returns its status, as canary() does later.
        """
        sent = {
            key: value.total_seconds() if isinstance(value, timedelta) else value
            for key, value in options.items()
        }
        started: dict[str, Any] = self._call(
            "PUT", at("endpoints", endpoint, "canary"), {"backend": backend, **sent}
        )
        return started

    def canary(self, endpoint: str) -> dict[str, Any] | None:
        """The canary of an endpoint that runs, or the last one; None if there was none."""
        found: dict[str, Any] | None = self._call("GET", at("endpoints", endpoint)).get("canary")
        return found

    def abort_canary(self, endpoint: str) -> dict[str, Any]:
        """Turn an endpoint's canary back to the traffic before it."""
        ended: dict[str, Any] = self._call("DELETE", at("endpoints", endpoint, "canary"))
        return ended

    def promote_canary(self, endpoint: str) -> dict[str, Any]:
        """Give an endpoint's canary all of the traffic now."""
        ended: dict[str, Any] = self._call("POST", at("endpoints", endpoint, "canary", "promote"))
        return ended

    def verify(
        self,
        endpoint: str,
        /,
        *items: Mapping[str, Any],
        tolerance: float = 1e-5,
        top_k: int = 0,
        ignore: Sequence[str] = (),
        seed: int = 0,
    ) -> list[dict[str, Any]]:
        """Whether an endpoint's models give the same answers in any company, as `shoal verify` does.

        Items are computed alone, in every batch size and beside broken ones, on a replica of their own: web
        queries such as {"query": {"number": 1}} or {"json": …}, or a handle's, {"data": …} or
        {"kwargs": {…}}; without any the endpoint's example. tolerance, top_k and ignore say when two answers
        are the same, seed is that of the order. Returns a report for each backend that gets traffic: drifted
        is how many answers differed, leaked how many of these were another item's; cases and drifts say more.
        Raises EndpointNotFound, InvalidArgument, LoadFailed.
        """
        compare = {"tolerance": tolerance, "top_k": top_k, "ignore": list(ignore)}
        spec = {"items": [dict(item) for item in items], "compare": compare, "seed": seed}
        reports: list[dict[str, Any]] = self._call("POST", at("endpoints", endpoint, "verify"), spec)[
            "reports"
        ]
        return reports

    def get_handle(self, endpoint: str) -> Handle:
        """A handle that calls an endpoint. Raises EndpointNotFound."""
        self._traffic(endpoint)
        return Handle(endpoint, self._open_link, self._traffic)

    def shutdown(self) -> None:
        """Close the connection and, where this client started the server, stop that gracefully."""
        if self._closed:
            return
        self._closed = True
        if self._link is not None:
            self._link.close()
        if self._process is not None:
            self._process.stop()

    def _traffic(self, endpoint: str) -> dict[str, float]:
        traffic: dict[str, float] = self._call("GET", at("endpoints", endpoint))["traffic"]
        return traffic

    def _call(self, method: str, path: str, body: Any = None, *, query: str = "") -> Any:
        self._check_open()
        return self._admin.call(method, path, body, query=query)

    def _check_open(self) -> None:
        if self._closed:
            raise Error("this client has already been shut down")

    def _open_link(self) -> _link.Link:
        link = self._link
        if link is not None and link.usable:
            return link
        with self._opening:
            self._check_open()
            if self._link is None or not self._link.usable:
                self._link = _link.open_link(
                    self._admin.address, self._admin.headers(), allow_pickle=self._allow_pickle
                )
            return self._link

    def _at_exit(self) -> None:
        if self._process is None or not self._process.detached:
            self.shutdown()

    def _after_fork(self) -> None:
        """In a forked child: server and connection stay the parent's; a new one is opened if needed."""
        self._opening = threading.Lock()
        self._link = None
        if self._process is not None:
            self._process.forget()

    def __repr__(self) -> str:
        return f"<shoal client of {self.address}{' (shut down)' if self._closed else ''}>"


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _exit() -> None:
    for client in list(_clients):
        client._at_exit()


def _child() -> None:
    for client in list(_clients):
        client._after_fork()


atexit.register(_exit)
os.register_at_fork(after_in_child=_child)


def start(http_host: str = "127.0.0.1", http_port: int = 8000, *, detached: bool = False) -> Client:
    """Start a server and return a client of it; see serve.start."""
    process = ServerProcess(http_host, http_port, detached=detached)
    return Client(process.address, process=process)


def connect(address: str | None = None, token: str | None = None, *, allow_pickle: bool = True) -> Client:
    """A client of a running server; see serve.connect."""
    chosen = address or os.environ.get("SHOAL_SERVER") or _address.find()
    client = Client(chosen, token or os.environ.get("SHOAL_TOKEN"), allow_pickle=allow_pickle)
    try:
        client.status()  # a wrong address or token is told now, not at the first query
    except EndpointNotFound:
        raise InvalidArgument(
            f"{chosen} serves queries over HTTP; give the server's admin address, which `shoal serve` logs"
        ) from None
    return client
