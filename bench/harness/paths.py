"""What is measured without wrk: handles in Go and Python, idle connections, and one copy of a tensor's bytes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from .environments import BENCH, TREE, SetupError, build, python_of, run_quietly
from .gobench import GO_PACKAGES, GoBenchmark, run_go_benchmarks
from .idle import measure_idle
from .load import LoadError
from .peers import RAY, Tools, model_env, ray_env
from .processes import StartError
from .workloads import MAX_BATCH_SIZE, TENSOR_FLOATS

COPY_BUFFERS = 64

# Coroutines are the only way where Ray is throughput-optimised.
RAY_WAYS = (
    ("refs", "refs", {}),
    ("coroutines", "coroutines", {}),
    ("coroutines, throughput-optimised", "coroutines", {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}),
)


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rounds: int
    seconds: int
    go_benchtime: str
    map_items: int
    idle_connections: int


@dataclass
class Paths:
    """What was seen: by path, figures as its program printed them."""

    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    go: list[GoBenchmark] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


def measure_paths(names: list[str], effort: Effort, scratch: Path, say: Callable[[str], None]) -> Paths:
    """Measure the paths of these names; one that fails is said, and the others go on."""
    paths = Paths()
    for name in names:
        say(f"{name}: {PATHS[name].title} …")
        try:
            PATHS[name].run(paths, effort, scratch)
        except (SetupError, StartError, LoadError) as exc:
            paths.failures[name] = str(exc).splitlines()[0]
            say(f"    {exc}")
    return paths


def go_handles(paths: Paths, effort: Effort, _: Path) -> None:
    """Go's benchmarks, package by package."""
    for package in GO_PACKAGES:
        if package.exists_in(TREE):
            paths.go += run_go_benchmarks(package, effort.go_benchtime, effort.rounds)


def python_handle(paths: Paths, effort: Effort, scratch: Path) -> None:
    """Shoal's Python handle, with an adder."""
    argv = [str(BENCH / "handle.py"), "--json", "--rounds", str(effort.rounds)]
    argv += ["--seconds", str(effort.seconds), "--items", str(effort.map_items)]
    paths.figures["python handle"] = _shoal_program(argv, scratch)


def ray_handle(paths: Paths, effort: Effort, scratch: Path) -> None:
    """Ray Serve's Python handle, with the same adder: the best of the ways to use it."""
    tools = Tools(scratch, python_of(RAY.environment))
    ways = {}
    for name, way, settings in RAY_WAYS:
        env = model_env(tools, "adder") | ray_env(tools) | settings
        argv = [str(tools.python), str(BENCH / "peers" / "ray_handle.py"), way]
        argv += [str(effort.seconds), str(effort.rounds)]
        ways[name] = _last_json(run_quietly(argv, "ray_handle.py", env=env, seconds=300))
    best = max(ways.values(), key=lambda found: found["queries_per_second"])
    paths.figures["ray handle"] = {"in_flight_64": best, "ways": ways}


def digits_handle(paths: Paths, effort: Effort, scratch: Path) -> None:
    """The digits of examples/digits through Shoal's Python handle."""
    argv = [str(BENCH / "peers" / "digits_handle.py"), str(effort.rounds)]
    paths.figures["digits handle"] = _shoal_program(argv, scratch)


def idle_connections(paths: Paths, effort: Effort, scratch: Path) -> None:
    """Idle keep-alive connections."""
    tools = Tools(scratch, python_of("shoal"), build("./cmd/shoal", scratch / "shoal"))
    paths.figures["idle connections"] = measure_idle(tools, effort.idle_connections)


def memory_copy(paths: Paths, *_: object) -> None:
    """One copy of a tensor's bytes; the buffers take turns, so that they do not all lie in a cache."""
    size = TENSOR_FLOATS * 4
    buffers = [bytearray(size) for _ in range(COPY_BUFFERS)]
    target = memoryview(bytearray(size))
    seen = []
    for _ in range(10):
        for buffer in buffers:
            began = time.perf_counter()
            target[:] = buffer
            seen.append(time.perf_counter() - began)
    paths.figures["memory copy"] = {"bytes": size, "microseconds": round(median(seen) * 1e6, 2)}


def _shoal_program(argv: list[str], scratch: Path) -> dict[str, Any]:
    """Run a program that uses this tree's SDK and server."""
    tools = Tools(scratch, python_of("shoal"), build("./cmd/shoal", scratch / "shoal"))
    env = model_env(tools, "adder", TREE / "python") | {"SHOAL_BINARY": str(tools.binary)}
    env.pop("SHOAL_BENCH_COUNTS")
    return _last_json(run_quietly([str(tools.python), *argv], Path(argv[0]).name, env=env, seconds=300))


def _last_json(output: str) -> dict[str, Any]:
    lines = output.strip().splitlines() or ["nothing"]
    try:
        found: dict[str, Any] = json.loads(lines[-1])
    except ValueError:
        raise SetupError(f"a program that was to end with JSON ended with: {lines[-1]}") from None
    return found


@dataclass(frozen=True)
class Way:
    """One path, and who measures it."""

    title: str
    run: Callable[[Paths, Effort, Path], None]


PATHS = {
    "copy": Way("one memory copy of 1 MB", memory_copy),
    "go": Way("Go's benchmarks of the batcher, handles, tensors and the worker", go_handles),
    "handle": Way("Shoal's Python handle", python_handle),
    "ray-handle": Way("Ray Serve's Python handle", ray_handle),
    "digits-handle": Way(
        f"the digits through the Python handle, max_batch_size 1 and {MAX_BATCH_SIZE}", digits_handle
    ),
    "connections": Way("idle keep-alive connections", idle_connections),
}
