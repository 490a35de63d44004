"""Who is measured, and how each one is started at its best. bench/README.md says why each is set up so."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .environments import BENCH, ROOT, build, python_of, version_of
from .processes import Launch, free_port
from .workloads import ANSWER, MAX_BATCH_SIZE, QUERY

APPS = BENCH / "peers"


@dataclass(frozen=True)
class Tools:
    """What a peer needs to start, ready on this machine."""

    scratch: Path
    python: Path = Path()
    binary: Path = Path()

    def folder(self, name: str) -> str:
        """A folder of the run's own, removed at its end."""
        path = self.scratch / name
        path.mkdir(exist_ok=True)
        return str(path)


Launcher = Callable[[Tools, str, int], Launch]


@dataclass(frozen=True)
class Peer:
    """A server to measure. start(tools, model, port) says how it is started."""

    name: str
    title: str
    settings: str
    start: Launcher
    environment: str = ""
    package: str = ""
    distribution: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    echoes: bool = False

    @property
    def answer(self) -> str:
        """What the peer answers to the query that wrk posts."""
        return QUERY if self.echoes else ANSWER

    def prepare(self, scratch: Path) -> Tools:
        """Install and build what the peer needs. Raises SetupError."""
        python = python_of(self.environment) if self.environment else Path()
        binary = build(self.package, scratch / self.name) if self.package else Path()
        return Tools(scratch, python, binary)

    def version(self, tools: Tools) -> str:
        """The version measured."""
        return version_of(tools.python, self.distribution) if self.distribution else "this commit"


def _model_env(tools: Tools, model: str, *python_path: Path) -> dict[str, str]:
    counts = tools.scratch / "counts"
    counts.write_bytes(bytes(16))
    return {
        "SHOAL_BENCH_MODEL": model,
        "SHOAL_BENCH_MAX_BATCH_SIZE": str(MAX_BATCH_SIZE),
        "SHOAL_BENCH_COUNTS": str(counts),
        "PYTHONPATH": ":".join(map(str, (APPS, *python_path))),
    }


def _echo(tools: Tools, _: str, port: int) -> Launch:
    address = f"127.0.0.1:{port}"
    return Launch([str(tools.binary), "-http", address], f"http://{address}/")


def _shoal(tools: Tools, model: str, port: int) -> Launch:
    address = f"127.0.0.1:{port}"
    env = _model_env(tools, model, ROOT / "python")
    argv = [str(tools.binary), "serve", f"{APPS / 'shoal_app.py'}:predict", "--http", address]
    argv += ["--max-batch-size", str(MAX_BATCH_SIZE), "--interpreter", str(tools.python)]
    argv += ["--admin", f"unix:{tools.scratch / 'admin'}"]
    return Launch(argv, f"http://{address}/predict", env)


def _mosec(*flags: str, wait_ms: int = 0) -> Launcher:
    def start(tools: Tools, model: str, port: int) -> Launch:
        env = _model_env(tools, model) | {"SHOAL_BENCH_MOSEC_WAIT_MS": str(wait_ms)}
        argv = [str(tools.python), str(APPS / "mosec_app.py"), "--address", "127.0.0.1", "--port", str(port)]
        argv += ["--log-level", "error", "--path", tools.folder("mosec"), *flags]
        return Launch(argv, f"http://127.0.0.1:{port}/inference", env)

    return start


def _ray(**variables: str) -> Launcher:
    def start(tools: Tools, model: str, port: int) -> Launch:
        env = _model_env(tools, model) | {
            "RAY_USAGE_STATS_ENABLED": "0",
            # Else Ray writes a token to the home folder.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "SHOAL_BENCH_RAY_FOLDER": tools.folder("ray"),
            "SHOAL_BENCH_PORT": str(port),
        }
        numbers = {"port": port, "next": port + 1, "other": free_port()}
        env |= {name: value.format_map(numbers) for name, value in variables.items()}
        argv = [str(tools.python), str(APPS / "ray_app.py")]
        return Launch(argv, f"http://127.0.0.1:{port}/", env, start_seconds=120, stop_seconds=20)

    return start


ECHO = Peer(
    "echo",
    "bare `net/http` echo",
    "answers each request with its own body; no model",
    _echo,
    package="./bench/echo",
    echoes=True,
)

SHOAL = Peer(
    "shoal",
    "Shoal",
    "default settings",
    _shoal,
    environment="shoal",
    package="./cmd/shoal",
)

MOSEC = Peer(
    "mosec",
    "Mosec",
    "one worker, `--wait 0` (deprecated, but the smallest wait there is), log level error",
    _mosec("--wait", "0"),
    environment="mosec",
    distribution="mosec",
)

MOSEC_1MS = Peer(
    "mosec-1ms",
    "Mosec, 1 ms wait",
    "one worker, `max_wait_time=1` (the smallest that is not deprecated), log level error",
    _mosec(wait_ms=1),
    environment="mosec",
    distribution="mosec",
)

RAY = Peer(
    "ray",
    "Ray Serve",
    "one replica, throughput-optimised, its own HTTP ingress without a proxy before it, access log off",
    _ray(
        RAY_SERVE_THROUGHPUT_OPTIMIZED="1",
        RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT="{port}",
        RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT="{next}",
        SHOAL_BENCH_PORT="{other}",
    ),
    environment="ray",
    distribution="ray",
)

RAY_DEFAULT = Peer(
    "ray-default",
    "Ray Serve, as it comes",
    "one replica behind Serve's HTTP proxy, access log off",
    _ray(),
    environment="ray",
    distribution="ray",
)

PEERS = {peer.name: peer for peer in (SHOAL, MOSEC, MOSEC_1MS, RAY, RAY_DEFAULT)}
