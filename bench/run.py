"""Measures Shoal beside its peers on this machine: `python3 bench/run.py --help`. See bench/README.md."""

from __future__ import annotations

import argparse
import datetime
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType

from harness import facts, report
from harness.environments import BENCH, ROOT, SetupError, find_wrk
from harness.gobench import GoBenchmark, run_batcher_benchmarks
from harness.measure import Bench, Plan, Results, say
from harness.peers import ECHO, PEERS, SHOAL
from harness.processes import stop_leftovers
from harness.workloads import CONNECTIONS, WORKLOADS

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Measure, print the tables, write the report. Returns the exit status."""
    options = parse_arguments()
    for number in INTERRUPTS:
        signal.signal(number, interrupt)
    scratch = Path(tempfile.mkdtemp(prefix="shoal-bench-"))
    try:
        return measure(options, scratch)
    except SetupError as exc:
        say(f"bench: {exc}")
        return 1
    except KeyboardInterrupt:
        say("bench: interrupted; what was started is stopped")
        return 130
    finally:
        stop_leftovers()
        shutil.rmtree(scratch, ignore_errors=True)


def measure(options: argparse.Namespace, scratch: Path) -> int:
    """Carry out what the options ask for."""
    wrk = find_wrk()
    machine, (commit, changed) = facts.machine(), facts.commit()
    plan = plan_of(options)
    bench = Bench(plan, wrk, scratch)
    bench.prepare()
    results = bench.run()
    done = report.Report(
        plan=plan,
        results=results,
        batcher=batcher(results, options),
        machine=machine,
        date=datetime.date.today().isoformat(),
        commit=commit,
        changed=changed,
    )
    print(report.markdown(done))
    if not options.no_write:
        for path in report.write(done, options.out):
            say(f"written: {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
    return 1 if SHOAL.name in results.failures or results.errors else 0


def batcher(results: Results, options: argparse.Namespace) -> list[GoBenchmark]:
    """The batcher's own benchmarks, unless they are not wanted or fail."""
    if options.no_go_bench:
        return []
    say("the batcher's own benchmarks …")
    try:
        return run_batcher_benchmarks(options.go_benchtime)
    except SetupError as exc:
        results.failures["batcher"] = "the batcher's own benchmarks failed"
        say(f"bench: {exc}")
        return []


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that the options describe; --smoke is one short round."""
    peers = tuple(PEERS[name] for name in options.peers)
    return Plan(
        peers=peers if options.no_echo else (*peers, ECHO),
        workloads=tuple(workload for workload in WORKLOADS if workload.name in options.workloads),
        connections=tuple(options.connections),
        rounds=1 if options.smoke else options.rounds,
        seconds=1 if options.smoke else options.duration,
        warmup_seconds=1 if options.smoke else options.warmup,
        limit_seconds=options.limit * 60,
    )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Measure Shoal beside other model servers on this machine, on loopback only.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    names = [workload.name for workload in WORKLOADS]
    add = parser.add_argument
    add("--peers", type=names_of("peer", PEERS), default=",".join(PEERS), help="servers to measure")
    add("--workloads", type=names_of("workload", names), default=",".join(names), help="models to measure")
    add("--connections", type=counts, default=",".join(map(str, CONNECTIONS)), help="connections of wrk")
    add("--rounds", type=between(1, 20), default=3, help="rounds; the report has their median")
    add("--duration", type=between(1, 60), default=3, help="seconds a point")
    add("--warmup", type=between(1, 60), default=1, help="seconds of load before each point")
    add("--limit", type=between(1, 240), default=60, help="minutes after which nothing more is started")
    add("--smoke", action="store_true", help="one round of 1 s a point, to see that everything works")
    add("--no-echo", action="store_true", help="leave out the bare net/http echo")
    add("--no-go-bench", action="store_true", help="leave out the batcher's own benchmarks")
    add("--go-benchtime", default="1s", help="time for each of the batcher's own benchmarks")
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


def interrupt(_: int, __: FrameType | None) -> None:
    """End as by Ctrl-C; from then on nothing disturbs the stopping."""
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
