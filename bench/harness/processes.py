"""Servers under test: started, watched and stopped with every process that they started themselves."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

# Every process that a server starts inherits this variable; it tells which run and which server it is from.
MARK = "SHOAL_BENCH_MARK"
RUN = f"{os.getpid()}-{time.time_ns()}"
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")


class StartError(Exception):
    """A server did not come up."""


@dataclass(frozen=True)
class Process:
    """A process by its id and its start time, so that a reused id is never taken for it."""

    pid: int
    started: int


@dataclass(frozen=True)
class Launch:
    """How to start a server, and where it answers."""

    argv: list[str]
    url: str
    env: dict[str, str] = field(default_factory=dict)
    start_seconds: float = 30
    stop_seconds: float = 10


@dataclass(frozen=True)
class Memory:
    """Proportional set size in bytes: of the whole tree, and of the process that was started."""

    tree: int
    root: int
    processes: int


class Server:
    """One running server. Leaving its context stops it."""

    _numbers = itertools.count(1)

    def __init__(self, launch: Launch, log: Path) -> None:
        self.launch = launch
        self.url = launch.url
        self._mark = f"{RUN}/{next(self._numbers)}/"
        self.log = log
        with log.open("wb") as output:
            self._root = subprocess.Popen(
                launch.argv,
                env={**os.environ, **launch.env, MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_for_answer(self, ask: Callable[[], bool]) -> None:
        """Ask until the first right answer. Raises StartError when the server exits or takes too long."""
        limit = time.monotonic() + self.launch.start_seconds
        while not ask():
            if self._root.poll() is not None:
                raise StartError(f"exited with status {self._root.returncode} before its first answer")
            if time.monotonic() > limit:
                raise StartError(f"gave no right answer within {self.launch.start_seconds:g} s")
            time.sleep(0.005)

    def members(self) -> set[Process]:
        """The process that was started, its descendants, and all that carry its mark in their environment."""
        table = dict(_processes())
        children: dict[int, list[int]] = {}
        for pid, (parent, _) in table.items():
            children.setdefault(parent, []).append(pid)
        family, queue = set(), [self._root.pid, *(pid for pid in table if _is_marked(pid, self._mark))]
        while queue:
            pid = queue.pop()
            if pid not in family and pid in table:
                family.add(pid)
                queue += children.get(pid, [])
        return {Process(pid, table[pid][1]) for pid in family}

    def memory(self) -> Memory:
        """What the server and its processes hold now."""
        sizes = {process.pid: _pss(process.pid) for process in self.members()}
        return Memory(sum(sizes.values()), sizes.get(self._root.pid, 0), len(sizes))

    def cpu_seconds(self) -> float:
        """Processor time that the server and its processes have used."""
        fields = [_stat(process.pid) for process in self.members()]
        return sum(int(one[11]) + int(one[12]) for one in fields if one) / TICKS

    def log_tail(self, lines: int = 15) -> str:
        """The last lines that the server wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """End the server: politely, then by force, then whatever it left behind."""
        known = self.members()
        if self._root.poll() is None:
            self._root.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._root.wait(self.launch.stop_seconds)
        limit = time.monotonic() + 10
        while time.monotonic() < limit:
            known |= self.members()
            living = {process for process in known if _is_alive(process)}
            if not living and self._root.poll() is not None:
                return
            for process in living:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            self._root.poll()
            time.sleep(0.05)
        raise StartError("some processes of the server could not be stopped")


def stop_leftovers() -> None:
    """End by force whatever this run started and did not stop, such as after an interrupt at a bad moment."""
    for pid, _ in _processes():
        if _is_marked(pid, RUN):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def workspace(name: str) -> Iterator[Path]:
    """A folder for one program's run. Signals end the program; whatever it started, and the folder, end with it."""
    watch_interrupts()
    folder = Path(tempfile.mkdtemp(prefix=f"shoal-{name}-"))
    try:
        yield folder
    finally:
        stop_leftovers()
        shutil.rmtree(folder, ignore_errors=True)


def watch_interrupts() -> None:
    """Let signals that end a program raise KeyboardInterrupt, so that it stops what it started."""
    for number in INTERRUPTS:
        signal.signal(number, _interrupt)


def _interrupt(_: int, __: FrameType | None) -> None:
    # From now on nothing disturbs the stopping.
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def machine_cpu_seconds() -> float:
    """Processor time that all programs have used, and that the machine's host has taken away."""
    fields = [int(word) for word in (PROC / "stat").read_text().splitlines()[0].split()[1:]]
    user, nice, system, steal = fields[0], fields[1], fields[2], fields[7]
    return (user + nice + system + steal) / TICKS


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def _processes() -> Iterator[tuple[int, tuple[int, int]]]:
    """Every living process: its id, its parent's, its start time."""
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields and fields[0] not in "ZX":
                yield int(entry.name), (int(fields[1]), int(fields[19]))


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name; none when the process is gone."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _is_marked(pid: int, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return False


def _is_alive(process: Process) -> bool:
    fields = _stat(process.pid)
    return bool(fields) and fields[0] not in "ZX" and int(fields[19]) == process.started


def _pss(pid: int) -> int:
    try:
        text = (PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))
