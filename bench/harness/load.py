"""Load: wrk for figures, and a checker that knows which answer belongs to which query."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .workloads import ANSWER, QUERY

SCRIPT = Path(__file__).with_name("post.lua")
PREFIX = "SHOAL-BENCH "
HEADERS = {"Content-Type": "application/json"}

CHECK_CONNECTIONS = 64
CHECK_QUERIES = 8


class LoadError(Exception):
    """The load generator gave no figures, or the server gave wrong answers."""


@dataclass(frozen=True)
class Sample:
    """What one run of wrk saw."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    wrong: int = 0
    broken: int = 0
    mean_batch: float | None = None
    # The share of the machine that neither server nor load generator used, but other programs did.
    foreign: float = 0.0

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def errors(self) -> int:
        """Wrong answers, and requests that the connection failed."""
        return self.wrong + self.broken


def parse_wrk(output: str) -> Sample:
    """Read the line that post.lua ends wrk's output with. Raises LoadError when there is none."""
    for line in output.splitlines():
        if line.startswith(PREFIX):
            seen = json.loads(line[len(PREFIX) :])
            break
    else:
        raise LoadError("wrk gave no figures: " + (output.strip().splitlines() or ["no output"])[-1])
    return Sample(
        requests=seen["requests"],
        seconds=seen["microseconds"] / 1e6,
        p50_ms=seen["p50_us"] / 1e3,
        p99_ms=seen["p99_us"] / 1e3,
        max_ms=seen["max_us"] / 1e3,
        wrong=seen["wrong"],
        broken=seen["connect"] + seen["read"] + seen["write"] + seen["timeout"],
    )


def run_wrk(wrk: str, url: str, connections: int, seconds: int, answer: str = ANSWER) -> Sample:
    """Put load on a server for that many seconds."""
    argv = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(SCRIPT), url]
    env = {**os.environ, "SHOAL_BENCH_QUERY": QUERY, "SHOAL_BENCH_ANSWER": answer}
    try:
        done = subprocess.run(
            argv, env=env, capture_output=True, text=True, timeout=seconds + 30, check=False
        )
    except subprocess.TimeoutExpired:
        raise LoadError("wrk did not end in time") from None
    return parse_wrk(done.stdout + done.stderr)


def ask(url: str, query: str, seconds: float = 5) -> str | None:
    """The answer to one query on a connection of its own; None when there is none, or not with status 200."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=seconds)
    try:
        return _post(connection, parts.path, query)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def check_answers(url: str, expect_echo: bool = False) -> int:
    """Ask distinct queries on many connections at once and return how many got an answer not their own."""
    parts = urlsplit(url)

    def client(index: int) -> int:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        wrong = 0
        try:
            for x in range(index * CHECK_QUERIES, (index + 1) * CHECK_QUERIES):
                query = json.dumps({"x": x})
                answer = _post(connection, parts.path, query)
                wrong += answer != (query if expect_echo else str(x + 1))
        except (OSError, http.client.HTTPException):
            return CHECK_QUERIES
        finally:
            connection.close()
        return wrong

    with ThreadPoolExecutor(CHECK_CONNECTIONS) as clients:
        return sum(clients.map(client, range(CHECK_CONNECTIONS)))


def _post(connection: http.client.HTTPConnection, path: str, query: str) -> str | None:
    connection.request("POST", path or "/", query, HEADERS)
    response = connection.getresponse()
    body = response.read().decode("utf-8", "replace").strip()
    return body if response.status == 200 else None
