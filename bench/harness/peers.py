"""Who is measured, and how each one is started at its best. bench/README.md says why each is set up so."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from .environments import BENCH, TREE, build, python_of, version_of
from .processes import Launch, free_port
from .workloads import (
    DIGITS_MODEL,
    LIST,
    MAX_BATCH_SIZE,
    OPEN_INFERENCE,
    PLAIN,
    Case,
    Exchange,
    Form,
    Workload,
    plain,
)

APPS = BENCH / "peers"

JSON_WORKLOADS = ("W1", "W2", "digits")
ALL_WORKLOADS = (*JSON_WORKLOADS, "tensors")


@dataclass(frozen=True)
class Tools:
    """What a peer needs to start, ready on this machine."""

    scratch: Path
    python: Path = Path()
    binary: Path = Path()
    # Shoal's own, for its peers alone.
    sdk: Path = TREE / "python"

    def folder(self, name: str) -> str:
        """A folder of the run's own, removed at its end."""
        path = self.scratch / name
        path.mkdir(exist_ok=True)
        return str(path)


# MLServer batches only where this is more than 0. See README.md for how it was chosen.
MLSERVER_WAIT_SECONDS = "0.0001"

Launcher = Callable[[Tools, str, int], Launch]


@dataclass(frozen=True)
class Peer:
    """A server to measure. start(tools, model, port) says how it is started, form how it wants its queries."""

    name: str
    title: str
    settings: str
    start: Launcher
    environment: str = ""
    package: str = ""
    distribution: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    form: Form = PLAIN
    workloads: tuple[str, ...] = JSON_WORKLOADS
    echoes: bool = False

    def serves(self, workload: Workload) -> bool:
        """Whether it is measured on a workload: some servers take no raw bytes, some are here for one point."""
        return workload.name in self.workloads

    def exchange(self, case: Case) -> Exchange:
        """A query as this server takes it, and what it must answer."""
        if not self.echoes:
            return self.form.exchange(case)
        sent = plain(case.x)
        return replace(
            PLAIN.exchange(case), answer=str(len(sent)) if isinstance(case.x, bytes) else sent.decode()
        )

    def prepare(self, scratch: Path) -> Tools:
        """Install and build what the peer needs. Raises SetupError."""
        python = python_of(self.environment) if self.environment else Path()
        binary = build(self.package, scratch / self.name) if self.package else Path()
        return Tools(scratch, python, binary)

    def version(self, tools: Tools) -> str:
        """The version measured."""
        return version_of(tools.python, self.distribution) if self.distribution else "this commit"


def model_env(tools: Tools, model: str, *python_path: Path) -> dict[str, str]:
    """What programs that load a model of peers/models.py need in their environment."""
    counts = tools.scratch / "counts"
    counts.write_bytes(bytes(16))
    return {
        "SHOAL_BENCH_MODEL": model,
        "SHOAL_BENCH_MAX_BATCH_SIZE": str(MAX_BATCH_SIZE),
        "SHOAL_BENCH_COUNTS": str(counts),
        "SHOAL_BENCH_DIGITS": str(tools.scratch / DIGITS_MODEL),
        # More threads do not pay for the small matrices here, and two servers' worth would fight for the cores.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": ":".join(map(str, (APPS, *python_path))),
    }


def _echo(tools: Tools, model: str, port: int) -> Launch:
    address = f"127.0.0.1:{port}"
    path = "length" if model == "total" else ""
    return Launch([str(tools.binary), "-http", address], f"http://{address}/{path}")


def shoal(app: str = "shoal_app.py", max_batch_size: int = MAX_BATCH_SIZE) -> Launcher:
    """How Shoal is started with a program of peers/."""

    def start(tools: Tools, model: str, port: int) -> Launch:
        address = f"127.0.0.1:{port}"
        env = model_env(tools, model, tools.sdk)
        argv = [str(tools.binary), "serve", f"{APPS / app}:predict", "--http", address]
        argv += ["--max-batch-size", str(max_batch_size), "--interpreter", str(tools.python)]
        argv += ["--admin", f"unix:{tools.scratch / 'admin'}"]
        return Launch(argv, f"http://{address}/predict", env)

    return start


def _mosec(*flags: str, wait_ms: int = 0) -> Launcher:
    def start(tools: Tools, model: str, port: int) -> Launch:
        env = model_env(tools, model) | {"SHOAL_BENCH_MOSEC_WAIT_MS": str(wait_ms)}
        argv = [str(tools.python), str(APPS / "mosec_app.py"), "--address", "127.0.0.1", "--port", str(port)]
        argv += ["--log-level", "error", "--path", tools.folder("mosec"), *flags]
        return Launch(argv, f"http://127.0.0.1:{port}/inference", env)

    return start


def ray_env(tools: Tools) -> dict[str, str]:
    """What Ray needs to keep to itself."""
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        # Else Ray writes a token to the home folder.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "SHOAL_BENCH_RAY_FOLDER": tools.folder("ray"),
    }


def _ray(**variables: str) -> Launcher:
    def start(tools: Tools, model: str, port: int) -> Launch:
        env = model_env(tools, model) | ray_env(tools) | {"SHOAL_BENCH_PORT": str(port)}
        numbers = {"port": port, "next": port + 1, "other": free_port()}
        env |= {name: value.format_map(numbers) for name, value in variables.items()}
        argv = [str(tools.python), str(APPS / "ray_app.py")]
        return Launch(argv, f"http://127.0.0.1:{port}/", env, start_seconds=120, stop_seconds=20)

    return start


def _litserve(tools: Tools, model: str, port: int) -> Launch:
    env = model_env(tools, model) | {"SHOAL_BENCH_PORT": str(port)}
    argv = [str(tools.python), str(APPS / "litserve_app.py")]
    return Launch(argv, f"http://127.0.0.1:{port}/predict", env, start_seconds=60)


def _mlserver(tools: Tools, model: str, port: int) -> Launch:
    env = model_env(tools, model) | {
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": str(port),
        "MLSERVER_GRPC_PORT": str(free_port()),
        "MLSERVER_PARALLEL_WORKERS": "1",
        "MLSERVER_DEBUG": "false",
        "MLSERVER_GZIP_ENABLED": "false",
        "MLSERVER_METRICS_ENDPOINT": "",
        "MLSERVER_MODEL_NAME": "model",
        "MLSERVER_MODEL_IMPLEMENTATION": "mlserver_app.Model",
        "MLSERVER_MODEL_MAX_BATCH_SIZE": str(MAX_BATCH_SIZE),
        "MLSERVER_MODEL_MAX_BATCH_TIME": MLSERVER_WAIT_SECONDS,
    }
    argv = [str(tools.python.with_name("mlserver")), "start", tools.folder("mlserver")]
    return Launch(argv, f"http://127.0.0.1:{port}/v2/models/model/infer", env, start_seconds=60)


def _bentoml(tools: Tools, model: str, port: int) -> Launch:
    env = model_env(tools, model) | {
        "BENTOML_HOME": tools.folder("bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    argv = [str(tools.python), "-m", "bentoml", "serve", "bentoml_app:Model", "--working-dir", str(APPS)]
    argv += ["--host", "127.0.0.1", "--port", str(port)]
    return Launch(argv, f"http://127.0.0.1:{port}/predict", env, start_seconds=60)


ECHO = Peer(
    "echo",
    "bare `net/http` echo",
    "answers each request with its own body; no model",
    _echo,
    package="./bench/echo",
    workloads=("W1", "tensors"),
    echoes=True,
)

SHOAL = Peer(
    "shoal",
    "Shoal",
    "default settings; the model takes a list of requests",
    shoal(),
    environment="shoal",
    package="./cmd/shoal",
    workloads=ALL_WORKLOADS,
)

SHOAL_ARRAYS = replace(
    SHOAL,
    name="shoal-arrays",
    title="Shoal, arrays",
    settings="default settings; the model takes arrays (`arrays=`)",
    start=shoal("shoal_arrays.py"),
    workloads=("W1", "W2", "tensors"),
)

SHOAL_ALONE = replace(
    SHOAL,
    name="shoal-alone",
    title="Shoal, `max_batch_size` 1",
    settings="as Shoal, but every query is computed alone",
    start=shoal(max_batch_size=1),
    workloads=("digits",),
)

MOSEC = Peer(
    "mosec",
    "Mosec",
    "one worker, `--wait 0` (deprecated, but the smallest wait there is), log level error",
    _mosec("--wait", "0"),
    environment="mosec",
    distribution="mosec",
    workloads=ALL_WORKLOADS,
)

MOSEC_1MS = Peer(
    "mosec-1ms",
    "Mosec, 1 ms wait",
    "one worker, `max_wait_time=1` (the smallest that is not deprecated), log level error",
    _mosec(wait_ms=1),
    environment="mosec",
    distribution="mosec",
    workloads=("W1",),
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
    workloads=ALL_WORKLOADS,
)

RAY_DEFAULT = Peer(
    "ray-default",
    "Ray Serve, as it comes",
    "one replica behind Serve's HTTP proxy, access log off",
    _ray(),
    environment="ray",
    distribution="ray",
    workloads=("W1",),
)

LITSERVE = Peer(
    "litserve",
    "LitServe",
    "one API server, one worker, `batch_timeout=0`, log level error",
    _litserve,
    environment="litserve",
    distribution="litserve",
)

MLSERVER = Peer(
    "mlserver",
    "MLServer",
    f"one parallel worker, `max_batch_time={MLSERVER_WAIT_SECONDS}` s, no metrics, no gzip, debug off; Open Inference Protocol",
    _mlserver,
    environment="mlserver",
    distribution="mlserver",
    form=OPEN_INFERENCE,
)

BENTOML = Peer(
    "bentoml",
    "BentoML",
    "one worker, a batchable API (its dispatcher learns how long to wait), no metrics, no access log",
    _bentoml,
    environment="bentoml",
    distribution="bentoml",
    form=LIST,
)

PEERS = {
    peer.name: peer
    for peer in (
        SHOAL,
        SHOAL_ARRAYS,
        SHOAL_ALONE,
        MOSEC,
        MOSEC_1MS,
        RAY,
        RAY_DEFAULT,
        LITSERVE,
        MLSERVER,
        BENTOML,
    )
}
