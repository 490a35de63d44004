from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import pytest
from compare import jobs, series, verdict
from harness.environments import ROOT, SetupError
from harness.gobench import GoPackage, parse_benchmarks
from harness.revisions import PACKAGES, WORKTREE, Revision, checked_out, macro_line
from harness.verdict import Limits, Row, benchstat, confirmed, read_rows, worse

DATA = Path(__file__).parent / "testdata"
BATCH = "github.com/shoalserve/shoal/batch"

CSV = """\
goos: linux
pkg: github.com/shoalserve/shoal/batch
,base.txt,,head.txt,,,
,sec/op,CI,sec/op,CI,vs base,P
Do64Callers-2,9.0e-07,1%,1.08e-06,1%,+20.00%,p=0.002 n=6
OnlyInBase-2,9.0e-07,1%,,,,
Same-2,2.9895e-07,2%,2.9725e-07,3%,~,p=0.818 n=6
geomean,5.19e-07,,5.66e-07,,+9.12%,

,base.txt,,head.txt,,,
,allocs/op,CI,allocs/op,CI,vs base,P
Do64Callers-2,0,0%,1,0%,?,p=0.002 n=6+5
geomean,,,,,?,

pkg: macro
,base.txt,,head.txt,,,
,cpu-sec/op,CI,cpu-sec/op,CI,vs base,P
W1/connections=64,3.98e-05,3%,4.78e-05,3%,+20.04%,p=0.002 n=6
"""


def row(
    unit: str = "sec/op", base: float = 100, head: float = 100, p: float = 0.002, name: str = "Do"
) -> Row:
    return Row(BATCH, name, unit, base, head, p, 6)


def test_benchstats_rows_are_read_with_package_and_unit() -> None:
    assert read_rows(CSV) == [
        Row(BATCH, "Do64Callers-2", "sec/op", 9.0e-07, 1.08e-06, 0.002, 6),
        Row(BATCH, "Same-2", "sec/op", 2.9895e-07, 2.9725e-07, 0.818, 6),
        Row(BATCH, "Do64Callers-2", "allocs/op", 0, 1, 0.002, 5),
        Row("macro", "W1/connections=64", "cpu-sec/op", 3.98e-05, 4.78e-05, 0.002, 6),
    ]


@pytest.mark.parametrize(
    ("seen", "is_worse"),
    [
        (row(head=106), True),
        (row(head=104), False),
        (row(head=150, p=0.06), False),
        (row(head=90), False),
        (row("allocs/op", 0, 1), True),
        (row("allocs/op", 2, 2), False),
        (row("B/op", 8, 12), False),
        (row("B/op", 96, 128), True),
        (row("B/s", 100, 80), True),
        (row("B/s", 100, 120), False),
        (row("queries/batch", 32, 16), False),
        (row("cpu-sec/op", 40, 48), True),
    ],
    ids=[
        "beyond the threshold",
        "within the threshold",
        "perhaps noise",
        "better",
        "a first allocation",
        "no more allocations",
        "a few bytes",
        "many bytes",
        "less throughput",
        "more throughput",
        "a unit that says nothing",
        "processor time",
    ],
)
def test_what_is_worse(seen: Row, is_worse: bool) -> None:
    assert bool(worse([seen], Limits())) == is_worse


def test_limits_can_be_set() -> None:
    assert not worse([row(head=106)], Limits(threshold=0.10))
    assert worse([row(head=106, p=0.06)], Limits(alpha=0.10))


def test_only_what_is_worse_twice_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    first = [row(head=120, name="Do"), row(head=120, name="Submit")]
    second = [row(head=130, name="Submit"), row(head=110, name="Other")]
    lost = confirmed(first, second)
    assert [one.benchmark for one in lost] == ["Submit"]
    assert verdict(lost, Limits()) == 1
    assert "1 figure got worse by more than 5% with p < 0.05, twice" in capsys.readouterr().out
    assert verdict([], Limits()) == 0


def test_benchstat_finds_what_is_slower_in_files_of_benchmarks() -> None:
    slower = read_rows(benchstat(DATA / "base.txt", DATA / "slower.txt", "-format=csv"))
    assert {(one.benchmark, one.unit) for one in worse(slower, Limits())} == {
        ("Do64Callers-2", "sec/op"),
        ("Submit64Callers-2", "allocs/op"),
        ("W1/connections=64", "cpu-sec/op"),
    }
    same = read_rows(benchstat(DATA / "base.txt", DATA / "same.txt", "-format=csv"))
    assert len(same) == len(slower)
    assert worse(same, Limits()) == []


def test_load_is_written_as_go_writes_benchmarks() -> None:
    (seen,) = parse_benchmarks(macro_line("W1", 64, requests=40_000, rate=20_000, p50_ms=1.5, cpu=2.0))
    assert (seen.name, seen.ns) == ("W1/connections=64", 50_000)
    assert seen.metrics == {"p50-ns": 1_500_000, "cpu-ns/op": 50_000}


class Fake(Revision):
    """A revision whose benchmarks are canned."""

    def run(self, package: GoPackage, pattern: str, benchtime: str) -> str:
        return f"pkg: {package.folder}\nBenchmarkX 1 {len(self.label)} ns/op\n"


def sides(tmp_path: Path) -> tuple[Revision, Revision]:
    return Fake("base", ROOT, tmp_path), Fake("head-two", ROOT, tmp_path)


def options(only: str = "") -> argparse.Namespace:
    return argparse.Namespace(only=only, benchtime="1ms", seconds=1)


def test_both_sides_are_measured_in_turn(tmp_path: Path) -> None:
    work = jobs(sides(tmp_path), options(only="batch"))
    assert [job.title for job in work] == ["./batch"]
    rows, table = series(
        (Fake("base", ROOT, tmp_path), Fake("head", ROOT, tmp_path)), work, 4, tmp_path / "first"
    )
    assert [(one.benchmark, one.base, one.head, one.samples) for one in rows] == [("X", 4e-9, 4e-9, 4)]
    assert "vs base" in table


def test_only_what_was_worse_is_measured_again(tmp_path: Path) -> None:
    both = sides(tmp_path)
    everything = [job.title for job in jobs(both, options())]
    assert everything[:2] == ["./batch", "."]
    assert everything[-2:] == ["W1 under load", "W2 under load"]
    suspects = [row(name="Do64Callers-2"), Row("macro", "W2/connections=16", "sec/op", 1, 2, 0, 6)]
    assert [job.title for job in jobs(both, options(), suspects)] == ["./batch", "W2 under load"]
    handle = [Row("github.com/shoalserve/shoal", "Handle/callers_64-2", "sec/op", 1, 2, 0, 6)]
    assert [job.title for job in jobs(both, options(), handle)] == ["."]


def test_packages_without_benchmarks_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "batch").mkdir()
    (tmp_path / "batch" / "x_test.go").write_text("package batch\n\nfunc BenchmarkX(b *testing.B) {}\n")
    assert Revision("old", tmp_path, tmp_path).packages() == [PACKAGES[0]]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_a_revision_is_checked_out_and_removed_again(tmp_path: Path) -> None:
    with checked_out("HEAD", "base", tmp_path) as revision:
        root = revision.root
        assert (root / "go.mod").exists()
        assert root != ROOT
    assert not root.exists()
    listed = subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert str(root) not in listed.stdout
    with (
        pytest.raises(SetupError, match="no-such-revision"),
        checked_out("no-such-revision", "head", tmp_path),
    ):
        pass
    with checked_out(WORKTREE, "tree", tmp_path) as tree:
        assert tree.root == ROOT
