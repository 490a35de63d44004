"""Draws a report: `plot.py REPORT.json PREFIX` writes PREFIX-WORKLOAD.svg for each workload, and names them.

Two panels, servers side by side: requests/s against connections, and latency (p50 as a bar, p99 as a
whisker) at each number of connections.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

# In the order of the servers: after Okabe and Ito, whose colours people with colour-blindness tell apart; a lighter one
# is another setting of the server before it, and black is the echo.
COLOURS = (
    "#0072B2", "#56B4E9", "#A9D8F5", "#D55E00", "#F2A977", "#009E73", "#8FCBB5", "#CC79A7", "#D8B400", "#7F7F7F", "#000000",
)  # fmt: skip
MARKERS = "osD^vP*Xph"

Point = dict[str, Any]


def main(report: Path, prefix: str) -> None:
    """Draw every workload that was measured."""
    document = json.loads(report.read_text())
    plt.rcParams.update(
        {"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "shoal", "font.family": "sans-serif"}
    )
    for workload, title in document["plan"]["workloads"].items():
        points = [point for point in document["points"] if point["workload"] == workload]
        good = [point for point in points if point["median"]["rate"] and not point["median"]["errors"]]
        if good:
            draw(document, good, f"{workload}: {title}".replace("`", ""), Path(f"{prefix}-{workload}.svg"))
            print(f"{prefix}-{workload}.svg")


def draw(document: dict[str, Any], points: list[Point], title: str, path: Path) -> None:
    """One picture."""
    measured = {point["peer"] for point in points}
    peers = [name for name in document["plan"]["peers"] if name in measured]
    styles = {
        name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
        for i, name in enumerate(document["plan"]["peers"])
    }
    figure, (rates, latencies) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    draw_rates(rates, points, peers, styles)
    draw_latencies(latencies, points, peers, styles)
    names = [document["plan"]["titles"][name].replace("`", "") for name in peers]
    handles, _ = rates.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 5), frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def draw_rates(axes: Axes, points: list[Point], peers: list[str], styles: dict[str, tuple[str, str]]) -> None:
    """Requests/s against connections, the rounds' lowest to highest as a bar of error."""
    for peer in peers:
        mine = sorted((point for point in points if point["peer"] == peer), key=lambda p: p["connections"])
        medians = [point["median"] for point in mine]
        colour, marker = styles[peer]
        spread = [[m["rate"] - m["lowest"] for m in medians], [m["highest"] - m["rate"] for m in medians]]
        axes.errorbar(
            [point["connections"] for point in mine], [m["rate"] for m in medians], yerr=spread,
            color=colour, marker=marker, markersize=5, linewidth=2.4 if peer.startswith("shoal") else 1.3, capsize=2, label=peer,
        )  # fmt: skip
    counts = sorted({point["connections"] for point in points})
    if len(counts) > 1:
        axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set(xlabel="connections", ylabel="requests/s (log), higher is better")
    axes.grid(alpha=0.25)


def draw_latencies(
    axes: Axes, points: list[Point], peers: list[str], styles: dict[str, tuple[str, str]]
) -> None:
    """p50 as a bar and p99 as a whisker, side by side at each number of connections."""
    counts = sorted({point["connections"] for point in points})
    width = 0.8 / len(peers)
    for index, peer in enumerate(peers):
        for place, count in enumerate(counts):
            median = next(
                (p["median"] for p in points if (p["peer"], p["connections"]) == (peer, count)), None
            )
            if median:
                x = place + (index - (len(peers) - 1) / 2) * width
                axes.bar(x, median["p50_ms"], width * 0.9, color=styles[peer][0])
                axes.vlines(x, median["p50_ms"], median["p99_ms"], color=styles[peer][0], linewidth=1.2)
                axes.plot(x, median["p99_ms"], "_", color=styles[peer][0], markersize=5)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    axes.set(xlabel="connections", ylabel="ms (log), lower is better: bar p50, whisker p99")
    axes.grid(alpha=0.25, axis="y")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
