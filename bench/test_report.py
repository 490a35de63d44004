from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from harness.gobench import medians, parse_benchmarks
from harness.load import Sample
from harness.measure import Plan, Results, Start
from harness.paths import Paths
from harness.peers import ECHO, MOSEC, SHOAL
from harness.processes import Memory
from harness.report import Report, as_json, cell, markdown, milliseconds, summarise, table, times, write
from harness.workloads import WORKLOADS


def sample(rate: float, p50: float = 1.0, wrong: int = 0, batch: float | None = None) -> Sample:
    return Sample(int(rate), 1.0, p50, 2 * p50, 3 * p50, wrong=wrong, mean_batch=batch)


def make(**changes: object) -> Report:
    results = Results(
        samples={
            ("shoal", "W1", 1): [sample(5000, 0.2, batch=1.0), sample(7000, 0.1, batch=1.0)],
            ("shoal", "W2", 1): [sample(180, 5.5, batch=1.0)],
            ("mosec", "W1", 1): [sample(400, 2.4, batch=1.0), sample(600, 2.2, wrong=7)],
            ("echo", "W1", 1): [sample(12000, 0.06)],
        },
        starts={("shoal", "W1"): [Start(0.31, Memory(60_000_000, 20_000_000, 2))]},
        versions={"shoal": "", "mosec": "0.9.8"},
    )
    plan = Plan(
        (SHOAL, MOSEC, ECHO), WORKLOADS[:2], (1,), rounds=2, seconds=3, warmup_seconds=1, limit_seconds=60
    )
    machine = dict.fromkeys(("cores", "memory_gib", "load_before"), 2) | dict.fromkeys(
        ("processor", "system", "kernel", "go", "python", "wrk"), "that"
    )
    parts = {"plan": plan, "results": results, "paths": Paths(), "machine": machine}
    return Report(**{**parts, "date": "2026-01-31", "commit": "abc1234", "changed": False, **changes})  # type: ignore[arg-type]


def test_columns_of_a_table_line_up() -> None:
    assert table(["", "one"], [["long name", "1"], ["b", "1,000"]]).splitlines() == [
        "|           | one   |",
        "| --------- | ----- |",
        "| long name | 1     |",
        "| b         | 1,000 |",
    ]


def test_a_point_is_the_median_of_its_rounds() -> None:
    point = summarise([sample(100, 3), sample(900, 1), sample(200, 2)])
    assert (point.rate, point.lowest, point.highest, point.p50_ms, point.rounds) == (200, 100, 900, 2, 3)


def test_cells_show_rate_latency_and_mean_batch() -> None:
    assert cell(summarise([sample(14490.4, 3.8, batch=30.04)])) == "14,490 · 3.80 · 7.60 · 30.0"
    assert cell(summarise([sample(12000, 0.061)])) == "12,000 · 0.06 · 0.12"
    assert cell(None) == "–"


def test_a_point_with_errors_is_marked() -> None:
    assert cell(summarise([sample(100, wrong=3), sample(100, wrong=1)])).endswith("**✗ 4 errors**")
    assert cell(summarise([sample(0)])) == "**✗ no answer in time**"


@pytest.mark.parametrize(("value", "text"), [(0.174, "0.17"), (62.64, "62.6"), (1452.3, "1,452")])
def test_milliseconds(value: float, text: str) -> None:
    assert milliseconds(value) == text


def test_ratios_are_of_the_medians() -> None:
    report = make()
    assert report.ratio(MOSEC, WORKLOADS[0], 1) == 12
    assert report.ratio(ECHO, WORKLOADS[0], 1) == 0.5
    assert report.ratio(MOSEC, WORKLOADS[1], 1) is None
    assert [times(ratio) for ratio in (0.5, 12, 234.4, None)] == ["0.50 ×", "12.0 ×", "234 ×", "–"]


def test_the_report_has_every_table() -> None:
    batcher = parse_benchmarks(
        "BenchmarkDo64Callers-2  1000  512.5 ns/op  31.9 queries/batch  0 B/op  1 allocs/op"
    )
    rows = {
        line.partition("|")[2].partition("|")[0].strip(): line
        for line in markdown(make(paths=Paths(go=batcher))).splitlines()
    }
    assert rows["./batch"].split("|")[3:7] == [
        " 512        ",
        " 1           ",
        " 0     ",
        " 31.9 queries/batch ",
    ]
    text = markdown(make())
    assert "6,000 · 0.15 · 0.30 · 1.0" in text
    assert "12.0 ×" in text
    assert "*what the model permits* | 200" in text
    assert "0.31 s" in text
    assert "60 MB" in text
    assert "20 MB" in text


def test_a_server_stands_only_where_it_is_measured() -> None:
    w1, w2 = markdown(make()).split("## W2")
    assert ECHO.title in w1
    assert ECHO.title not in w2.split("## Start")[0]


def test_what_went_wrong_is_said() -> None:
    report = make(changed=True)
    report.results.failures["mosec", "W2"] = "exited with status 1 before its first answer"
    report.paths.failures["handle"] = "no such program"
    report.results.cut = True
    report.results.samples["echo", "W1", 1] = [replace(sample(12000), foreign=0.42)]
    text = markdown(report)
    assert "commit abc1234 with uncommitted changes" in text
    assert "**Mosec was not measured in full on W2: exited with status 1 before its first answer.**" in text
    assert "**handle was not measured: no such program.**" in text
    assert (
        "**Other programs disturbed 1 of 6 measurements: they used more than 5% of the machine, 42% at"
        in text
    )
    assert "ended this run early" in text


def test_programs_get_every_round() -> None:
    points = json.loads(as_json(make()))["points"]
    point = next(one for one in points if (one["peer"], one["workload"]) == ("mosec", "W1"))
    assert point["median"]["rate"] == 500
    assert point["median"]["errors"] == 7
    assert point["shoal_ratio"] == 12
    assert [one["rate"] for one in point["rounds"]] == [400, 600]


def test_an_earlier_report_is_never_overwritten(tmp_path: Path) -> None:
    names = [path.name for _ in range(2) for path in write(make(), tmp_path, lambda *_: [])[1]]
    assert names == [
        "2026-01-31-abc1234.md",
        "2026-01-31-abc1234.json",
        "2026-01-31-abc1234-2.md",
        "2026-01-31-abc1234-2.json",
    ]


def test_the_report_shows_its_pictures(tmp_path: Path) -> None:
    drawn: list[tuple[str, str]] = []

    def draw(data: Path, prefix: Path) -> list[str]:
        drawn.append((json.loads(data.read_text())["commit"], prefix.name))
        return ["2026-01-31-abc1234-W1.svg"]

    report, written = write(make(), tmp_path, draw)
    assert drawn == [("abc1234", "2026-01-31-abc1234")]
    assert written[-1].name == "2026-01-31-abc1234-W1.svg"
    assert (
        "![2026-01-31-abc1234-W1.svg](2026-01-31-abc1234-W1.svg)"
        in (tmp_path / "2026-01-31-abc1234.md").read_text()
    )
    assert report.pictures == ["2026-01-31-abc1234-W1.svg"]


def test_paths_are_told_without_their_rounds() -> None:
    figures = {
        "python handle": {"in_flight_64": {"queries": 7, "queries_per_second": 60_000.4, "rounds": [1, 2]}}
    }
    text = markdown(make(paths=Paths(figures=figures)))
    rows = [line for line in text.splitlines() if line.startswith("| python handle")]
    assert rows == ["| python handle | in flight 64: queries per second | 60,000 |"]


def test_lines_that_are_no_benchmarks_are_passed_over() -> None:
    output = """\
goos: linux
pkg: github.com/shoalserve/shoal/batch
BenchmarkDo1Caller-2            	  200000	      5400 ns/op	     120 B/op	       3 allocs/op
BenchmarkSubmit64Callers        	 3000000	       350.5 ns/op	        31.90 queries/batch	       0 B/op	       0 allocs/op
PASS
ok  	github.com/shoalserve/shoal/batch	4.2s
"""
    one, two = parse_benchmarks(output)
    assert (one.name, one.ns, one.allocs, one.bytes, one.metrics) == ("Do1Caller", 5400, 3, 120, {})
    assert (two.name, two.ns, two.metrics) == ("Submit64Callers", 350.5, {"queries/batch": 31.9})


def test_go_benchmarks_of_several_rounds_become_one() -> None:
    output = "".join(
        f"BenchmarkA-2 100 {ns} ns/op {10 * ns} queries/s 8 B/op {allocs} allocs/op\nBenchmarkB-2 100 5 ns/op\n"
        for ns, allocs in ((30, 1), (10, 0), (20, 1))
    )
    one, two = medians(parse_benchmarks(output))
    assert (one.name, one.ns, one.allocs, one.metrics) == ("A", 20, 1, {"queries/s": 200})
    assert (two.name, two.ns) == ("B", 5)
