"""Results as people and programs read them: Markdown tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from .gobench import GoBenchmark
from .load import Sample
from .measure import NOISE, Plan, Results, Start
from .peers import SHOAL, Peer
from .workloads import MAX_BATCH_SIZE, Workload

NONE = "–"
TIMES = "×"
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


@dataclass(frozen=True)
class Report:
    """All that a report tells."""

    plan: Plan
    results: Results
    batcher: list[GoBenchmark]
    machine: dict[str, Any]
    date: str
    commit: str
    changed: bool

    def point(self, peer: Peer, workload: Workload, connections: int) -> Point | None:
        """The figures of one point; None when it was not measured."""
        samples = self.results.samples.get((peer.name, workload.name, connections))
        return summarise(samples) if samples else None

    def peers(self, workload: Workload) -> list[Peer]:
        """Who was measured on a workload: the echo has no model, so the first one speaks for all."""
        return [peer for peer in self.plan.peers if not peer.echoes or workload is self.plan.workloads[0]]

    def ratio(self, peer: Peer, workload: Workload, connections: int) -> float | None:
        """Shoal's requests/s for each one of the peer's."""
        ours, theirs = self.point(SHOAL, workload, connections), self.point(peer, workload, connections)
        return ours.rate / theirs.rate if ours and theirs and theirs.rate else None


def summarise(samples: Sequence[Sample]) -> Point:
    """Medians over the rounds; errors are added up."""
    rates = [sample.rate for sample in samples]
    batches = [sample.mean_batch for sample in samples if sample.mean_batch is not None]
    return Point(
        rate=median(rates),
        lowest=min(rates),
        highest=max(rates),
        p50_ms=median(sample.p50_ms for sample in samples),
        p99_ms=median(sample.p99_ms for sample in samples),
        mean_batch=median(batches) if batches else None,
        errors=sum(sample.errors for sample in samples),
        rounds=len(samples),
    )


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
    sections = [heading(report)]
    for workload in report.plan.workloads:
        sections += [figures(report, workload), ratios(report, workload)]
    sections += [starts(report), batcher(report.batcher), setup(report)]
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
        "",
        f"`wrk -t1`, {plan.seconds} s a point after {plan.warmup_seconds} s of warm-up, median of "
        f"{plan.rounds} rounds; each server alone, one worker process, at most {MAX_BATCH_SIZE} queries a "
        "batch, JSON in and out, every answer checked.",
    ]
    if disturbance := disturbed(report.results):
        lines += ["", disturbance]
    if report.results.cut:
        lines += ["", "**The time limit ended this run early: some rounds or points are missing.**"]
    failures = report.results.failures
    titles = {peer.name: peer.title for peer in plan.peers}
    lines += [f"\n**{titles[name]} was not measured in full: {why}.**" for name, why in failures.items()]
    return "\n".join(lines)


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
        [peer.title, *(cell(report.point(peer, workload, count)) for count in plan.connections)]
        for peer in report.peers(workload)
    ]
    if workload.ideal_rate(1):
        ideals = (f"{workload.ideal_rate(count):,.0f}" for count in plan.connections)
        rows.append([PERMITTED, *ideals])
    return f"## {workload.name}: {workload.title}\n\nRequests/s · p50 ms · p99 ms · mean batch\n\n" + table(
        ["", *connection_names(plan)], rows
    )


def ratios(report: Report, workload: Workload) -> str:
    """Shoal's requests/s over each other server's."""
    plan = report.plan
    if SHOAL not in plan.peers:
        return ""
    rows = [
        [peer.title, *(times(report.ratio(peer, workload, count)) for count in plan.connections)]
        for peer in report.peers(workload)
        if peer is not SHOAL
    ]
    if workload.ideal_rate(1):
        rows.append([PERMITTED, *(times(of_ideal(report, workload, count)) for count in plan.connections)])
    if not rows:
        return ""
    return table([f"{workload.name}: Shoal's requests/s against", *connection_names(plan)], rows)


def of_ideal(report: Report, workload: Workload, connections: int) -> float | None:
    """Shoal's requests/s for each one that the model's own time permits."""
    ours, ideal = report.point(SHOAL, workload, connections), workload.ideal_rate(connections)
    return ours.rate / ideal if ours and ideal else None


def connection_names(plan: Plan) -> list[str]:
    """The heads of the columns."""
    return [f"{count} connection{'s' if count != 1 else ''}" for count in plan.connections]


def starts(report: Report) -> str:
    """How fast each server comes up, and what it holds while idle."""
    header = ["", "start to first answer", "idle memory, whole tree", "processes", "of it the first process"]
    name = report.plan.workloads[0].name
    rows = []
    for peer in report.plan.peers:
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


def batcher(benchmarks: Sequence[GoBenchmark]) -> str:
    """The batcher's own cost."""
    if not benchmarks:
        return ""
    rows = [
        [one.name, f"{one.ns:,.0f}", f"{one.allocs}", f"{one.bytes}", metrics(one.metrics)]
        for one in benchmarks
    ]
    header = ["", "ns a query", "allocations", "bytes", "also"]
    return "## The batcher alone (`go test -bench . ./batch`)\n\n" + table(header, rows)


def metrics(values: dict[str, float]) -> str:
    """What a benchmark reports beyond the usual."""
    return ", ".join(f"{value:.3g} {unit}" for unit, value in values.items()) or NONE


def setup(report: Report) -> str:
    """How each server was set up."""
    rows = [
        [peer.title, report.results.versions.get(peer.name) or NONE, peer.settings]
        for peer in report.plan.peers
    ]
    return "## Who was measured\n\n" + table(["", "version", "settings"], rows)


def as_json(report: Report) -> str:
    """Everything, with every round, for programs."""
    plan, results = report.plan, report.results
    document = {
        "date": report.date,
        "commit": report.commit,
        "uncommitted_changes": report.changed,
        "machine": report.machine,
        "plan": {
            "peers": [peer.name for peer in plan.peers],
            "connections": plan.connections,
            "rounds": plan.rounds,
            "seconds": plan.seconds,
            "warmup_seconds": plan.warmup_seconds,
            "max_batch_size": MAX_BATCH_SIZE,
        },
        "versions": results.versions,
        "failures": results.failures,
        "cut": results.cut,
        "points": each_point(report, point_entry),
        "starts": [
            {"peer": peer, "workload": workload, "rounds": [asdict(start) for start in seen]}
            for (peer, workload), seen in results.starts.items()
        ],
        "batcher": [asdict(one) for one in report.batcher],
    }
    return json.dumps(document, indent=2) + "\n"


def each_point(
    report: Report, entry: Callable[[Report, Peer, Workload, int], dict[str, Any] | None]
) -> list[dict[str, Any]]:
    """An entry for every point that was measured."""
    entries = [
        entry(report, peer, workload, count)
        for workload in report.plan.workloads
        for peer in report.plan.peers
        for count in report.plan.connections
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


def write(report: Report, folder: Path) -> list[Path]:
    """Write both files, under a name that is not taken yet."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = name = f"{report.date}-{report.commit}"
    number = 1
    while (folder / f"{name}.md").exists():
        number += 1
        name = f"{stem}-{number}"
    files = {folder / f"{name}.md": markdown(report), folder / f"{name}.json": as_json(report)}
    for path, text in files.items():
        path.write_text(text)
    return list(files)
