from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from harness.environments import SetupError
from harness.measure import Bench, Plan
from harness.peers import Peer, Tools
from harness.processes import Launch
from harness.workloads import WORKLOADS

ADDER = """
import http.server, json, struct, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        x = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["x"]
        with open(sys.argv[2], "r+b") as file:
            batches, queries = struct.unpack("<qq", file.read(16))
            file.seek(0)
            file.write(struct.pack("<qq", batches + 1, queries + 1))
        text = str(x + 1).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer.request_queue_size = 128
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def adder(tools: Tools, _: str, port: int) -> Launch:
    counts = tools.scratch / "counts"
    counts.write_bytes(bytes(16))
    return Launch([sys.executable, "-c", ADDER, str(port), str(counts)], f"http://127.0.0.1:{port}/")


def broken(tools: Tools, _: str, port: int) -> Launch:
    return Launch([sys.executable, "-c", "raise SystemExit('no model here')"], f"http://127.0.0.1:{port}/")


class Missing(Peer):
    def prepare(self, scratch: Path) -> Tools:
        raise SetupError("no such package")


GOOD = Peer("good", "Good", "", adder)
BROKEN = Peer("broken", "Broken", "", broken)
MISSING = Missing("missing", "Missing", "", adder)


def plan(limit_seconds: float) -> Plan:
    return Plan(
        (BROKEN, MISSING, GOOD),
        WORKLOADS[:1],
        (1, 2),
        rounds=1,
        seconds=1,
        warmup_seconds=1,
        limit_seconds=limit_seconds,
    )


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_a_peer_that_fails_is_said_and_the_others_are_measured(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(plan(60), "wrk", tmp_path)
    bench.prepare()
    results = bench.run()
    assert results.failures == {
        ("missing", ""): "could not be installed",
        ("broken", "W1"): "exited with status 1 before its first answer",
    }
    assert "no model here" in capfd.readouterr().err
    assert list(results.samples) == [("good", "W1", 1), ("good", "W1", 2)]
    (sample,) = results.samples["good", "W1", 1]
    assert sample.rate > 0
    assert sample.errors == 0
    assert sample.mean_batch == 1
    assert sample.cpu_us is not None
    assert sample.cpu_us >= 0
    assert 0 <= sample.foreign <= 1
    (start,) = results.starts["good", "W1"]
    assert start.seconds > 0
    assert start.memory.tree > 0


def test_nothing_is_started_after_the_time_limit(tmp_path: Path) -> None:
    bench = Bench(plan(-1), "wrk", tmp_path)
    bench.prepare()
    results = bench.run()
    assert results.cut
    assert results.samples == {}
