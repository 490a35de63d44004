"""Results as people and programs read them: Markdown tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from . import targets
from .gobench import GoBenchmark
from .load import Sample
from .measure import NOISE, Plan, Results, Start
from .paths import Paths
from .peers import SHOAL, SHOAL_ARRAYS, Peer
from .workloads import MAX_BATCH_SIZE, Workload

NONE = "–"
TIMES = "×"
# A report that lacks more targets than this is of a part only, and does not name them.
MISSING_NAMED = 5
# How much was asked, which every path's program prints beside its figures.
UNTOLD = {"queries", "bytes"}
PERMITTED = "*what the model permits*"


@dataclass(frozen=True)
class Point:
    """The median of a point's rounds."""

    rate: float
    lowest: float
    highest: float
    p50_ms: float
    p99_ms: float
    mean_batch: float | None
    errors: int
    rounds: int
    p90_ms: float | None = None
    cpu_us: float | None = None


@dataclass(frozen=True)
class Report:
    """All that a report tells."""

    plan: Plan
    results: Results
    paths: Paths
    machine: dict[str, Any]
    date: str
    commit: str
    changed: bool
    # Documents of earlier reports, for the column "before" of the targets.
    before: Sequence[targets.Document] = ()
    pictures: Sequence[str] = ()

    def point(self, peer: Peer, workload: Workload, connections: int) -> Point | None:
        """The figures of one point; None when it was not measured."""
        samples = self.results.samples.get((peer.name, workload.name, connections))
        return summarise(samples) if samples else None

    def ratio(self, peer: Peer, workload: Workload, connections: int, us: Peer = SHOAL) -> float | None:
        """Shoal's requests/s for each one of the peer's."""
        ours, theirs = self.point(us, workload, connections), self.point(peer, workload, connections)
        return ours.rate / theirs.rate if ours and theirs and theirs.rate else None


def summarise(samples: Sequence[Sample]) -> Point:
    """Medians over the rounds; errors are added up."""
    rates = [sample.rate for sample in samples]
    return Point(
        rate=median(rates),
        lowest=min(rates),
        highest=max(rates),
        p50_ms=median(sample.p50_ms for sample in samples),
        p99_ms=median(sample.p99_ms for sample in samples),
        mean_batch=median_of(sample.mean_batch for sample in samples),
        errors=sum(sample.errors for sample in samples),
        rounds=len(samples),
        p90_ms=median_of(sample.p90_ms for sample in samples),
        cpu_us=median_of(sample.cpu_us for sample in samples),
    )


def median_of(values: Iterable[float | None]) -> float | None:
    """The median of those that are known."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up as plain text."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def cell(point: Point | None) -> str:
    """Requests/s, p50, p99 and mean batch; a point with errors is marked."""
    if point is None:
        return NONE
    if not point.rate:
        return "**✗ no answer in time**"
    parts = [f"{point.rate:,.0f}", milliseconds(point.p50_ms), milliseconds(point.p99_ms)]
    if point.mean_batch is not None:
        parts.append(f"{point.mean_batch:.1f}")
    return " · ".join(parts) + (f" **✗ {point.errors:,} errors**" if point.errors else "")


def milliseconds(value: float) -> str:
    """Three digits or so."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"


def times(ratio: float | None) -> str:
    """A ratio as people say it."""
    if ratio is None:
        return NONE
    digits = 2 if ratio < 10 else 1 if ratio < 100 else 0
    return f"{ratio:,.{digits}f} {TIMES}"


def markdown(report: Report) -> str:
    """The whole report."""
    sections = [heading(report), target_table(report)]
    for workload in report.plan.workloads:
        ours = [peer for peer in (SHOAL, SHOAL_ARRAYS) if peer in report.plan.peers_of(workload)]
        sections += [figures(report, workload), *(ratios(report, workload, one) for one in ours)]
        sections += [costs(report, workload)]
    sections += [paths(report.paths), starts(report), go_table(report.paths.go), setup(report)]
    return "\n\n".join(section for section in sections if section) + "\n"


def heading(report: Report) -> str:
    """What was measured, where and how."""
    plan, machine = report.plan, report.machine
    commit = report.commit + (" with uncommitted changes" if report.changed else "")
    lines = [
        f"# Benchmark of {report.date}, commit {commit}",
        "",
        f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB, "
        f"{machine['system']} {machine['kernel']}, Go {machine['go']}, Python {machine['python']}, "
        f"wrk {machine['wrk']}; load average {machine['load_before']} before the first measurement. "
        "Server and load generator share the cores.",
    ]
    if plan.workloads:
        lines += [
            "",
            f"`wrk -t1`, {plan.seconds} s a point after {plan.warmup_seconds} s of warm-up, median of "
            f"{plan.rounds} rounds; each server alone, one worker process, at most {MAX_BATCH_SIZE} queries a "
            "batch, every answer checked.",
        ]
    if disturbance := disturbed(report.results):
        lines += ["", disturbance]
    if report.results.cut:
        lines += ["", "**The time limit ended this run early: some rounds or points are missing.**"]
    lines += ["", *(f"![{name}]({name})" for name in report.pictures)] if report.pictures else []
    lines += [f"\n**{words}.**" for words in failed(report)]
    return "\n".join(lines)


def failed(report: Report) -> list[str]:
    """What could not be measured in full, and why."""
    titles = {peer.name: peer.title for peer in report.plan.peers}
    servers = [
        f"{titles[peer]} was not measured in full{f' on {workload}' if workload else ''}: {why}"
        for (peer, workload), why in report.results.failures.items()
    ]
    return servers + [f"{name} was not measured: {why}" for name, why in report.paths.failures.items()]


def target_table(report: Report) -> str:
    """Every target and whether it was met."""
    judged = targets.judge([document(report)], report.before)
    rows, missing = targets.rows(judged), targets.unmeasured(judged)
    text = "## The targets\n\nThe gap is how far a figure is beyond its target (+) or short of it (-)."
    if rows:
        text += "\n\n" + table(targets.HEADER, rows)
    if not missing:
        return text
    named = f": {'; '.join(missing)}" if len(missing) <= MISSING_NAMED else ""
    return f"{text}\n\nNot measured in this run: {len(missing)} of {len(judged)} targets{named}."


def disturbed(results: Results) -> str:
    """How far other programs kept the machine busy during the measurements."""
    shares = [sample.foreign for samples in results.samples.values() for sample in samples]
    loud = [share for share in shares if share > NOISE]
    if not loud:
        return ""
    return (
        f"**Other programs disturbed {len(loud)} of {len(shares)} measurements: they used more than {NOISE:.0%} "
        f"of the machine, {max(loud):.0%} at worst. Measure again on a quiet machine.**"
    )


def figures(report: Report, workload: Workload) -> str:
    """The table of one workload."""
    plan = report.plan
    rows = [
        [peer.title, *(cell(report.point(peer, workload, count)) for count in plan.connections_of(workload))]
        for peer in plan.peers_of(workload)
    ]
    if workload.ideal_rate(1):
        ideals = (f"{workload.ideal_rate(count):,.0f}" for count in plan.connections_of(workload))
        rows.append([PERMITTED, *ideals])
    return f"## {workload.name}: {workload.title}\n\nRequests/s · p50 ms · p99 ms · mean batch\n\n" + table(
        ["", *connection_names(plan, workload)], rows
    )


def ratios(report: Report, workload: Workload, us: Peer) -> str:
    """Shoal's requests/s over each other server's."""
    plan, counts = report.plan, report.plan.connections_of(workload)
    rows = [
        [peer.title, *(times(report.ratio(peer, workload, count, us)) for count in counts)]
        for peer in plan.peers_of(workload)
        if peer is not us
    ]
    if workload.ideal_rate(1):
        rows.append([PERMITTED, *(times(of_ideal(report, workload, count, us)) for count in counts)])
    if not rows:
        return ""
    head = f"{workload.name}: requests/s of {us.title} against"
    return table([head, *connection_names(plan, workload)], rows)


def of_ideal(report: Report, workload: Workload, connections: int, us: Peer) -> float | None:
    """Shoal's requests/s for each one that the model's own time permits."""
    ours, ideal = report.point(us, workload, connections), workload.ideal_rate(connections)
    return ours.rate / ideal if ours and ideal else None


def costs(report: Report, workload: Workload) -> str:
    """Processor time a query, of the server and all its processes."""
    counts = report.plan.connections_of(workload)
    rows = []
    for peer in report.plan.peers_of(workload):
        points = [report.point(peer, workload, count) for count in counts]
        if any(point and point.cpu_us is not None for point in points):
            known = (point.cpu_us if point else None for point in points)
            rows.append([peer.title, *(NONE if cost is None else f"{cost:,.0f}" for cost in known)])
    if not rows:
        return ""
    head = f"{workload.name}: the server's processor time a query, µs"
    return table([head, *connection_names(report.plan, workload)], rows)


def connection_names(plan: Plan, workload: Workload) -> list[str]:
    """The heads of the columns."""
    return [f"{count} connection{'s' if count != 1 else ''}" for count in plan.connections_of(workload)]


def paths(seen: Paths) -> str:
    """What was measured without wrk."""
    rows = [[name, key, figure] for name, found in seen.figures.items() for key, figure in told(found)]
    return "## Other paths\n\n" + table(["path", "", ""], rows) if rows else ""


def told(found: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """The figures that a path's program printed, but for the single rounds."""
    for key, value in found.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            yield from told(value, f"{name}: ")
        elif isinstance(value, (int, float)) and key not in UNTOLD:
            yield name, targets.amount(value, "")


def starts(report: Report) -> str:
    """How fast each server comes up, and what it holds while idle."""
    if not report.results.starts:
        return ""
    header = ["", "start to first answer", "idle memory, whole tree", "processes", "of it the first process"]
    name = report.plan.workloads[0].name
    rows = []
    for peer in report.plan.peers_of(report.plan.workloads[0]):
        seen = report.results.starts.get((peer.name, name))
        rows.append([peer.title, *(start_cells(seen) if seen else [NONE] * 4)])
    return f"## Start and memory\n\n{name}'s model; proportional set size (PSS).\n\n" + table(header, rows)


def start_cells(seen: Sequence[Start]) -> list[str]:
    """Medians over the starts."""
    return [
        f"{median(start.seconds for start in seen):.2f} s",
        f"{median(start.memory.tree for start in seen) / 1e6:,.0f} MB",
        f"{median(start.memory.processes for start in seen):g}",
        f"{median(start.memory.root for start in seen) / 1e6:,.0f} MB",
    ]


def go_table(benchmarks: Sequence[GoBenchmark]) -> str:
    """What a query costs inside one Go process."""
    if not benchmarks:
        return ""
    rows = [
        [one.package, one.name, f"{one.ns:,.0f}", f"{one.allocs}", f"{one.bytes}", metrics(one.metrics)]
        for one in benchmarks
    ]
    header = ["package", "", "ns a query", "allocations", "bytes", "also"]
    return "## Inside one Go process (`go test -bench`)\n\n" + table(header, rows)


def metrics(values: dict[str, float]) -> str:
    """What a benchmark reports beyond the usual."""
    return ", ".join(f"{value:.3g} {unit}" for unit, value in values.items()) or NONE


def setup(report: Report) -> str:
    """How each server was set up."""
    if not report.plan.workloads:
        return ""
    rows = [
        [peer.title, report.results.versions.get(peer.name) or NONE, peer.settings]
        for peer in report.plan.peers
    ]
    return "## Who was measured\n\n" + table(["", "version", "settings"], rows)


def as_json(report: Report) -> str:
    """Everything, with every round, for programs."""
    whole = document(report)
    return json.dumps({**whole, "targets": targets.judge([whole], report.before)}, indent=2) + "\n"


def document(report: Report) -> dict[str, Any]:
    """What was measured; the targets read it, and so does the program that draws."""
    plan, results = report.plan, report.results
    return {
        "date": report.date,
        "commit": report.commit,
        "uncommitted_changes": report.changed,
        "machine": report.machine,
        "plan": {
            "peers": [peer.name for peer in plan.peers],
            "titles": {peer.name: peer.title for peer in plan.peers},
            "workloads": {workload.name: workload.title for workload in plan.workloads},
            "rounds": plan.rounds,
            "seconds": plan.seconds,
            "warmup_seconds": plan.warmup_seconds,
            "max_batch_size": MAX_BATCH_SIZE,
        },
        "versions": results.versions,
        "failures": failed(report),
        "cut": results.cut,
        "points": each_point(report, point_entry),
        "starts": [
            {"peer": peer, "workload": workload, "rounds": [asdict(start) for start in seen]}
            for (peer, workload), seen in results.starts.items()
        ],
        "batcher": [asdict(one) for one in report.paths.go],
        "paths": report.paths.figures,
    }


def each_point(
    report: Report, entry: Callable[[Report, Peer, Workload, int], dict[str, Any] | None]
) -> list[dict[str, Any]]:
    """An entry for every point that was measured."""
    entries = [
        entry(report, peer, workload, count)
        for workload in report.plan.workloads
        for peer in report.plan.peers_of(workload)
        for count in report.plan.connections_of(workload)
    ]
    return [one for one in entries if one is not None]


def point_entry(report: Report, peer: Peer, workload: Workload, connections: int) -> dict[str, Any] | None:
    """A point with its medians, its rounds and Shoal's ratio to it."""
    samples = report.results.samples.get((peer.name, workload.name, connections))
    if not samples:
        return None
    return {
        "peer": peer.name,
        "workload": workload.name,
        "connections": connections,
        "median": asdict(summarise(samples)),
        "shoal_ratio": report.ratio(peer, workload, connections),
        "rounds": [{"rate": sample.rate, **asdict(sample)} for sample in samples],
    }


def free_name(report: Report, folder: Path) -> str:
    """A name for the report's files that is not taken yet."""
    stem = name = f"{report.date}-{report.commit}"
    number = 1
    while (folder / f"{name}.md").exists() or (folder / f"{name}.json").exists():
        number += 1
        name = f"{stem}-{number}"
    return name


def write(report: Report, folder: Path, draw: Callable[[Path, Path], list[str]]) -> tuple[Report, list[Path]]:
    """Write the JSON, the pictures that draw makes of it, and the Markdown that shows them."""
    folder.mkdir(parents=True, exist_ok=True)
    name = free_name(report, folder)
    data, text = folder / f"{name}.json", folder / f"{name}.md"
    data.write_text(as_json(report))
    report = replace(report, pictures=draw(data, folder / name))
    text.write_text(markdown(report))
    return report, [text, data, *(folder / picture for picture in report.pictures)]
