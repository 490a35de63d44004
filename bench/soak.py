"""Full load for minutes, with flat memory: `make soak MINUTES=10`, or `.venv/bin/python bench/soak.py --help`.

A real server with one worker is queried without pause, over HTTP by a process of its own and through a handle by
this one: small numbers, now and then an array of 0.8 MB, a query that fails and one that is cancelled. Every answer
is checked. Meanwhile the memory of server and worker, the server's descriptors and its goroutines are sampled.

They are flat if none grew over the second half by more than its allowance: for memory 8 MiB and a tenth, for
descriptors and goroutines 8 and a tenth. Growth is the slope that the median of all pairs of samples has (Theil and
Sen), times the length of the half; so single samples in the middle of a garbage collection, or of a large batch,
do not count. In ten minutes at 50,000 queries/s less than one byte a query would be found.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shoal import Canceled, serve

IN_FLIGHT = 64
HTTP_THREADS = 8
ARRAY_EVERY, FAILURE_EVERY, CANCEL_EVERY = 1_000, 777, 555
ARRAY_FLOATS = 100_000
MIB = 1 << 20
ALLOWANCE = {"memory": 8.0 * MIB, "descriptors": 8.0, "goroutines": 8.0}
SHARE = 0.1


class Adder:
    """The model: adds 1 to numbers and arrays, fails on texts, and leaks if told to."""

    def __init__(self, leak: int) -> None:
        self.leak = leak
        self.leaked: list[bytes] = []

    @serve.accept_batch
    def __call__(self, requests: Any, *, number: Any = None) -> list[Any]:
        if serve.context.web:
            number = [int(request.args["number"]) for request in requests]
        if self.leak:
            self.leaked += [bytes(self.leak) for _ in number]
        return [ValueError(one) if isinstance(one, str) else one + 1 for one in number]


class Load:
    """Queries through a handle, and what was wrong with their answers."""

    def __init__(self, handle: Any) -> None:
        import numpy as np

        self._handle = handle
        self._array = np.arange(ARRAY_FLOATS, dtype=np.float64)
        self.answered = 0
        self.wrong: list[str] = []

    def run(self, seconds: float) -> None:
        """Keep IN_FLIGHT queries open for a time."""
        under_way: deque[tuple[int, Any]] = deque()
        sent, until = 0, time.monotonic() + seconds
        while time.monotonic() < until and len(self.wrong) < 10:
            while len(under_way) < IN_FLIGHT:
                sent += 1
                under_way.append((sent, self._send(sent)))
            for _ in range(IN_FLIGHT // 2):
                self._check(*under_way.popleft())
        while under_way:
            self._check(*under_way.popleft())

    def _send(self, number: int) -> Any:
        if number % ARRAY_EVERY == 0:
            return self._handle.remote(number=self._array + number)
        if number % FAILURE_EVERY == 0:
            return self._handle.remote(number=f"no number: {number}")
        ref = self._handle.remote(number=number)
        if number % CANCEL_EVERY == 0:
            ref.cancel()
        return ref

    def _check(self, number: int, ref: Any) -> None:
        self.answered += 1
        try:
            answer = ref.result(60)
        except Exception as exc:
            if not self._expected(number, exc):
                self.wrong.append(f"query {number}: {type(exc).__name__}: {exc}")
            return
        if number % ARRAY_EVERY == 0:
            right = bool((answer == self._array + number + 1).all())
        else:
            right = answer == number + 1 and number % FAILURE_EVERY != 0
        if not right:
            self.wrong.append(f"query {number} was answered with {str(answer)[:100]}")

    @staticmethod
    def _expected(number: int, exc: Exception) -> bool:
        if number % ARRAY_EVERY == 0:
            return False
        if number % FAILURE_EVERY == 0:
            return isinstance(exc, ValueError) and str(exc) == f"no number: {number}"
        return number % CANCEL_EVERY == 0 and isinstance(exc, Canceled)


def ask_over_http(address: str, seconds: float) -> dict[str, Any]:
    """Query over HTTP in HTTP_THREADS threads for a time; what came of it."""
    answered, wrong = [0] * HTTP_THREADS, list[str]()
    until = time.monotonic() + seconds

    def work(thread: int) -> None:
        connection = http.client.HTTPConnection(address, timeout=60)
        number = thread
        while time.monotonic() < until and len(wrong) < 10:
            try:
                connection.request("GET", f"/adder?number={number}")
                response = connection.getresponse()
                text = response.read()
            except OSError as exc:
                wrong.append(f"HTTP query {number}: {exc}")
                return
            if response.status != 200 or text != str(number + 1).encode():
                wrong.append(f"HTTP query {number} was answered with {response.status}, {text[:100]!r}")
            answered[thread] += 1
            number += HTTP_THREADS
        connection.close()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(HTTP_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"answered": sum(answered), "wrong": wrong}


class Sample(NamedTuple):
    """One look at the processes; memory in bytes."""

    at: float
    server_memory: float
    worker_memory: float
    descriptors: float
    goroutines: float


class Sampler(threading.Thread):
    """Looks at the processes every now and then until it is stopped."""

    def __init__(self, client: serve.Client, interval: float) -> None:
        super().__init__(daemon=True)
        status = client.status()
        self._server = int(status["pid"])
        self._worker = int(status["backends"][0]["replicas"][0]["pid"])
        self._address = client.http_address
        self._interval = interval
        self._stopped = threading.Event()
        self.samples: list[Sample] = []

    def run(self) -> None:
        """Sample until stop is called."""
        started = time.monotonic()
        while not self._stopped.wait(self._interval):
            at = time.monotonic() - started
            descriptors = len(os.listdir(f"/proc/{self._server}/fd"))
            memory = memory_of(self._server), memory_of(self._worker)
            self.samples.append(Sample(at, *memory, descriptors, self._goroutines()))

    def _goroutines(self) -> float:
        connection = http.client.HTTPConnection(self._address, timeout=60)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return float(next(line for line in text.splitlines() if line.startswith("go_goroutines ")).split()[1])

    def stop(self) -> list[Sample]:
        """End the sampling; the samples."""
        self._stopped.set()
        self.join()
        return self.samples


def memory_of(pid: int) -> float:
    """What a process holds, in bytes: its proportional share, or where the kernel does not tell that, its resident set."""
    for name, key in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        try:
            lines = Path(f"/proc/{pid}/{name}").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith(key):
                return 1024.0 * int(line.split()[1])
    raise RuntimeError(f"the memory of process {pid} cannot be read: it has ended")


class Verdict(NamedTuple):
    """How one figure behaved over the second half."""

    median: float
    growth: float
    allowed: float

    @property
    def flat(self) -> bool:
        """Whether it grew no more than is allowed."""
        return self.growth <= self.allowed


def judge(times: Sequence[float], values: Sequence[float], allowance: float) -> Verdict:
    """The verdict over samples, of which the second half counts. Raises ValueError when they are too few."""
    start = times[0] + (times[-1] - times[0]) / 2 if times else 0.0
    half = [(t, v) for t, v in zip(times, values, strict=True) if t >= start]
    if len(half) < 5:
        raise ValueError(f"{len(half)} samples in the second half say nothing")
    slopes = [
        (late[1] - early[1]) / (late[0] - early[0])
        for i, early in enumerate(half)
        for late in half[i + 1 :]
        if late[0] > early[0]
    ]
    median = statistics.median(v for _, v in half)
    return Verdict(median, statistics.median(slopes) * (half[-1][0] - half[0][0]), allowance + SHARE * median)


def judge_all(samples: Sequence[Sample]) -> dict[str, Verdict]:
    """The verdict on each figure."""
    times = [sample.at for sample in samples]
    verdicts: dict[str, Verdict] = {}
    for name in Sample._fields[1:]:
        allowance = ALLOWANCE["memory" if name.endswith("memory") else name]
        verdicts[name.replace("_", " ")] = judge(times, [getattr(s, name) for s in samples], allowance)
    return verdicts


def quarters(values: Sequence[float]) -> list[float]:
    """The median of each quarter of the samples."""
    n = len(values)
    return [statistics.median(values[i * n // 4 : (i + 1) * n // 4]) for i in range(4)]


def soak(seconds: float, leak: int) -> dict[str, Any]:
    """Load, sample, judge."""
    client = serve.start(http_port=0)
    try:
        client.create_backend("adder", Adder, leak, config={"max_batch_size": 32})
        client.create_endpoint("adder", backend="adder", route="/adder")
        load = Load(client.get_handle("adder"))
        argv = [sys.executable, __file__, "--http", client.http_address, "--seconds", str(seconds)]
        web = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        sampler = Sampler(client, min(1.0, seconds / 100))
        sampler.start()
        try:
            load.run(seconds)
            output, _ = web.communicate(timeout=120)
        finally:
            web.kill()
            web.wait()
        samples = sampler.stop()
    finally:
        client.shutdown()
    over_http = json.loads(output)
    verdicts = judge_all(samples)
    return {
        "seconds": seconds,
        "handle_queries": load.answered,
        "http_queries": over_http["answered"],
        "wrong": load.wrong + over_http["wrong"],
        "samples": len(samples),
        "flat": {name: verdict.flat for name, verdict in verdicts.items()},
        "quarters": {
            name.replace("_", " "): quarters([getattr(s, name) for s in samples])
            for name in Sample._fields[1:]
        },
        "figures": {name: verdict._asdict() for name, verdict in verdicts.items()},
    }


def shown(name: str) -> Callable[[float], str]:
    """How a figure of that name is written."""
    if name.endswith("memory"):
        return lambda value: f"{value / MIB:.1f} MiB"
    return lambda value: f"{value:.1f}"


def report(result: dict[str, Any]) -> None:
    """Print a result for people."""
    print(
        f"{result['handle_queries']:,} queries through a handle and {result['http_queries']:,} over HTTP "
        f"in {result['seconds']:.0f} s; {len(result['wrong'])} wrong answers"
    )
    for line in result["wrong"][:10]:
        print(f"  {line}")
    for name, figure in result["figures"].items():
        text = shown(name)
        verdict = "flat" if result["flat"][name] else "GROWS"
        print(
            f"{name:14} {verdict:5}  median {text(figure['median'])}, growth over the second half "
            f"{text(figure['growth'])}, allowed {text(figure['allowed'])}; "
            f"medians of the quarters {', '.join(map(text, result['quarters'][name]))}"
        )


def main() -> int:
    """Returns the exit status: 1 when something grew or was answered wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default 10)")
    parser.add_argument("--seconds", type=float, help="how long, for short runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument(
        "--leak", type=int, default=0, help="let the model lose so many bytes a query, to see it found"
    )
    parser.add_argument("--http", help=argparse.SUPPRESS)  # the process that asks over HTTP
    options = parser.parse_args()
    seconds = options.seconds or 60 * options.minutes
    if options.http:
        print(json.dumps(ask_over_http(options.http, seconds)))
        return 0
    result = soak(seconds, options.leak)
    if options.json:
        print(json.dumps(result))
    else:
        report(result)
    return 0 if all(result["flat"].values()) and not result["wrong"] else 1


if __name__ == "__main__":
    sys.exit(main())
