"""Overload: bench/overload.py in seconds, for what was answered and refused and not for how fast."""

from __future__ import annotations

import json
import sys
from typing import Any

from harness import ROOT, run

SCRIPT = ROOT / "bench" / "overload.py"


def test_ten_times_the_capacity_for_a_few_seconds() -> None:
    arguments = ["--json", "--seconds", "6", "--calm", "2"]
    done = run([sys.executable, SCRIPT, *arguments], patience=180)
    assert done.output.startswith("{"), done.said
    result: dict[str, Any] = json.loads(done.output)
    before, peak, after = result["before"], result["overload"], result["after"]
    for phase in (before, peak, after):
        assert phase["asked"] == phase["answered"] + phase["late"] + phase["refused"] + phase["failed"]
        assert phase["failed"] == 0
    assert peak["refused"] > peak["answered"] > 0
    assert peak["with_retry_after"] == peak["refused"]
    assert set(peak["retry_after"]) <= {1, 2, 3}
    assert after["answered"] > 0
    stats = result["stats"]
    assert stats["refusals"]["deadline"] > 0
    assert "queue_full" not in stats["refusals"]
