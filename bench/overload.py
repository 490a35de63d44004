"""Ten times as much as a backend can compute: `make overload MINUTES=2`, or `.venv/bin/python bench/overload.py --help`.

A real server with one Python worker computes batches of 4 in 50 ms, 80 queries/s, each within 1 s. Queries come over
HTTP whether or not others were answered (an open loop): a few seconds at half of the capacity, then at ten times the
capacity, then at half again. Told for each phase: how many were answered and how many refused, how soon, whether
the refused ones were told when to come again, and the memory of server and worker.

An accepted query that is late gets 504 from the server itself. Client, server and worker share the machine, so the
client's times include its own delays; how late it was in sending tells how large these are. The time to a refusal is
the server's, from its metrics: from the query's headers to the answer.

It fails, and says why, when accepted queries miss their deadlines, refusals are slow or do not say when to come
again, memory grows, or it is not back to normal afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import sys
import time
import urllib.request
from collections.abc import Sequence
from typing import Any, NamedTuple

from soak import MIB, memory_of

from shoal import serve

BATCH, COMPUTE, TIMEOUT = 4, 0.05, 1.0
CAPACITY = BATCH / COMPUTE
BODY = 4096  # bytes of a query
SOON = 0.005  # seconds within which a query is refused


class Slow:
    """The model: takes COMPUTE seconds a batch, whatever its size."""

    @serve.accept_batch
    def __call__(self, requests: Any) -> list[int]:
        time.sleep(COMPUTE)
        return [len(request.data) for request in requests]


class Answer(NamedTuple):
    """What came of one query; late (in sending it) and took are in seconds."""

    late: float
    took: float
    status: int  # 0: the connection broke
    retry_after: int | None


class Connection(asyncio.Protocol):
    """A connection with at most one query under way."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, int | None]] | None = None
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end((0, None))

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.decode("latin-1").split("\r\n")
        fields = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        if len(body) >= int(fields["content-length"]):
            self._data = b""
            after = fields.get("retry-after")
            self._end((int(lines[0].split()[1]), int(after) if after else None))

    def _end(self, answer: tuple[int, int | None]) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    @property
    def usable(self) -> bool:
        """Whether another query may be sent."""
        return self._transport is not None

    async def ask(self, request: bytes) -> tuple[int, int | None]:
        """Send a query; the status of its answer, and Retry-After."""
        if self._transport is None:
            return 0, None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


class Client:
    """Asks at a steady rate, over as many connections as that takes."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._idle: list[Connection] = []
        head = f"POST /slow HTTP/1.1\r\nHost: {address}\r\nContent-Length: {BODY}\r\n\r\n"
        self._request = head.encode() + b"x" * BODY

    async def load(self, rate: float, seconds: float) -> list[Answer]:
        """Ask so often a second for so long, and wait for the answers."""
        answers: list[Answer] = []
        under_way: set[asyncio.Task[None]] = set()
        began = time.monotonic()
        for number in range(int(rate * seconds)):
            delay = began + number / rate - time.monotonic()
            if delay > 0:
                await asyncio.sleep(delay)
            task = asyncio.create_task(self._ask(began + number / rate, answers))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)
        return answers

    async def _ask(self, due: float, answers: list[Answer]) -> None:
        sent = time.monotonic()
        try:
            connection = self._idle.pop() if self._idle else await self._connect()
            sent = time.monotonic()
            status, retry_after = await connection.ask(self._request)
        except OSError:
            answers.append(Answer(sent - due, 0.0, 0, None))
            return
        answers.append(Answer(sent - due, time.monotonic() - sent, status, retry_after))
        if connection.usable:
            self._idle.append(connection)

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, self._host, self._port)
        return connection

    def close(self) -> None:
        """Close the connections."""
        for connection in self._idle:
            connection.close()


def quantile(values: Sequence[float], share: float) -> float:
    """The quantile of the values; 0 when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def summary(answers: Sequence[Answer], seconds: float) -> dict[str, Any]:
    """What came of the queries of a phase."""
    answered = [a for a in answers if a.status == 200]
    refused = [a for a in answers if a.status == 503]
    late = [a for a in answers if a.status == 504]
    return {
        "asked": len(answers),
        "answered": len(answered),
        "per_second": len(answered) / seconds,
        "late": len(late),
        "refused": len(refused),
        "failed": len(answers) - len(answered) - len(refused) - len(late),
        "in_time": len(answered) / max(1, len(answered) + len(late)),
        "client_p50": quantile([a.late for a in answers], 0.5),
        "client_p99": quantile([a.late for a in answers], 0.99),
        "answer_p50": quantile([a.took for a in answered], 0.5),
        "answer_p99": quantile([a.took for a in answered], 0.99),
        "client_refusal_p50": quantile([a.took for a in refused], 0.5),
        "client_refusal_p99": quantile([a.took for a in refused], 0.99),
        "with_retry_after": sum(a.retry_after is not None for a in refused),
        "retry_after": sorted({a.retry_after for a in refused if a.retry_after is not None}),
    }


REFUSALS = re.compile(r'shoal_http_refusal_duration_seconds_bucket\{endpoint="slow",le="([^"]+)"\} (\d+)')


def refusals(address: str) -> dict[float, int]:
    """How many refusals took up to how many seconds, so far, as the server has measured them."""
    with urllib.request.urlopen(f"http://{address}/metrics") as metrics:
        text = metrics.read().decode()
    return {float(le): int(count) for le, count in REFUSALS.findall(text)}


def within(before: dict[float, int], after: dict[float, int]) -> dict[str, Any]:
    """The refusals between two looks: the share that was soon, and the bounds of their quantiles."""
    counts = {le: count - before.get(le, 0) for le, count in sorted(after.items())}
    total = max(counts.values(), default=0)

    def below(share: float) -> float:
        return next((le for le, count in counts.items() if count >= share * total), float("inf"))

    return {
        "refusals_soon": counts.get(SOON, 0) / total if total else 1.0,
        "refusal_p50": below(0.5) if total else 0.0,
        "refusal_p99": below(0.99) if total else 0.0,
    }


async def watch(pids: Sequence[int], samples: list[float]) -> None:
    """Note the memory of the processes every second, until cancelled."""
    while True:
        samples.append(sum(memory_of(pid) for pid in pids))
        await asyncio.sleep(1)


async def phases(
    address: str, pids: Sequence[int], seconds: float, calm: float, times: float
) -> dict[str, Any]:
    """Half of the capacity, many times the capacity, half of it again."""
    client = Client(address)
    result: dict[str, Any] = {}
    for name, rate, length in (
        ("before", CAPACITY / 2, calm),
        ("overload", CAPACITY * times, seconds),
        ("after", CAPACITY / 2, calm),
    ):
        samples: list[float] = []
        measured = refusals(address)
        watcher = asyncio.create_task(watch(pids, samples))
        answers = await client.load(rate, length)
        watcher.cancel()
        result[name] = summary(answers, length) | {"rate": rate, "seconds": length, "memory": samples}
        result[name] |= within(measured, refusals(address))
    client.close()
    return result


def overload(seconds: float, calm: float, times: float, compute_late: bool) -> dict[str, Any]:
    """Start a server, load it, and tell what came of it."""
    client = serve.start(http_port=0)
    try:
        config = {"max_batch_size": BATCH, "timeout": TIMEOUT, "compute_late": compute_late}
        client.create_backend("slow", Slow, config=config)
        client.create_endpoint("slow", backend="slow", route="/slow", methods=["POST"])
        status = client.status()
        pids = int(status["pid"]), int(status["backends"][0]["replicas"][0]["pid"])
        result = asyncio.run(phases(client.http_address, pids, seconds, calm, times))
        result["stats"] = client.status()["backends"][0]["stats"]
    finally:
        client.shutdown()
    return result


def report(result: dict[str, Any]) -> None:
    """Print a result as a table in Markdown."""
    print("| | before | overload | after |\n|---|---|---|---|")
    rows = {
        "queries/s": lambda p: f"{p['rate']:.0f}, {p['seconds']:.0f} s",
        "answered/s": lambda p: f"{p['per_second']:.1f}",
        "of the accepted, answered in time": lambda p: f"{100 * p['in_time']:.1f} %",
        "accepted, but late (504)": lambda p: f"{p['late']:,}",
        "time to the answer, p50, p99": lambda p: (
            f"{1000 * p['answer_p50']:.0f}, {1000 * p['answer_p99']:.0f} ms"
        ),
        "refused (503)": lambda p: f"{p['refused']:,}",
        "of these, with `Retry-After`": lambda p: f"{p['with_retry_after']:,}",
        "time to the refusal, p50, p99: below": lambda p: (
            f"{1000 * p['refusal_p50']:g}, {1000 * p['refusal_p99']:g} ms" if p["refused"] else "–"
        ),
        "of these, within 5 ms": lambda p: f"{100 * p['refusals_soon']:.2f} %" if p["refused"] else "–",
        "the same, with the client's delay": lambda p: (
            f"{1000 * p['client_refusal_p50']:.1f}, {1000 * p['client_refusal_p99']:.1f} ms"
            if p["refused"]
            else "–"
        ),
        "the client's own delay, p50, p99": lambda p: (
            f"{1000 * p['client_p50']:.1f}, {1000 * p['client_p99']:.1f} ms"
        ),
        "otherwise failed": lambda p: f"{p['failed']:,}",
        "memory, server and worker: first, last": lambda p: memory(p["memory"]),
    }
    for name, show in rows.items():
        print(
            f"| {name} | "
            + " | ".join(show(result[phase]) for phase in ("before", "overload", "after"))
            + " |"
        )


def ends(samples: Sequence[float]) -> tuple[float, float]:
    """The median of the first and of the last fifth of the samples, in MiB."""
    n = max(1, len(samples) // 5)
    return statistics.median(samples[:n]) / MIB, statistics.median(samples[-n:]) / MIB


def memory(samples: Sequence[float]) -> str:
    """The same, to be shown."""
    first, last = ends(samples)
    return f"{first:.0f}, {last:.0f} MiB"


def complaints(result: dict[str, Any]) -> list[str]:
    """What is not as docs/overload.md promises."""
    peak, after = result["overload"], result["after"]
    first, last = ends(peak["memory"])
    promises = {
        f"of the accepted, {100 * peak['in_time']:.1f} % were answered in time, not 95": peak["in_time"]
        >= 0.95,
        f"{100 * peak['refusals_soon']:.2f} % were refused within 5 ms, not 99": peak["refusals_soon"]
        >= 0.99,
        "some were refused without Retry-After": peak["with_retry_after"] == peak["refused"],
        f"{peak['failed']} queries failed otherwise": peak["failed"] == 0,
        f"memory grew from {first:.0f} to {last:.0f} MiB": last <= 1.25 * first + 8,
        "afterwards not all were answered": after["answered"] == after["asked"],
        f"afterwards the p99 was {after['answer_p99']:.1f} s": after["answer_p99"] < TIMEOUT,
    }
    return [promise for promise, kept in promises.items() if not kept]


def main() -> int:
    """Returns the exit status: 1 when a promise was not kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=2.0, help="how long the overload lasts (default 2)")
    parser.add_argument("--seconds", type=float, help="the same, for short runs")
    parser.add_argument("--calm", type=float, default=10.0, help="seconds before and after (default 10)")
    parser.add_argument("--times", type=float, default=10.0, help="times the capacity (default 10)")
    parser.add_argument(
        "--compute-late", action="store_true", help="without admission by deadlines, to compare"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args()
    seconds = options.seconds or 60 * options.minutes
    result = overload(seconds, options.calm, options.times, options.compute_late)
    if options.json:
        print(json.dumps(result))
    else:
        report(result)
    wrong = complaints(result)
    for complaint in wrong:
        print(complaint, file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
