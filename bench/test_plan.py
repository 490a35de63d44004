from __future__ import annotations

import argparse
import json
import struct
from pathlib import Path

import pytest
from harness.measure import Plan
from harness.peers import BENTOML, ECHO, LITSERVE, MLSERVER, MOSEC, MOSEC_1MS, SHOAL
from harness.workloads import TENSOR_FLOATS, WORKLOADS, Case, Exchange
from run import between, counts, names_of, parse_arguments, plan_of


def test_each_round_begins_with_another_peer_and_measures_each_where_it_belongs() -> None:
    plan = Plan(
        (SHOAL, MOSEC_1MS, ECHO), WORKLOADS[:2], (1,), rounds=2, seconds=1, warmup_seconds=1, limit_seconds=60
    )
    assert [(number, workload.name, peer.name) for number, workload, peer in plan.sessions()] == [
        (0, "W1", "shoal"),
        (0, "W1", "mosec-1ms"),
        (0, "W1", "echo"),
        (0, "W2", "shoal"),
        (1, "W1", "mosec-1ms"),
        (1, "W1", "echo"),
        (1, "W1", "shoal"),
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
    assert (plan.rounds, plan.seconds, ECHO in plan.peers, plan.connections) == (1, 1, False, (1, 64))


def test_each_workload_has_its_own_connections_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["run.py"])
    plan = plan_of(parse_arguments())
    assert [plan.connections_of(workload) for workload in plan.workloads] == [
        (1, 16, 64, 256),
        (1, 16, 24, 64, 256),
        (64,),
        (1, 16),
    ]


def test_without_servers_no_workload_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["run.py", "--only", "go,copy"])
    assert list(plan_of(parse_arguments()).sessions()) == []


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
    adder, sleeper, *_ = WORKLOADS
    assert adder.ideal_rate(64) is None
    assert [sleeper.ideal_rate(count) for count in (1, 16, 64, 256)] == [200, 3200, 6400, 6400]


def test_each_server_gets_queries_in_its_own_form(tmp_path: Path) -> None:
    adder, *_, tensors = WORKLOADS
    case = adder.first_case(tmp_path)
    assert SHOAL.exchange(case) == Exchange(b'{"x": 41}', "42")
    assert BENTOML.exchange(case) == Exchange(b'{"x": [41]}', "[42]")
    assert ECHO.exchange(case) == Exchange(b'{"x": 41}', '{"x": 41}')
    assert json.loads(MLSERVER.exchange(case).body)["inputs"][0]["data"] == [41]
    assert MLSERVER.exchange(Case([1, 2, 3], 7)).answer == '"data":[7]'
    assert json.loads(MLSERVER.exchange(Case([1, 2, 3], 7)).body)["inputs"][0]["shape"] == [1, 3]
    tensor = tensors.first_case(tmp_path)
    assert (len(SHOAL.exchange(tensor).body), ECHO.exchange(tensor).answer) == (1 << 20, str(1 << 20))
    assert SHOAL.exchange(tensor).content_type == "application/octet-stream"
    assert [peer.serves(tensors) for peer in (SHOAL, MOSEC, LITSERVE, MLSERVER)] == [True, True, False, False]


def test_the_sums_of_tensors_are_right(tmp_path: Path) -> None:
    tensors = WORKLOADS[-1]
    cases = tensors.check_cases(tmp_path)
    assert len({case.x for case in cases}) == 64
    case = cases[7]
    assert isinstance(case.x, bytes)
    assert case.y == sum(struct.unpack(f"<{TENSOR_FLOATS}f", case.x))
