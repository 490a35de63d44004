"""The soak of bench/soak.py in seconds: that it passes, and that it finds what it is for."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from typing import Any

import pytest
from harness import ROOT, run

SCRIPT = ROOT / "bench" / "soak.py"


def soak(*arguments: str) -> tuple[int | None, dict[str, Any]]:
    done = run([sys.executable, SCRIPT, "--json", *arguments], patience=120)
    assert done.output.startswith("{"), done.said
    return done.status, json.loads(done.output)


def test_a_short_soak_passes() -> None:
    status, result = soak("--seconds", "4")
    assert status == 0, result
    assert not result["wrong"]
    assert all(result["flat"].values())
    assert result["handle_queries"] > 1000
    assert result["http_queries"] > 100
    assert result["samples"] >= 10


def test_a_model_that_leaks_is_found() -> None:
    status, result = soak("--seconds", "4", "--leak", "20000")
    assert status == 1, result
    assert not result["flat"]["worker memory"]
    assert result["flat"]["descriptors"]


@pytest.fixture
def judge() -> Any:
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module
    spec.loader.exec_module(module)
    return module.judge


def test_the_judgement_is_by_the_trend_and_not_by_single_samples(judge: Any) -> None:
    rng = random.Random(1)
    times = [float(t) for t in range(200)]
    noisy = [100 + rng.uniform(-3, 3) + (500 if t % 17 == 0 else 0) for t in range(200)]
    assert judge(times, noisy, 5.0).flat
    rising = [value + t * 0.2 for t, value in enumerate(noisy)]
    verdict = judge(times, rising, 5.0)
    assert not verdict.flat
    assert verdict.growth == pytest.approx(20, abs=4)
    warming_up = [value + min(t, 80) for t, value in enumerate(noisy)]
    assert judge(times, warming_up, 5.0).flat
    with pytest.raises(ValueError, match="say nothing"):
        judge(times[:6], noisy[:6], 5.0)
