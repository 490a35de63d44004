"""Load: wrk for figures, and a checker that knows which answer belongs to which query."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .workloads import Exchange

SCRIPT = Path(__file__).with_name("post.lua")
PREFIX = "SHOAL-BENCH "


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
    p90_ms: float | None = None
    wrong: int = 0
    broken: int = 0
    mean_batch: float | None = None
    # Processor time of the server and all its processes.
    cpu_us: float | None = None
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
        p90_ms=seen["p90_us"] / 1e3,
        wrong=seen["wrong"],
        broken=seen["connect"] + seen["read"] + seen["write"] + seen["timeout"],
    )


def run_wrk(wrk: str, url: str, connections: int, seconds: int, exchange: Exchange) -> Sample:
    """Put load on a server for that many seconds."""
    argv = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(SCRIPT), url]
    with tempfile.TemporaryDirectory(prefix="shoal-bench-wrk-") as folder:
        query, answer = Path(folder) / "query", Path(folder) / "answer"
        query.write_bytes(exchange.body)
        answer.write_text(exchange.answer)
        env = {
            **os.environ,
            "SHOAL_BENCH_QUERY": str(query),
            "SHOAL_BENCH_ANSWER": str(answer),
            "SHOAL_BENCH_CONTENT_TYPE": exchange.content_type,
            "SHOAL_BENCH_WHOLE": "1" if exchange.whole else "0",
        }
        try:
            done = subprocess.run(
                argv, env=env, capture_output=True, text=True, timeout=seconds + 30, check=False
            )
        except subprocess.TimeoutExpired:
            raise LoadError("wrk did not end in time") from None
    return parse_wrk(done.stdout + done.stderr)


def ask(url: str, exchange: Exchange, seconds: float = 5) -> str | None:
    """The answer to one query on a connection of its own; None when there is none, or not with status 200."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=seconds)
    try:
        return _post(connection, parts.path, exchange)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def check_answers(url: str, exchanges: Sequence[Exchange], clients: int) -> int:
    """Ask distinct queries on many connections at once and return how many got an answer not their own."""
    parts = urlsplit(url)

    def client(index: int) -> int:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        mine = exchanges[index::clients]
        try:
            return sum(not one.accepts(_post(connection, parts.path, one)) for one in mine)
        except (OSError, http.client.HTTPException):
            return len(mine)
        finally:
            connection.close()

    with ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(client, range(clients)))


def _post(connection: http.client.HTTPConnection, path: str, exchange: Exchange) -> str | None:
    connection.request("POST", path or "/", exchange.body, {"Content-Type": exchange.content_type})
    response = connection.getresponse()
    body = response.read().decode("utf-8", "replace")
    return body if response.status == 200 else None
