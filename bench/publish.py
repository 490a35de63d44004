"""Puts a report into docs/performance.md: `python3 bench/publish.py bench/results/NAME.md`.

Between the two marks, the page then has what the report says of the machine, its pictures, and its sections.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

from harness.environments import ROOT

PAGE = ROOT / "docs" / "performance.md"
BEGIN = "<!-- Figures of a report, put here by bench/publish.py: -->"
END = "<!-- End of the report's figures. -->"
# What only the report itself has.
LEFT_OUT = ("Who was measured", "Inside one Go process")


def main() -> int:
    """Publish the report that is named on the command line."""
    parser = argparse.ArgumentParser(description="Put a report's figures into docs/performance.md.")
    parser.add_argument(
        "report", type=Path, help="a Markdown report, such as bench/results/2026-11-24-1168522.md"
    )
    report = parser.parse_args().report.resolve()
    try:
        page = published(PAGE.read_text(), report.read_text(), os.path.relpath(report, PAGE.parent))
    except (OSError, ValueError) as exc:
        print(f"publish: {exc}", file=sys.stderr)
        return 1
    PAGE.write_text(page)
    return 0


def published(page: str, report: str, link: str) -> str:
    """The page with the report between its marks. Raises ValueError when the page has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks the marks {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{excerpt(report, link)}\n\n{END}{after}"


def excerpt(report: str, link: str) -> str:
    """What the page has of a report, with pictures found from where the page is."""
    title, *sections = re.split(r"^## ", report, flags=re.MULTILINE)
    heading, _, words = title.partition("\n")
    name = heading.removeprefix("# ").strip()
    parts = [f"From [{name[0].lower()}{name[1:]}]({link}). {words.strip()}"]
    parts += [f"## {section.strip()}" for section in sections if not section.startswith(LEFT_OUT)]
    folder = os.path.dirname(link)
    return re.sub(r"\]\(([^/)]+\.svg)\)", rf"]({folder}/\1)", "\n\n".join(parts))


if __name__ == "__main__":
    sys.exit(main())
