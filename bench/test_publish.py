from __future__ import annotations

import pytest
from publish import BEGIN, END, PAGE, published

REPORT = """\
# Benchmark of 2026-01-31, commit abc1234

2 cores.

![one-W1.svg](one-W1.svg)

## The targets

| a | b |

## Inside one Go process (`go test -bench`)

| c |

## Who was measured

| d |
"""


def test_a_page_gets_the_report_between_its_marks() -> None:
    page = f"# Performance\n\n{BEGIN}\n\nold figures\n\n{END}\n\n## Where the time goes\n"
    once = published(page, REPORT, "../bench/results/one.md")
    assert once == (
        f"# Performance\n\n{BEGIN}\n\n"
        "From [benchmark of 2026-01-31, commit abc1234](../bench/results/one.md). 2 cores.\n\n"
        "![one-W1.svg](../bench/results/one-W1.svg)\n\n"
        "## The targets\n\n| a | b |\n\n"
        f"{END}\n\n## Where the time goes\n"
    )
    assert published(once, REPORT, "../bench/results/one.md") == once


def test_a_page_without_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="lacks the marks"):
        published("# Performance\n", REPORT, "one.md")


def test_the_page_about_performance_has_the_marks() -> None:
    assert published(PAGE.read_text(), REPORT, "one.md").count("| a | b |") == 1
