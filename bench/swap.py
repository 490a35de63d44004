"""What a swap does to latency: `make swap`, or `.venv/bin/python bench/swap.py --help`.

A real server with one Python worker answers queries over HTTP that come at a steady rate, whether or not others were
answered (an open loop). Its model takes 5 ms a batch, and 200 ms for the first batch of each size, as models do that
compile for shapes. After some quiet seconds its backend is replaced again and again (`replace=True`) under the same load.
Told are the times of the queries before and during the swaps, in the same run; `--cold` switches the warm-up off, to see what it is for.

Client, server, and the new worker that starts beside the old one share the machine: with few cores, a part of what is
told is the start of a Python process. How late the client was in sending tells how large that part is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from overload import BODY, Answer, Client, quantile

from shoal import serve

COMPUTE, PREPARE, BATCH = 0.005, 0.2, 4


class Model:
    """Takes COMPUTE seconds a batch, and PREPARE for the first of each size."""

    def __init__(self) -> None:
        self._prepared: set[int] = set()

    @serve.accept_batch
    def __call__(self, requests: Any) -> list[int]:
        time.sleep(COMPUTE if len(requests) in self._prepared else PREPARE)
        self._prepared.add(len(requests))
        return [len(request.data) for request in requests]


def config(cold: bool) -> dict[str, Any]:
    """The backend's config, with a warm-up or without."""
    requests = [] if cold else [{"method": "POST", "text": "x" * BODY}]
    return {"max_batch_size": BATCH, "warm_up": {"requests": requests, "every_size": True}}


def summary(answers: Sequence[Answer]) -> dict[str, Any]:
    """What came of the queries of a phase; times in seconds."""
    took = [a.took for a in answers if a.status == 200]
    return {
        "asked": len(answers),
        "failed": len(answers) - len(took),
        "p50": quantile(took, 0.5),
        "p99": quantile(took, 0.99),
        "max": max(took, default=0.0),
        "client_p99": quantile([a.late for a in answers], 0.99),
    }


async def phases(client: serve.Client, rate: float, seconds: float, swaps: int, cold: bool) -> dict[str, Any]:
    """The load alone, then while the backend is replaced."""
    load = Client(client.http_address)
    await load.load(rate, 1)  # connections, and the first version's sizes
    before = await load.load(rate, seconds)
    during = asyncio.create_task(load.load(rate, seconds))
    began = time.monotonic()
    for number in range(swaps):
        due = began + (number + 0.25) * seconds / swaps
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.to_thread(client.create_backend, "slow", Model, config=config(cold), replace=True)
    result = {"before": summary(before), "swaps": summary(await during)}
    load.close()
    return result


def swap(rate: float, seconds: float, swaps: int, cold: bool) -> dict[str, Any]:
    """Start a server, load it, replace its backend, and tell what came of it."""
    client = serve.start(http_port=0)
    try:
        client.create_backend("slow", Model, config=config(cold))
        client.create_endpoint("slow", backend="slow", route="/slow", methods=["POST"])
        return asyncio.run(phases(client, rate, seconds, swaps, cold))
    finally:
        client.shutdown()


def report(result: dict[str, Any]) -> None:
    """Print a result as a table in Markdown."""
    print(
        "| | queries | failed | p50 | p99 | longest | the client's own delay, p99 |\n|---|---|---|---|---|---|---|"
    )
    for phase, p in result.items():
        times = " | ".join(f"{1000 * p[key]:.1f} ms" for key in ("p50", "p99", "max", "client_p99"))
        print(f"| {phase} | {p['asked']:,} | {p['failed']:,} | {times} |")


def main() -> int:
    """Returns the exit status: 1 when a query failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=200.0, help="queries a second (default 200)")
    parser.add_argument("--seconds", type=float, default=10.0, help="before, and as long again (default 10)")
    parser.add_argument("--swaps", type=int, default=3, help="how often it is replaced (default 3)")
    parser.add_argument("--cold", action="store_true", help="without a warm-up, to compare")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args()
    result = swap(options.rate, options.seconds, options.swaps, options.cold)
    if options.json:
        print(json.dumps(result))
    else:
        report(result)
    return int(any(phase["failed"] for phase in result.values()))


if __name__ == "__main__":
    sys.exit(main())
