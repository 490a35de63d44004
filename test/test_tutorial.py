"""The tutorial's programs, unchanged, as processes of their own."""

from __future__ import annotations

import fcntl
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import EXAMPLES, run, until


def taken(port: int) -> bool:
    """Whether somebody listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def port_8000() -> Iterator[None]:
    """The port that the programs have written into them, for one test of this machine at a time."""
    with (Path(tempfile.gettempdir()) / "shoal-test-port-8000").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        until(lambda: not taken(8000), "port 8000 to be free")
        yield


def shapes(text: str) -> list[int]:
    return [int(size) for size in re.findall(r"array has shape: \((\d+),\)", text)]


@pytest.mark.parametrize("program", ["tutorial.py", "tutorial_init.py"])
@pytest.mark.usefixtures("port_8000")
def test_nine_queries_run_as_one_four_and_four_over_http_and_through_the_handle(program: str) -> None:
    tutorial = run([sys.executable, "-u", EXAMPLES / "tutorial" / program])
    assert tutorial.status == 0, tutorial.said
    assert "Result returned: [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" in tutorial.output
    assert "Result batch is [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" in tutorial.output
    assert "adder:v1" in next(line for line in tutorial.lines if line.startswith("Handle("))
    assert shapes(tutorial.said) == [1, 4, 4, 1, 4, 4], tutorial.said
    contexts = re.findall(r"Current context is (\w+)", tutorial.said)
    assert contexts == ["python"] * 3


def test_only_the_import_lines_of_the_tutorial_were_changed() -> None:
    for program in ("tutorial.py", "tutorial_init.py"):
        text = (EXAMPLES / "tutorial" / program).read_text()
        uses = [line for line in text.splitlines() if "shoal" in line]
        assert uses == [
            "import shoal as ray  # was: import ray",
            "from shoal import serve  # was: from ray import serve",
        ]
