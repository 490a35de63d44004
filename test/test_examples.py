"""The examples, run as their own words say."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from harness import EXAMPLES, ROOT, SHOAL, Process, ask, free_port, run, until


def test_the_digits_demo_shows_that_batches_pay() -> None:
    demo = run([sys.executable, EXAMPLES / "digits" / "demo.py", "--http-port", "0"], patience=240)
    assert demo.status == 0, demo.said
    assert "Answers that differ between these 4 runs: 0." in demo.output
    seen, everything = (float(found) for found in re.findall(r"Accuracy.*: ([\d.]+)%", demo.output))
    assert seen > 95
    assert everything > 95
    ratios = [float(found) for found in re.findall(r"([\d.]+)x$", demo.output, re.MULTILINE)]
    assert len(ratios) == 2
    assert ratios[0] > 1, demo.output
    assert re.search(r"^ +32 █+ \d+$", demo.output, re.MULTILINE), demo.output


@pytest.fixture
def go_example(tmp_path: Path) -> Path:
    binary = tmp_path / "example"
    built = run(["go", "build", "-o", binary, "./examples/go"], cwd=ROOT, patience=300)
    assert built.status == 0, built.said
    return binary


def test_the_go_example_computes_nine_queries_as_one_four_and_four(go_example: Path) -> None:
    done = run([go_example])
    assert done.status == 0, done.said
    assert re.findall(r"^batch of (\d+)$", done.output, re.MULTILINE) == ["1", "4", "4"]
    assert re.findall(r"^(\d+) \+ 1 = (\d+)", done.output, re.MULTILINE) == [
        (str(n), str(n + 1)) for n in range(9)
    ]


def test_the_go_example_serves_http_until_it_is_told_to_stop(go_example: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    with Process([go_example, "-http", address]) as example:
        assert until(lambda: answer(example, address, "/adder?number=41"), "an answer") == "42"
        example.signal(signal.SIGTERM)
        assert example.wait() == 0, example.said


@pytest.fixture(params=["shoal.yaml", "scaling.yaml"])
def adder(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where a config file of examples/adder is served."""
    address = f"127.0.0.1:{free_port()}"
    with Process([SHOAL, "serve", "--http", address, EXAMPLES / "adder" / request.param]) as server:
        until(lambda: answer(server, address, "/adder?number=0"), "an answer")
        yield address
        server.signal(signal.SIGTERM)
        assert server.wait() == 0, server.said


def test_the_adder_is_served_as_its_config_file_says(adder: str) -> None:
    assert ask(adder, "/adder?number=41").text == "42"
    assert ask(adder, "/adder?number=41", "POST").status_code in (200, 405)
    assert ask(adder, "/readyz").status_code == 200


def test_the_arrays_example_answers_what_it_says() -> None:
    address = f"127.0.0.1:{free_port()}"
    with Process([SHOAL, "serve", "--http", address, EXAMPLES / "arrays" / "arrays.py"]) as server:
        assert until(lambda: answer(server, address, "/plus?x=41"), "an answer") == "42"
        until(lambda: answer(server, address, "/mean?tokens=[1]"), "an answer")
        url = f"http://{address}"
        assert requests.post(f"{url}/plus", json={"x": [1, 2.5]}, timeout=10).text == "[2,3.5]"
        assert requests.post(f"{url}/plus", json={"x": [1, 2], "y": [3, 4]}, timeout=10).text == "[4,6]"
        assert requests.post(f"{url}/mean", json={"tokens": [3, 1, 4, 2]}, timeout=10).text == (
            '{"mean":2.5,"of":4}'
        )
        refused = requests.post(f"{url}/mean", json={"tokens": "3"}, timeout=10)
        assert refused.status_code == 400
        assert "tokens" in refused.json()["detail"]


def answer(process: Process, address: str, path: str) -> str | None:
    """What a server says, once it serves that path."""
    assert process.status is None, process.said
    try:
        response = ask(address, path)
    except requests.ConnectionError:
        return None
    return response.text if response.status_code == 200 else None
