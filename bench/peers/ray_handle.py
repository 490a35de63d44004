"""Ray Serve through its Python handle: `ray_handle.py WAY SECONDS ROUNDS`, queries a second with 64 in flight, as JSON.

There are two ways of keeping 64 in flight, refs and coroutines; both are closed loops that check each answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections import deque
from typing import Any

import models
import ray
from ray import serve
from ray.serve.schema import LoggingConfig

MAX_BATCH_SIZE = int(os.environ["SHOAL_BENCH_MAX_BATCH_SIZE"])
IN_FLIGHT = 64
LOGGING = LoggingConfig(log_level="WARNING", enable_access_log=False)


@serve.deployment(num_replicas=1, max_ongoing_requests=1024, logging_config=LOGGING)
class Adder:
    """W1's model."""

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=0)
    async def __call__(self, xs: list[int]) -> list[int]:
        """Compute one batch."""
        return models.add_one(xs)


def with_refs(handle: Any, seconds: float) -> float:
    """Queries a second of one thread that keeps 64 refs open."""
    began = time.perf_counter()
    refs = deque((x, handle.remote(x)) for x in range(IN_FLIGHT))
    done = 0
    while refs:
        x, ref = refs.popleft()
        check(x, ref.result())
        done += 1
        if time.perf_counter() - began < seconds:
            refs.append((x + IN_FLIGHT, handle.remote(x + IN_FLIGHT)))
    return done / (time.perf_counter() - began)


async def with_coroutines(handle: Any, seconds: float) -> float:
    """Queries a second of 64 coroutines."""
    began = time.perf_counter()

    async def client(x: int) -> int:
        done = 0
        while time.perf_counter() - began < seconds:
            check(x + done, await handle.remote(x + done))
            done += 1
        return done

    done = sum(await asyncio.gather(*(client(1000 * number) for number in range(IN_FLIGHT))))
    return done / (time.perf_counter() - began)


def check(x: int, answer: int) -> None:
    """An answer must be the query's own."""
    if answer != x + 1:
        raise SystemExit(f"{x} + 1 is {answer}")


def measure(handle: Any, way: str, seconds: float, rounds: int) -> list[float]:
    """Queries a second of each round."""
    if way == "refs":
        with_refs(handle, 1)
        return [with_refs(handle, seconds) for _ in range(rounds)]
    return asyncio.run(measure_coroutines(handle, seconds, rounds))


async def measure_coroutines(handle: Any, seconds: float, rounds: int) -> list[float]:
    """All rounds in one event loop: throughput-optimised handles are bound to one."""
    await with_coroutines(handle, 1)
    return [await with_coroutines(handle, seconds) for _ in range(rounds)]


def main(way: str, seconds: float, rounds: int) -> None:
    """Start a Ray of its own, measure, print."""
    folder = os.environ["SHOAL_BENCH_RAY_FOLDER"]
    ray.init(address="local", include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    handle = serve.run(Adder.bind(), route_prefix=None, logging_config=LOGGING)
    rates = measure(handle, way, seconds, rounds)
    ray.shutdown()
    print(json.dumps({"queries_per_second": statistics.median(rates), "rounds": rates}))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
