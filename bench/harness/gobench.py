"""The batcher's own benchmarks: what it costs a query inside one Go process."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .environments import run_quietly

LINE = re.compile(r"^Benchmark(?P<name>\S+?)(?:-\d+)?\s+(?P<count>\d+)\s+(?P<rest>.+)$")


@dataclass(frozen=True)
class GoBenchmark:
    """One line of `go test -bench`."""

    name: str
    ns: float
    allocs: int
    bytes: int
    metrics: dict[str, float]


def run_batcher_benchmarks(benchtime: str = "1s") -> list[GoBenchmark]:
    """Run the benchmarks of ./batch. Raises SetupError when they fail."""
    argv = ["go", "test", "-run", "^$", "-bench", ".", "-benchmem", "-benchtime", benchtime, "./batch"]
    return parse_benchmarks(run_quietly(argv, "the batcher's benchmarks", seconds=600))


def parse_benchmarks(output: str) -> list[GoBenchmark]:
    """The benchmarks in go test's output."""
    return [_parse(match) for line in output.splitlines() if (match := LINE.match(line))]


def _parse(match: re.Match[str]) -> GoBenchmark:
    words = match["rest"].split()
    units = {unit: float(value) for value, unit in zip(words[::2], words[1::2], strict=False)}
    return GoBenchmark(
        name=match["name"],
        ns=units.pop("ns/op", 0.0),
        allocs=int(units.pop("allocs/op", 0)),
        bytes=int(units.pop("B/op", 0)),
        metrics=units,
    )
