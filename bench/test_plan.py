from __future__ import annotations

import argparse

import pytest
from harness.measure import Plan
from harness.peers import ECHO, MOSEC, SHOAL
from harness.workloads import WORKLOADS
from run import between, counts, names_of, parse_arguments, plan_of


def test_each_round_begins_with_another_peer_and_measures_the_echo_once() -> None:
    plan = Plan(
        (SHOAL, MOSEC, ECHO), WORKLOADS, (1,), rounds=2, seconds=1, warmup_seconds=1, limit_seconds=60
    )
    assert [(number, workload.name, peer.name) for number, workload, peer in plan.sessions()] == [
        (0, "W1", "shoal"),
        (0, "W1", "mosec"),
        (0, "W1", "echo"),
        (0, "W2", "shoal"),
        (0, "W2", "mosec"),
        (1, "W1", "mosec"),
        (1, "W1", "echo"),
        (1, "W1", "shoal"),
        (1, "W2", "mosec"),
        (1, "W2", "shoal"),
    ]


def test_the_plan_is_what_the_options_say(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "run.py --peers mosec,shoal --workloads W2 --connections 64,1 --rounds 5 --duration 7 --limit 2"
    monkeypatch.setattr("sys.argv", line.split())
    plan = plan_of(parse_arguments())
    assert plan.peers == (SHOAL, MOSEC, ECHO)
    assert plan.workloads == (WORKLOADS[1],)
    assert (plan.connections, plan.rounds, plan.seconds, plan.limit_seconds) == ((1, 64), 5, 7, 120)


def test_a_smoke_run_is_one_short_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["run.py", "--smoke", "--no-echo"])
    plan = plan_of(parse_arguments())
    assert (plan.rounds, plan.seconds, ECHO in plan.peers) == (1, 1, False)


def test_names_and_numbers_are_checked() -> None:
    with pytest.raises(
        argparse.ArgumentTypeError, match="no peer is called 'triton'; there are shoal, mosec"
    ):
        names_of("peer", ["shoal", "mosec"])("shoal,triton")
    with pytest.raises(argparse.ArgumentTypeError, match="name a peer"):
        names_of("peer", ["shoal"])(",")
    with pytest.raises(argparse.ArgumentTypeError, match="0 is not between 1 and 1024"):
        counts("0,16")
    with pytest.raises(argparse.ArgumentTypeError, match="'many' is not a whole number"):
        between(1, 2)("many")


def test_what_a_model_permits() -> None:
    adder, sleeper = WORKLOADS
    assert adder.ideal_rate(64) is None
    assert [sleeper.ideal_rate(count) for count in (1, 16, 64, 256)] == [200, 3200, 6400, 6400]
