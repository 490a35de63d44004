"""Measures Shoal beside its peers on this machine: `python3 bench/run.py --help`. See bench/README.md."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from harness import facts, report
from harness.environments import BENCH, ROOT, SetupError, find_wrk, python_of, run_quietly
from harness.measure import Bench, Plan, Results, say
from harness.paths import PATHS, Effort, measure_paths
from harness.peers import ECHO, PEERS, SHOAL
from harness.processes import workspace
from harness.workloads import WORKLOADS

SERVERS = "servers"
SMOKE_CONNECTIONS = (1, 64)
# The figures that the targets are compared with: a report, and one of the same day's sources with what it lacks.
BEFORE = sorted(
    [*(BENCH / "results").glob("2026-11-24-*.json"), *(BENCH / "results").glob("*-f78ff0f*.json")]
)


def main() -> int:
    """Measure, print the tables, write the report. Returns the exit status."""
    options = parse_arguments()
    try:
        with workspace("bench") as scratch:
            return measure(options, scratch)
    except SetupError as exc:
        say(f"bench: {exc}")
        return 1
    except KeyboardInterrupt:
        say("bench: interrupted; what was started is stopped")
        return 130


def measure(options: argparse.Namespace, scratch: Path) -> int:
    """Carry out what the options ask for."""
    machine, (commit, changed) = facts.machine(), facts.commit()
    plan = plan_of(options)
    names = [name for name in PATHS if name in options.only]
    results = serve(plan, scratch) if SERVERS in options.only else Results()
    done = report.Report(
        plan=plan,
        results=results,
        paths=measure_paths(names, effort_of(options), scratch, say),
        machine=machine,
        date=datetime.date.today().isoformat(),
        commit=commit,
        changed=changed,
        before=[json.loads(path.read_text()) for path in options.before],
    )
    if not options.no_write:
        done, written = report.write(done, options.out, draw)
        for path in written:
            say(f"written: {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
    print(report.markdown(done))
    ours_failed = any(peer == SHOAL.name for peer, _ in results.failures)
    return 1 if ours_failed or done.paths.failures or results.errors else 0


def serve(plan: Plan, scratch: Path) -> Results:
    """Put load on every server of the plan."""
    bench = Bench(plan, find_wrk(), scratch)
    bench.prepare()
    return bench.run()


def draw(data: Path, prefix: Path) -> list[str]:
    """Draw the report; returns the names of the pictures. Without matplotlib there are none."""
    try:
        argv = [str(python_of("plot")), str(BENCH / "plot.py"), str(data.resolve()), str(prefix.resolve())]
        return [Path(line).name for line in run_quietly(argv, "drawing").splitlines()]
    except SetupError as exc:
        say(f"bench: no pictures: {exc}")
        return []


def effort_of(options: argparse.Namespace) -> Effort:
    """How much of the paths is measured."""
    if options.smoke:
        return Effort(rounds=1, seconds=1, go_benchtime="20ms", map_items=20_000, idle_connections=1_000)
    return Effort(
        options.rounds, options.duration, options.go_benchtime, map_items=100_000, idle_connections=10_000
    )


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that the options describe; --smoke is one short round."""
    peers = tuple(PEERS[name] for name in options.peers)
    workloads = tuple(workload for workload in WORKLOADS if workload.name in options.workloads)
    return Plan(
        peers=peers if options.no_echo else (*peers, ECHO),
        workloads=workloads if SERVERS in options.only else (),
        connections=tuple(options.connections or (SMOKE_CONNECTIONS if options.smoke else ())),
        rounds=1 if options.smoke else options.rounds,
        seconds=1 if options.smoke else options.duration,
        warmup_seconds=1 if options.smoke else options.warmup,
        limit_seconds=options.limit * 60,
    )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Measure Shoal beside other model servers on this machine, on loopback only.",
        epilog="SHOAL_BENCH_TREE=FOLDER measures the Shoal of another checkout.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    names = [workload.name for workload in WORKLOADS]
    add = parser.add_argument
    add("--peers", type=names_of("peer", PEERS), default=",".join(PEERS), help="servers to measure")
    add("--workloads", type=names_of("workload", names), default=",".join(names), help="models to measure")
    add("--connections", type=counts, default=None, help="connections of wrk; each workload has its own")
    only = [SERVERS, *PATHS]
    add("--only", type=names_of("part", only), default=",".join(only), help="parts to measure")
    add("--rounds", type=between(1, 20), default=3, help="rounds; the report has their median")
    add("--duration", type=between(1, 60), default=2, help="seconds a point")
    add("--warmup", type=between(1, 60), default=1, help="seconds of load before each point")
    add("--limit", type=between(1, 240), default=60, help="minutes after which nothing more is started")
    add("--smoke", action="store_true", help="one round of 1 s a point, to see that everything works")
    add("--no-echo", action="store_true", help="leave out the bare net/http echo")
    add("--go-benchtime", default="200ms", help="time for each of Go's benchmarks, each round")
    add("--before", type=Path, nargs="*", default=BEFORE, help=argparse.SUPPRESS)
    add("--out", type=Path, default=BENCH / "results", help=argparse.SUPPRESS)
    add("--no-write", action="store_true", help="print the report, write no files")
    return parser.parse_args()


def names_of(what: str, known: Iterable[str]) -> Callable[[str], list[str]]:
    """A parser of comma-separated names; it keeps the order in which they are known."""
    known = list(known)

    def parse(text: str) -> list[str]:
        given = [name.strip() for name in text.split(",") if name.strip()]
        unknown = [name for name in given if name not in known]
        if unknown or not given:
            wrong = f"no {what} is called {unknown[0]!r}" if unknown else f"name a {what}"
            raise argparse.ArgumentTypeError(f"{wrong}; there are {', '.join(known)}")
        return [name for name in known if name in given]

    return parse


def counts(text: str) -> list[int]:
    """A parser of comma-separated numbers of connections."""
    return sorted({between(1, 1024)(word) for word in text.split(",")})


def between(lowest: int, highest: int) -> Callable[[str], int]:
    """A parser of a whole number within bounds."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"{value} is not between {lowest} and {highest}")
        return value

    return parse


if __name__ == "__main__":
    sys.exit(main())
