"""What benchstat says of two revisions, and which figures got worse."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .environments import run_quietly

BENCHSTAT = "golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da"

# Of every other unit benchstat cannot tell what is better, and neither do we: batches are not better for being larger.
LOWER_IS_BETTER = ("sec/op", "B/op", "allocs/op", "p50-sec", "cpu-sec/op")
HIGHER_IS_BETTER = ("B/s",)
# Bytes a query that are shared by many come and go by a few.
LEAST_CHANGE = {"B/op": 16.0}


@dataclass(frozen=True)
class Limits:
    """When a figure counts as worse: by more than a share, and with so small a chance that noise did it."""

    threshold: float = 0.05
    alpha: float = 0.05


@dataclass(frozen=True)
class Row:
    """One figure of one benchmark on both sides."""

    package: str
    benchmark: str
    unit: str
    base: float
    head: float
    p: float
    samples: int

    @property
    def key(self) -> tuple[str, str, str]:
        """What the figure is of."""
        return self.package, self.benchmark, self.unit

    @property
    def change(self) -> float:
        """By what share it grew; infinite from nothing to something."""
        if self.base:
            return self.head / self.base - 1
        return math.inf if self.head else 0.0

    def is_worse(self, limits: Limits) -> bool:
        """Whether it got worse, beyond the limits."""
        if abs(self.head - self.base) < LEAST_CHANGE.get(self.unit, 0):
            return False
        if self.unit in LOWER_IS_BETTER:
            return self.p < limits.alpha and self.change > limits.threshold
        return self.unit in HIGHER_IS_BETTER and self.p < limits.alpha and self.change < -limits.threshold

    def __str__(self) -> str:
        where = f"{self.package}: {self.benchmark}"
        return f"{where}  {self.base:.4g} → {self.head:.4g} {self.unit}  {self.change:+.1%}  p={self.p:.3f} n={self.samples}"


def benchstat(base: Path, head: Path, *options: str) -> str:
    """What benchstat says of two files of Go benchmarks. Raises SetupError when it cannot be had."""
    return run_quietly(["go", "run", BENCHSTAT, *options, f"base={base}", f"head={head}"], "benchstat")


def read_rows(text: str) -> list[Row]:
    """The rows of benchstat's CSV that hold both sides."""
    return list(_rows(csv.reader(text.splitlines())))


def _rows(lines: Iterable[list[str]]) -> Iterator[Row]:
    package = unit = ""
    for line in lines:
        if len(line) == 1 and line[0].startswith("pkg: "):
            package = line[0].removeprefix("pkg: ")
        elif len(line) >= 7 and line[0] == "":
            unit = line[1] if line[2] == "CI" else unit
        elif len(line) >= 7 and line[6].startswith("p="):
            p, n = line[6].removeprefix("p=").split(" n=")
            # Where the sides have different counts, benchstat says both.
            samples = min(int(count) for count in n.split("+"))
            yield Row(package, line[0], unit, float(line[1]), float(line[3]), float(p), samples)


def worse(rows: Iterable[Row], limits: Limits) -> list[Row]:
    """The figures that got worse."""
    return [row for row in rows if row.is_worse(limits)]


def confirmed(first: Iterable[Row], second: Iterable[Row]) -> list[Row]:
    """Of the figures that got worse in a first series, those that did so again in a second one."""
    keys = {row.key for row in first}
    return [row for row in second if row.key in keys]
