"""bench/chaos.py for seconds: nothing is lost. And that it would find what is."""

from __future__ import annotations

import json
import sys
from typing import Any

from harness import ROOT, run

SCRIPT = ROOT / "bench" / "chaos.py"


def chaos(*arguments: str) -> tuple[int | None, dict[str, Any]]:
    done = run([sys.executable, SCRIPT, "--json", *arguments], patience=180)
    assert done.output.startswith("{"), done.said
    return done.status, json.loads(done.output)


def test_nothing_is_lost_whatever_goes_wrong() -> None:
    status, result = chaos("--seconds", "10", "--seed", "1")
    assert result["lost"] == []
    assert result["grown"] == {}
    assert status == 0
    assert result["sent"] == sum(result["counts"].values())
    assert result["counts"]["right"] > 100
    assert sum(result["troubles"].values()) > 2
    assert sum(result["broken_clients"].values()) > 10


def test_what_is_lost_is_found() -> None:
    status, result = chaos("--seconds", "2", "--seed", "1", "--no-deaths", "--lie", "0.05")
    assert status == 1
    assert any("was answered with" in line for line in result["lost"])
