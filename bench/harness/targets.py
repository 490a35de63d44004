"""The targets, from DESIGN.md (section 7) and from issue 4, and how a report's figures stand to them.

A target reads the JSON document of a report, so that earlier reports are judged by the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOSEC_BEST = "mosec"
MOSEC_DOCUMENTED = "mosec-1ms"

Document = Mapping[str, Any]
Measure = Callable[["Figures"], float | None]


class Figures:
    """What one or more reports hold; of two that hold the same, the first counts."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self._documents = documents

    def point(self, peer: str, workload: str, connections: int, figure: str) -> float | None:
        """A figure of a point's median; None when it was not measured, or had errors."""
        for document in self._documents:
            for point in document.get("points", ()):
                if (point["peer"], point["workload"], point["connections"]) == (peer, workload, connections):
                    median = point["median"]
                    return None if median["errors"] or not median["rate"] else median.get(figure)
        return None

    def start(self, peer: str, read: Callable[[Mapping[str, Any]], float]) -> float | None:
        """The median of something over the starts of a peer with W1's model."""
        for document in self._documents:
            for start in document.get("starts", ()):
                if (start["peer"], start["workload"]) == (peer, "W1"):
                    seen = sorted(read(one) for one in start["rounds"])
                    return (seen[(len(seen) - 1) // 2] + seen[len(seen) // 2]) / 2
        return None

    def go(self, package: str, name: str, figure: str) -> float | None:
        """A figure of a Go benchmark."""
        for document in self._documents:
            for one in document.get("batcher", ()):
                if (one.get("package", "./batch"), one["name"]) == (package, name):
                    value: float = one[figure]
                    return value
        return None

    def path(self, name: str, *keys: str) -> float | None:
        """A figure of a path (see harness/paths.py)."""
        for document in self._documents:
            found: Any = document.get("paths", {}).get(name)
            for key in keys:
                found = found.get(key) if isinstance(found, Mapping) else None
            if found is not None:
                return float(found)
        return None


@dataclass(frozen=True)
class Target:
    """What is to be reached. Without a goal the figure is told and not judged."""

    what: str
    goal: float | None
    unit: str
    measure: Measure
    command: str
    at_most: bool = False
    source: str = "design"
    # How earlier reports are read, where they knew the figure by another name.
    measure_before: Measure | None = None

    @property
    def wanted(self) -> str:
        """The goal in words."""
        if self.goal is None:
            return "–"
        return f"{'≤' if self.at_most else '≥'} {amount(self.goal, self.unit)}"

    def met(self, value: float | None) -> bool | None:
        """Whether a figure reaches the goal; None when that cannot be said."""
        if value is None or self.goal is None:
            return None
        return value <= self.goal if self.at_most else value >= self.goal

    def gap(self, value: float | None) -> str:
        """How far a figure is beyond the goal, or short of it."""
        if value is None or self.goal is None:
            return "–"
        share = (value - self.goal) / self.goal if self.goal else 0.0
        better = -share if self.at_most else share
        return f"{better:+.0%}"


def amount(value: float, unit: str) -> str:
    """A figure as people read it."""
    digits = 0 if value >= 100 or value == int(value) else 1 if value >= 10 else 2
    text = f"{value:,.{digits}f}"
    return f"{text}{'' if unit.startswith('/') else ' '}{unit}" if unit else text


def over(numerator: float | None, denominator: float | None) -> float | None:
    """A ratio of two figures that may be missing."""
    return numerator / denominator if numerator is not None and denominator else None


def less(first: float | None, second: float | None) -> float | None:
    """A difference of two figures that may be missing."""
    return first - second if first is not None and second is not None else None


def rate_over(ours: str, theirs: str, connections: int, workload: str = "W1") -> Measure:
    """Our requests/s for each one of theirs."""
    return lambda f: over(
        f.point(ours, workload, connections, "rate"), f.point(theirs, workload, connections, "rate")
    )


def w1_command(ours: str, theirs: str, connections: int) -> str:
    """The command that measures a ratio on W1; the echo always runs along."""
    peers = ours if theirs == "echo" else f"{ours},{theirs}"
    return f"python3 bench/run.py --only servers --workloads W1 --peers {peers} --connections {connections}"


def w1_targets(ours: str, how: str) -> list[Target]:
    """W1's targets, for one of the two ways in which Shoal serves it. Before, there was but one."""

    def ratio(connections: int, title: str, theirs: str, goal: float) -> Target:
        return Target(
            f"W1, {count(connections)}, {how}: requests/s against {title}",
            goal,
            "×",
            rate_over(ours, theirs, connections),
            w1_command(ours, theirs, connections),
            measure_before=rate_over("shoal", theirs, connections),
        )

    targets = [
        ratio(1, "Mosec, 1 ms wait", MOSEC_DOCUMENTED, 12),
        ratio(1, "Mosec at its best", MOSEC_BEST, 12),
        Target(
            f"W1, {count(1)}, {how}: p50 above the bare echo's",
            120,
            "µs",
            above_echo(ours),
            w1_command(ours, "echo", 1),
            at_most=True,
            measure_before=above_echo("shoal"),
        ),
    ]
    for connections in (64, 256):
        targets += [
            ratio(connections, "Mosec, 1 ms wait", MOSEC_DOCUMENTED, 4),
            ratio(connections, "Mosec at its best", MOSEC_BEST, 4),
            ratio(connections, "Ray Serve as it comes", "ray-default", 200),
            ratio(connections, "Ray Serve at its best", "ray", 200),
            ratio(connections, "the bare echo", "echo", 0.8),
            Target(
                f"W1, {count(connections)}, {how}: p99 for each of Mosec's",
                1,
                "×",
                p99_over(ours, connections),
                w1_command(ours, MOSEC_BEST, connections),
                at_most=True,
                measure_before=p99_over("shoal", connections),
            ),
        ]
    return targets


def count(connections: int) -> str:
    """So many connections in words."""
    return f"{connections} connection{'s' if connections > 1 else ''}"


def above_echo(ours: str) -> Measure:
    """Microseconds that our p50 is above the echo's, with one connection."""
    return lambda f: micro(less(f.point(ours, "W1", 1, "p50_ms"), f.point("echo", "W1", 1, "p50_ms")))


def p99_over(ours: str, connections: int) -> Measure:
    """Our p99 for each of Mosec's."""
    return lambda f: over(
        f.point(ours, "W1", connections, "p99_ms"), f.point(MOSEC_BEST, "W1", connections, "p99_ms")
    )


def micro(milliseconds: float | None) -> float | None:
    """Milliseconds as microseconds."""
    return milliseconds * 1e3 if milliseconds is not None else None


def w2_targets(ours: str, how: str = "") -> list[Target]:
    """W2, with no tuning."""
    goals = [(16, "rate", 2800), (16, "p50_ms", 5.8), (24, "rate", 3900), (24, "p50_ms", 6.2)]
    goals += [(64, "rate", 0.97 * 6400), (256, "rate", 0.97 * 6400)]
    return [w2_target(ours, how, *goal) for goal in goals]


def w2_target(ours: str, how: str, connections: int, figure: str, goal: float) -> Target:
    """One figure of W2."""
    what = "requests/s" if figure == "rate" else "p50"
    return Target(
        f"W2, {connections} connections{how}: {what}",
        goal,
        "/s" if figure == "rate" else "ms",
        lambda f: f.point(ours, "W2", connections, figure),
        f"python3 bench/run.py --only servers --workloads W2 --peers {ours} --connections {connections}",
        at_most=figure != "rate",
    )


def path_target(what: str, goal: float | None, unit: str, measure: Measure, only: str, **more: Any) -> Target:
    """A target of one of harness/paths.py."""
    return Target(what, goal, unit, measure, f"python3 bench/run.py --only {only}", **more)


def handle_ratio(*theirs: str) -> Measure:
    """Shoal's Python handle for each query of one of Ray Serve's ways, 64 in flight."""
    return lambda f: over(
        f.path("python handle", "in_flight_64", "queries_per_second"),
        f.path("ray handle", *theirs, "queries_per_second"),
    )


def map_ratio(figures: Figures) -> float | None:
    """handle.map for each query of 64 in flight."""
    return over(
        figures.path("python handle", "map", "queries_per_second"),
        figures.path("python handle", "in_flight_64", "queries_per_second"),
    )


def tensor_copies(peer: str) -> Measure:
    """Processor time of the server a 1 MB query, in memory copies of the same bytes."""
    return lambda f: over(f.point(peer, "tensors", 16, "cpu_us"), f.path("memory copy", "microseconds"))


def worker_copies(figures: Figures) -> float | None:
    """Time of a 1 MB query to a worker and back, in copies of as many bytes."""
    package, name = "./internal/runtime/python", "LargeArrays"
    return over(
        figures.go(package, f"{name}/take,_in_flight_16", "ns"), figures.go(package, f"{name}/copy", "ns")
    )


def idle_memory(figures: Figures) -> float | None:
    """MB of the server with 10,000 idle connections; a smoke run has fewer, which says nothing."""
    if figures.path("idle connections", "connections") != 10_000:
        return None
    return figures.path("idle connections", "server_mb")


def digits_ratio(figures: Figures) -> float | None:
    """The digits through the Python handle: batches for each query alone."""
    return over(
        figures.path("digits handle", "32", "queries_per_second"),
        figures.path("digits handle", "1", "queries_per_second"),
    )


START = "python3 bench/run.py --only servers --workloads W1 --peers shoal --connections 1"
TENSORS = "python3 bench/run.py --only servers,copy --workloads tensors --connections 16 --peers "

TARGETS = (
    *w1_targets("shoal", "requests"),
    *w1_targets("shoal-arrays", "arrays"),
    *w2_targets("shoal"),
    *w2_targets("shoal-arrays", ", arrays"),
    path_target(
        "Go function behind a handle, 64 callers: a query",
        1,
        "µs",
        lambda f: over(f.go(".", "Handle/callers_64", "ns"), 1e3),
        "go",
        at_most=True,
    ),
    path_target(
        "Go function behind a handle, 64 callers: allocations a query",
        1,
        "",
        lambda f: f.go(".", "Handle/callers_64", "allocs"),
        "go",
        at_most=True,
    ),
    path_target(
        "Python handle, 64 in flight, against Ray Serve's as it comes",
        100,
        "×",
        handle_ratio("ways", "refs"),
        "handle,ray-handle",
    ),
    path_target(
        "Python handle, 64 in flight, against Ray Serve's at its best",
        100,
        "×",
        handle_ratio("in_flight_64"),
        "handle,ray-handle",
    ),
    path_target(
        "Python handle, 64 in flight: queries/s (100 × the 589 of PEERS.md)",
        58_900,
        "/s",
        lambda f: f.path("python handle", "in_flight_64", "queries_per_second"),
        "handle",
    ),
    path_target(
        "`handle.map` over many items, against 64 in flight", 1, "×", map_ratio, "handle", source="issue"
    ),
    Target(
        "start to first answer, Python backend with numpy",
        0.4,
        "s",
        lambda f: f.start("shoal", lambda start: start["seconds"]),
        START,
        at_most=True,
    ),
    Target(
        "idle memory of the server itself",
        40,
        "MB",
        lambda f: over(f.start("shoal", lambda start: start["memory"]["root"]), 1e6),
        START,
        at_most=True,
    ),
    path_target(
        "10,000 idle keep-alive connections: the server's memory",
        200,
        "MB",
        idle_memory,
        "connections",
        at_most=True,
        source="issue",
    ),
    path_target(
        "1 MB arrays through a worker, without HTTP: a query, in memory copies",
        None,
        "×",
        worker_copies,
        "go",
        source="issue",
    ),
    Target(
        "1 MB tensors over HTTP: the server's processor time a query, in memory copies",
        None,
        "×",
        tensor_copies("shoal"),
        TENSORS + "shoal",
        source="issue",
    ),
    Target(
        "1 MB tensors over HTTP, arrays: the server's processor time a query, in memory copies",
        None,
        "×",
        tensor_copies("shoal-arrays"),
        TENSORS + "shoal-arrays",
        source="issue",
        measure_before=tensor_copies("shoal"),
    ),
    Target(
        "the digits, 64 connections: batches against `max_batch_size` 1",
        None,
        "×",
        rate_over("shoal", "shoal-alone", 64, "digits"),
        "python3 bench/run.py --only servers --workloads digits --peers shoal,shoal-alone --connections 64",
        source="issue",
    ),
    path_target(
        "the digits, Python handle: batches against `max_batch_size` 1",
        None,
        "×",
        digits_ratio,
        "digits-handle",
        source="issue",
    ),
    Target(
        "10 minutes at full load: flat memory",
        None,
        "",
        lambda _: None,
        "make soak MINUTES=10",
        source="issue",
    ),
    Target("offline adder, 1,000,000 rows, against Ray Data", 5, "×", lambda _: None, "–"),
)


def judge(documents: Sequence[Document], before: Sequence[Document]) -> list[dict[str, Any]]:
    """Every target with what was measured before and now, as the report's JSON holds it."""
    now, then = Figures(documents), Figures(before)
    return [
        entry(target, (target.measure_before or target.measure)(then), target.measure(now))
        for target in TARGETS
    ]


def entry(target: Target, before: float | None, now: float | None) -> dict[str, Any]:
    """One target, judged."""
    return {
        "what": target.what,
        "source": target.source,
        "goal": target.goal,
        "at_most": target.at_most,
        "unit": target.unit,
        "before": before,
        "now": now,
        "met": target.met(now),
        "gap": target.gap(now),
        "command": target.command,
    }


def rows(judged: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Every target that was measured, as a row of a table under HEADER."""
    words = {True: "met", False: "**missed**", None: "–"}
    return [
        [
            target.what,
            target.wanted,
            amount(one["before"], target.unit) if one["before"] is not None else "–",
            amount(one["now"], target.unit),
            words[one["met"]],
            one["gap"],
            f"`{target.command}`",
        ]
        for target, one in zip(TARGETS, judged, strict=True)
        if one["now"] is not None
    ]


def unmeasured(judged: Sequence[Mapping[str, Any]]) -> list[str]:
    """The targets that were not measured."""
    return [one["what"] for one in judged if one["now"] is None]


HEADER = ("", "target", "before", "now", "", "gap", "measured by")
