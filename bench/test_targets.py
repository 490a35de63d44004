from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness.targets import TARGETS, Figures, Target, amount, judge, rows, unmeasured
from run import parse_arguments


def point(peer: str, workload: str, connections: int, **median: float) -> dict[str, Any]:
    whole = {"rate": 1.0, "p50_ms": 1.0, "p99_ms": 2.0, "errors": 0, **median}
    return {"peer": peer, "workload": workload, "connections": connections, "median": whole}


def document(**parts: Any) -> dict[str, Any]:
    return {"points": [], "starts": [], "batcher": [], "paths": {}, **parts}


def judged(name: str, now: dict[str, Any], before: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    (found,) = [one for one in judge([now], before or []) if one["what"].startswith(name)]
    return found


def test_a_ratio_is_judged_with_its_gap() -> None:
    now = document(points=[point("shoal", "W1", 64, rate=50_000), point("mosec", "W1", 64, rate=10_000)])
    before = document(points=[point("shoal", "W1", 64, rate=15_000), point("mosec", "W1", 64, rate=10_000)])
    one = judged("W1, 64 connections, requests: requests/s against Mosec at its best", now, [before])
    assert (one["before"], one["now"], one["met"], one["gap"]) == (1.5, 5, True, "+25%")


def test_a_target_that_is_missed_by_nothing_but_a_little_is_missed() -> None:
    one = judged("W2, 16 connections: requests/s", document(points=[point("shoal", "W2", 16, rate=2799.9)]))
    assert (one["met"], one["gap"]) == (False, "-0%")


def test_latency_is_to_be_at_most_the_target() -> None:
    now = document(points=[point("shoal", "W1", 1, p50_ms=0.25), point("echo", "W1", 1, p50_ms=0.1)])
    one = judged("W1, 1 connection, requests: p50 above the bare echo's", now)
    assert one["now"] == pytest.approx(150)
    assert (one["met"], one["gap"]) == (False, "-25%")


def test_a_point_with_errors_meets_nothing() -> None:
    now = document(points=[point("shoal", "W2", 16, rate=5000, errors=1)])
    assert judged("W2, 16 connections: requests/s", now)["met"] is None


def test_memory_go_and_paths_are_found() -> None:
    starts = [
        {
            "peer": "shoal",
            "workload": "W1",
            "rounds": [{"seconds": s, "memory": {"root": 2e7}} for s in (0.3, 0.5)],
        }
    ]
    go = [{"package": ".", "name": "Handle/callers_64", "ns": 900.0, "allocs": 2}]
    paths = {
        "python handle": {"in_flight_64": {"queries_per_second": 60_000.0}},
        "ray handle": {"in_flight_64": {"queries_per_second": 500.0}},
    }
    now = document(starts=starts, batcher=go, paths=paths)
    assert judged("start to first answer", now)["now"] == pytest.approx(0.4)
    assert judged("idle memory", now)["now"] == 20
    assert judged("Go function behind a handle, 64 callers: a query", now)["met"] is True
    assert judged("Go function behind a handle, 64 callers: allocations", now)["met"] is False
    assert judged("Python handle, 64 in flight, against Ray Serve's at its best", now)["now"] == 120


def test_fewer_idle_connections_than_asked_for_say_nothing() -> None:
    seen = [
        judged("10,000 idle", document(paths={"idle connections": {"connections": count, "server_mb": 30.0}}))
        for count in (1_000, 10_000)
    ]
    assert [(one["now"], one["met"]) for one in seen] == [(None, None), (30.0, True)]


def test_every_command_of_a_target_can_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for target in TARGETS:
        if target.command.startswith("python3 bench/run.py"):
            monkeypatch.setattr("sys.argv", target.command.split()[1:])
            options = parse_arguments()
            assert options.only


def test_of_two_reports_the_first_that_has_a_figure_counts() -> None:
    first, second = (
        document(points=[point("a", "W1", 1, rate=1)]),
        document(points=[point("a", "W1", 1, rate=2), point("b", "W1", 1, rate=3)]),
    )
    figures = Figures([first, second])
    assert (figures.point("a", "W1", 1, "rate"), figures.point("b", "W1", 1, "rate")) == (1, 3)
    assert figures.point("c", "W1", 1, "rate") is None


def test_only_what_was_measured_is_in_the_table() -> None:
    entries = judge([document(points=[point("shoal", "W2", 16, rate=3000)])], [])
    assert [row[:6] for row in rows(entries)] == [
        ["W2, 16 connections: requests/s", "≥ 2,800/s", "–", "3,000/s", "met", "+7%"],
        ["W2, 16 connections: p50", "≤ 5.80 ms", "–", "1 ms", "met", "+83%"],
    ]
    assert len(unmeasured(entries)) == len(TARGETS) - 2


def test_a_figure_without_a_goal_is_told_and_not_judged() -> None:
    target = Target("a cost", None, "×", lambda _: 3.0, "true")
    assert (target.wanted, target.met(3.0), target.gap(3.0)) == ("–", None, "–")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.4, "s", "0.40 s"),
        (5.84, "ms", "5.84 ms"),
        (12.34, "×", "12.3 ×"),
        (2645.4, "/s", "2,645/s"),
        (2, "", "2"),
    ],
)
def test_amounts(value: float, unit: str, text: str) -> None:
    assert amount(value, unit) == text


def test_the_report_of_2026_11_24_is_read_as_the_figures_before() -> None:
    (path,) = Path(__file__).parent.joinpath("results").glob("2026-11-24-*.json")
    before = judge([], [json.loads(path.read_text())])
    known = {one["what"]: one["before"] for one in before if one["before"] is not None}
    assert known["W2, 16 connections: requests/s"] == pytest.approx(1370, abs=1)
    assert known["W1, 64 connections, arrays: requests/s against the bare echo"] == pytest.approx(
        0.61, abs=0.01
    )
    assert known["W1, 64 connections, requests: requests/s against the bare echo"] == pytest.approx(
        0.61, abs=0.01
    )
