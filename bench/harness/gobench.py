"""Go's own benchmarks: what a query costs inside one process."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, median_high

from .environments import SetupError, python_of, run_quietly

LINE = re.compile(r"^Benchmark(?P<name>\S+?)(?:-\d+)?\s+(?P<count>\d+)\s+(?P<rest>.+)$")


@dataclass(frozen=True)
class GoBenchmark:
    """One line of `go test -bench`; without a package it is from ./batch."""

    name: str
    ns: float
    allocs: int
    bytes: int
    metrics: dict[str, float]
    package: str = "./batch"


@dataclass(frozen=True)
class GoPackage:
    """Benchmarks to run: a package's folder, and which of them."""

    folder: str
    pattern: str = "."

    def exists_in(self, root: Path) -> bool:
        """Whether the package has benchmarks in a tree."""
        return any("func Benchmark" in path.read_text() for path in (root / self.folder).glob("*_test.go"))

    def command(self, benchtime: str, rounds: int) -> list[str]:
        """The command that runs them."""
        argv = ["go", "test", "-run", "^$", "-bench", self.pattern, "-benchmem"]
        return [*argv, "-benchtime", benchtime, "-count", str(rounds), self.folder]


GO_PACKAGES = (
    GoPackage("./batch"),
    GoPackage(".", "Handle"),
    GoPackage("./internal/tensor", "DecodeScalar|Binary|Collate"),
    GoPackage("./internal/runtime/python"),
)


def with_python() -> dict[str, str]:
    """An environment in which workers find what they need: its python3 is the one for bench/requirements/shoal.txt."""
    return {"PATH": f"{python_of('shoal').parent}:{os.environ['PATH']}"}


def run_go_benchmarks(package: GoPackage, benchtime: str, rounds: int) -> list[GoBenchmark]:
    """Run a package's benchmarks; medians over the rounds. Raises SetupError when they fail."""
    what = f"the benchmarks of {package.folder}"
    output = run_quietly(package.command(benchtime, rounds), what, env=with_python(), seconds=600)
    found = parse_benchmarks(output, package.folder)
    if not found:
        raise SetupError(f"the benchmarks of {package.folder} gave no figures")
    return medians(found)


def medians(found: Iterable[GoBenchmark]) -> list[GoBenchmark]:
    """One for each name: of several runs the medians."""
    runs: dict[str, list[GoBenchmark]] = {}
    for one in found:
        runs.setdefault(one.name, []).append(one)
    return [
        replace(
            some[0],
            ns=median(one.ns for one in some),
            allocs=int(median_high(one.allocs for one in some)),
            bytes=int(median_high(one.bytes for one in some)),
            metrics={unit: median(one.metrics.get(unit, 0.0) for one in some) for unit in some[0].metrics},
        )
        for some in runs.values()
    ]


def parse_benchmarks(output: str, package: str = "./batch") -> list[GoBenchmark]:
    """The benchmarks in go test's output."""
    return [_parse(match, package) for line in output.splitlines() if (match := LINE.match(line))]


def _parse(match: re.Match[str], package: str) -> GoBenchmark:
    words = match["rest"].split()
    units = {unit: float(value) for value, unit in zip(words[::2], words[1::2], strict=False)}
    return GoBenchmark(
        name=match["name"],
        ns=units.pop("ns/op", 0.0),
        allocs=int(units.pop("allocs/op", 0)),
        bytes=int(units.pop("B/op", 0)),
        metrics=units,
        package=package,
    )
