"""Queries a second through the Python handle: `.venv/bin/python bench/handle.py --help`.

A real server with one worker, whose model is a numpy adder, and this process as its only client. The loops are
closed: N refs are kept open, and each is replaced when it is answered. Every answer is checked.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from shoal import serve

IN_FLIGHT = (1, 64, 1024)
MAX_BATCH_SIZE = 32
MAP_ITEMS = 100_000
TICKS = os.sysconf("SC_CLK_TCK")


class WrongAnswer(Exception):
    """An answer was not the one to its query."""


def adder(requests: Any, *, number: Any = None) -> Any:
    """The model."""
    import numpy as np

    return (np.array(number) + 1).tolist()


def keep_open(handle: Any, width: int, seconds: float) -> int:
    """Keep width refs open for a time; returns how many queries were answered."""
    remote, clock = handle.remote, time.perf_counter
    until = clock() + seconds
    open_refs = deque((number, remote(number=number)) for number in range(width))
    sent = width
    while clock() < until:
        for _ in range(max(16, width)):
            number, ref = open_refs.popleft()
            if ref.result() != number + 1:
                raise WrongAnswer(f"{number} + 1 is {ref.result()}")
            open_refs.append((sent, remote(number=sent)))
            sent += 1
    for number, ref in open_refs:
        if ref.result() != number + 1:
            raise WrongAnswer(f"{number} + 1 is {ref.result()}")
    return sent


def map_over(handle: Any, items: int) -> int:
    """Map over so many items; returns their number."""
    if sum(handle.map(range(items), name="number")) != items * (items + 1) // 2:
        raise WrongAnswer("the sum of a map is wrong")
    return items


class Meter:
    """Processor time of the client, the server and the workers."""

    def __init__(self, client: serve.Client) -> None:
        status = client.status()
        workers = [r["pid"] for b in status["backends"] for r in b["replicas"]]
        self._pids = {"server": [status["pid"]], "workers": workers}

    def read(self) -> dict[str, float]:
        """Seconds so far."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = {name: sum(map(_cpu_seconds, pids)) for name, pids in self._pids.items()}
        return {"client": used.ru_utime + used.ru_stime, **seconds}


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(meter: Meter, run: Callable[[], int]) -> dict[str, Any]:
    """One run: queries a second, and microseconds of processor time a query by process."""
    before, started = meter.read(), time.perf_counter()
    count = run()
    took, after = time.perf_counter() - started, meter.read()
    cpu = {name: round((after[name] - before[name]) / count * 1e6, 2) for name in after}
    return {"queries": count, "queries_per_second": round(count / took, 1), "cpu_us_per_query": cpu}


def median_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run in the middle, with the rates of all."""
    rates = [run["queries_per_second"] for run in runs]
    middle = min(runs, key=lambda run: abs(run["queries_per_second"] - statistics.median(rates)))
    return {**middle, "rounds": rates}


def measure_all(client: serve.Client, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Every case, in turn, as many rounds as the options say. Raises WrongAnswer."""
    config = {"max_batch_size": MAX_BATCH_SIZE}
    client.create_backend("adder", serve.accept_batch(adder), config=config)
    client.create_endpoint("adder", backend="adder")
    handle = client.get_handle("adder")
    cases: dict[str, Callable[[], int]] = {
        f"in_flight_{width}": partial(keep_open, handle, width, options.seconds) for width in IN_FLIGHT
    }
    cases["map"] = partial(map_over, handle, options.items)
    if options.only:
        cases = {options.only: cases[options.only]}
    keep_open(handle, 64, 0.3)  # warm up
    meter = Meter(client)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, run in cases.items():
            runs[name].append(measure(meter, run))
    return runs


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each loop runs (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="how often all is run (default 3)")
    parser.add_argument("--items", type=int, default=MAP_ITEMS, help="items of the map (default 100,000)")
    parser.add_argument("--only", help="run only the case of this name, such as in_flight_64 or map")
    return parser.parse_args()


def main() -> int:
    """Measure and print. Returns the exit status: 1 when an answer was wrong."""
    options = arguments()
    client = serve.start(http_port=0)
    try:
        runs = measure_all(client, options)
    except WrongAnswer as exc:
        print(f"handle: {exc}", file=sys.stderr)
        return 1
    finally:
        client.shutdown()
    results = {name: median_of(some) for name, some in runs.items()}
    if options.json:
        print(json.dumps(results))
        return 0
    for name, result in results.items():
        cpu = ", ".join(f"{who} {us}" for who, us in result["cpu_us_per_query"].items())
        print(f"{name:15} {result['queries_per_second']:>10,.0f} queries/s   us of CPU a query: {cpu}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
