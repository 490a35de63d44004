"""Where the processor time of a query goes: W1 under load, with perf on the server and py-spy on the worker.

    python3 bench/where.py --connections 64

It needs perf, and py-spy on the path or in --py-spy, and may look into other processes (root, or
kernel.perf_event_paranoid at 1 or less). Every sample is counted once, for the first line that it belongs to.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from harness.environments import SetupError, find_wrk
from harness.load import ask, run_wrk
from harness.peers import SHOAL
from harness.processes import Server, StartError, free_port
from harness.workloads import PLAIN, WORKLOADS

Lines = Sequence[tuple[str, tuple[str, ...]]]

# What a sample is counted for: the first line of which it has a function. Those called are before their callers.
SERVER: Lines = (
    ("write the answer to the client", ("rest.(*conn).send",)),
    ("head of the answer", ("rest.(*Front).appendAnswer",)),
    ("metrics", ("shoal/internal/telemetry.",)),
    ("write the frame to the worker", ("python.(*worker).Run", "python.(*worker).write")),
    ("queue", ("serving.(*Endpoint).Send",)),
    ("is it JSON?", ("rest.checkJSON",)),
    ("parse", ("rest.(*head)", "rest.headEnd", "rest.(*flight).prepare", "rest.(*loop).prepare")),
    ("read the request", ("ksys_read+rest.(*loop)",)),
    ("ask which connections are ready", ("do_epoll_pwait+rest.(*loop)",)),
    ("the loop's own work", ("rest.(*loop)",)),
    ("deliver the answer", ("rest.(*flight)", "serving.answered")),
    ("finish the batch", ("Complete",)),
    ("split the answers", ("python.(*worker).result", "python.(*worker).take")),
    ("read the answers from the worker", ("python.(*worker).read",)),
    ("garbage collection", ("runtime.gcBgMarkWorker", "runtime.bgsweep", "runtime.bgscavenge")),
    ("the runtime's watchdog (sysmon)", ("runtime.sysmon",)),
    (
        "sleep, wake up, schedule",
        ("runtime.mcall", "runtime.mstart", "runtime.schedule", "runtime.findRunnable"),
    ),
)
KERNEL: Lines = (
    ("sleep until a frame comes, read it", ("__x64_sys_recvfrom", "__x64_sys_recvmsg", "__x64_sys_read")),
    ("write the answers", ("__x64_sys_sendto", "__x64_sys_sendmsg", "__x64_sys_write")),
)
PYTHON: Lines = (
    ("compute", ("add_one", "counted")),
    ("decode JSON", ("read_json", "Request.json", "_request.py")),
    ("encode the answers", ("encode_result",)),
    ("send", ("send_parts", "_send")),
    ("take the frame apart", ("Batch", "take_requests", "FrameReader", "_open")),
)


def belongs(stack: Iterable[str], lines: Lines, other: str) -> str:
    """The line that a stack is counted for; "a+b" wants both a and b."""
    text = "\n".join(stack)
    for name, marks in lines:
        if any(all(part in text for part in mark.split("+")) for mark in marks):
            return name
    return other


def record(pid: int, seconds: int, file: Path) -> list[list[str]]:
    """The stacks of a process that perf saw."""
    for argv in (
        [
            "perf",
            "record",
            "-q",
            "-F",
            "2999",
            "-g",
            "-p",
            str(pid),
            "-o",
            str(file),
            "--",
            "sleep",
            str(seconds),
        ],
        ["perf", "script", "-i", str(file), "-F", "ip,sym"],
    ):
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as exc:
            raise SetupError(f"{argv[0]} {argv[1]} failed: {exc}") from None
    return list(stacks(done.stdout.splitlines()))


def stacks(lines: Iterable[str]) -> Iterator[list[str]]:
    """The stacks that perf script printed, one frame a line and an empty line after each."""
    stack: list[str] = []
    for line in lines:
        if line.strip():
            stack.append(line.split(maxsplit=1)[-1])
        elif stack:
            yield stack
            stack = []
    if stack:
        yield stack


def worker_shares(program: str, pid: int, seconds: int, file: Path) -> Counter[str]:
    """The worker's lines by the samples in which they held the interpreter."""
    argv = [
        program,
        "record",
        "--gil",
        "-r",
        "500",
        "-d",
        str(seconds),
        "-f",
        "raw",
        "-o",
        str(file),
        "-p",
        str(pid),
    ]
    try:
        subprocess.run(argv, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise SetupError(f"py-spy failed: {exc}") from None
    counts: Counter[str] = Counter()
    for line in file.read_text().splitlines():
        frames, _, count = line.rpartition(" ")
        counts[belongs(frames.split(";"), PYTHON, "the worker's own work")] += int(count)
    return counts


def show(title: str, micros: float, counts: Counter[str]) -> None:
    """Print a table: µs of processor time a query."""
    total = sum(counts.values())
    print(f"\n{title}: {micros:.1f} µs a query\n\n| µs | for |\n|---|---|")
    for name, count in counts.most_common():
        if (share := micros * count / total) >= 0.05:
            print(f"| {share:.1f} | {name} |")


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(connections: int, seconds: int, py_spy: str, scratch: Path) -> None:
    """Put load on Shoal, look where it spends its time, and print it. Raises SetupError."""
    wrk, tools = find_wrk(), SHOAL.prepare(scratch)
    exchange = PLAIN.exchange(WORKLOADS[0].first_case(scratch))
    with Server(SHOAL.start(tools, WORKLOADS[0].model, free_port()), scratch / "server.log") as server:
        server.wait_for_answer(lambda: exchange.accepts(ask(server.url, exchange)))
        programs = {
            Path(f"/proc/{p.pid}/exe").resolve() == tools.binary.resolve(): p.pid for p in server.members()
        }
        root, worker = programs[True], programs[False]
        before = {pid: cpu_seconds(pid) for pid in (root, worker)}
        sample = run_wrk(wrk, server.url, connections, seconds, exchange)  # while nobody looks
        micros = {pid: 1e6 * (cpu_seconds(pid) - before[pid]) / sample.requests for pid in before}
        load = threading.Thread(
            target=run_wrk, args=(wrk, server.url, connections, 3 * seconds + 3, exchange)
        )
        load.start()
        seen = Counter(belongs(s, SERVER, "other") for s in record(root, seconds, scratch / "server.data"))
        kernel = Counter(belongs(s, KERNEL, "") for s in record(worker, seconds, scratch / "worker.data"))
        shares = worker_shares(py_spy, worker, seconds, scratch / "worker.txt")
        load.join()
    interpreter = kernel.pop("", 0)
    for name, count in shares.items():
        kernel[name] += interpreter * count // sum(shares.values())
    if not shares:
        raise SetupError("py-spy saw nothing")
    print(f"{sample.rate:,.0f} requests/s, p50 {1e3 * sample.p50_ms:.0f} µs")
    show("server", micros[root], seen)
    show("worker", micros[worker], kernel)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=3, help="of each of the three looks")
    parser.add_argument("--py-spy", default="py-spy", help="the program, where it is not on the path")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-where-") as scratch:
        try:
            measure(options.connections, options.seconds, options.py_spy, Path(scratch))
        except (SetupError, StartError) as exc:
            print(exc, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
