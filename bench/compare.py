"""Tells whether a revision lost speed against another: `python3 bench/compare.py BASE [HEAD]`.

Both are built, and Go's benchmarks and a short W1 and W2 run on them in turn, A B, B A, A B, … benchstat compares them.
What got worse is measured once more, alone; what then is worse again makes the exit status 1. See bench/README.md.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from harness.environments import SetupError, find_wrk
from harness.gobench import GoPackage
from harness.load import LoadError
from harness.measure import say
from harness.processes import StartError, workspace
from harness.revisions import MACRO, WORKTREE, Revision, checked_out, macros
from harness.verdict import Limits, Row, benchstat, confirmed, read_rows, worse
from harness.workloads import Workload

MODULE = "github.com/shoalserve/shoal"
Turn = Callable[[Revision], str]


@dataclass(frozen=True)
class Job:
    """Benchmarks that are run together: of a Go package, or one workload under load."""

    title: str
    package: str
    run: Turn


def main() -> int:
    """Compare; returns 1 when something got worse, 2 when it could not be told."""
    options = parse_arguments()
    try:
        with workspace("compare") as scratch, ExitStack() as stack:
            base = stack.enter_context(checked_out(options.base, "base", scratch))
            head = stack.enter_context(checked_out(options.head, "head", scratch))
            return compare((base, head), options, scratch)
    except (SetupError, LoadError, StartError) as exc:
        say(f"compare: {exc}")
        return 2
    except KeyboardInterrupt:
        say("compare: interrupted; what was started is stopped")
        return 130


def compare(sides: tuple[Revision, Revision], options: argparse.Namespace, scratch: Path) -> int:
    """Measure both sides, once more what got worse, and say the verdict."""
    for side in sides:
        say(f"building {side.label}: {getattr(options, side.label)}")
        side.compile(wanted(side, options))
    limits = Limits(options.threshold / 100, options.alpha)
    rows, table = series(sides, jobs(sides, options), options.rounds, scratch / "first")
    print(table)
    suspects = worse(rows, limits)
    if suspects:
        say("worse, so measured once more:")
        for row in suspects:
            say(f"    {row}")
        again, _ = series(sides, jobs(sides, options, suspects), options.rounds, scratch / "second")
        suspects = confirmed(suspects, worse(again, limits))
    return verdict(suspects, limits)


def verdict(lost: Sequence[Row], limits: Limits) -> int:
    """Say what got worse; returns the exit status."""
    bounds = f"by more than {limits.threshold:.0%} with p < {limits.alpha:g}, twice"
    if not lost:
        print(f"Nothing got worse {bounds}.")
        return 0
    print(f"{len(lost)} figure{'s' if len(lost) > 1 else ''} got worse {bounds}:")
    for row in lost:
        print(f"  {row}")
    return 1


def jobs(
    sides: tuple[Revision, Revision], options: argparse.Namespace, suspects: Sequence[Row] | None = None
) -> list[Job]:
    """What is run: all, or only what suspects are from."""
    first, second = (wanted(side, options) for side in sides)
    found = [_go_job(package, options.benchtime, suspects) for package in first if package in second]
    found += [
        _macro_job(*macro, options.seconds)
        for macro in macros().items()
        if re.search(options.only, macro[0].name)
    ]
    if suspects is None:
        return found
    return [job for job in found if any(job.package == _source(row) for row in suspects)]


def _source(row: Row) -> str:
    """The package's folder, or the workload, that a figure is from."""
    if row.package == MACRO:
        return row.benchmark.partition("/")[0]
    return row.package.removeprefix(MODULE).removeprefix("/") or "."


def wanted(side: Revision, options: argparse.Namespace) -> list[GoPackage]:
    """The packages that have benchmarks, and are asked for."""
    return [package for package in side.packages() if re.search(options.only, package.folder)]


def _go_job(package: GoPackage, benchtime: str, suspects: Sequence[Row] | None) -> Job:
    name = package.folder.removeprefix("./")
    pattern = package.pattern
    if suspects is not None:
        own = {
            re.sub(r"-\d+$", "", row.benchmark).partition("/")[0] for row in suspects if _source(row) == name
        }
        pattern = "^Benchmark(" + "|".join(sorted(own)) + ")$"
    return Job(package.folder, name, lambda side: side.run(package, pattern, benchtime))


def _macro_job(workload: Workload, connections: Sequence[int], seconds: int) -> Job:
    title = f"{workload.name} under load"
    return Job(title, workload.name, lambda side: side.load(workload, connections, seconds, find_wrk()))


def series(
    sides: tuple[Revision, Revision], work: Sequence[Job], rounds: int, folder: Path
) -> tuple[list[Row], str]:
    """Run jobs on both sides in turn; returns benchstat's rows, and its table for people."""
    folder.mkdir()
    files = {side.label: folder / f"{side.label}.txt" for side in sides}
    for number in range(rounds):
        for job in work:
            say(f"[{number + 1}/{rounds}] {job.title}")
            for side in sides if number % 2 == 0 else reversed(sides):
                with files[side.label].open("a") as file:
                    file.write(job.run(side))
    base, head = files["base"], files["head"]
    return read_rows(benchstat(base, head, "-format=csv")), benchstat(base, head)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Tell whether a revision lost speed against another.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("base", help="the revision to compare with, such as main~3")
    add("head", nargs="?", default=WORKTREE, help="the revision to judge; worktree is this tree as it is")
    add(
        "--rounds",
        type=int,
        default=6,
        help="how often each is measured; benchstat needs 4 or more to be sure",
    )
    add("--threshold", type=float, default=5, help="per cent that a figure may get worse")
    add("--alpha", type=float, default=0.05, help="chance of noise below which a difference counts")
    add("--only", default="", help="a pattern of packages and workloads, such as 'batch|W2'")
    add("--benchtime", default="100ms", help="time for each of Go's benchmarks, each round")
    add("--seconds", type=int, default=1, help="seconds of load a point, each round")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
