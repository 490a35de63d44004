"""Rounds of measurements: every server alone, one after the other, again and again."""

from __future__ import annotations

import os
import resource
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from .environments import SetupError, run_program
from .load import LoadError, Sample, ask, check_answers, run_wrk
from .peers import Peer, Tools
from .processes import Memory, Server, StartError, free_port, machine_cpu_seconds
from .workloads import Exchange, Workload

SETTLE_SECONDS = 1.0
DRAIN_SECONDS = 10
# Beyond this share of the machine, other programs disturb a measurement.
NOISE = 0.05


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    peers: tuple[Peer, ...]
    workloads: tuple[Workload, ...]
    # For every workload alike; none means what each workload says.
    connections: tuple[int, ...]
    rounds: int
    seconds: int
    warmup_seconds: int
    limit_seconds: float

    def connections_of(self, workload: Workload) -> tuple[int, ...]:
        """How many connections ask at a time."""
        return self.connections or workload.connections

    def peers_of(self, workload: Workload) -> list[Peer]:
        """Who is measured on a workload."""
        return [peer for peer in self.peers if peer.serves(workload)]

    def sessions(self) -> Iterator[tuple[int, Workload, Peer]]:
        """Every start of a server: its round, workload and peer. Each round begins with another peer."""
        for number in range(self.rounds):
            for workload in self.workloads:
                peers = self.peers_of(workload)
                turn = number % max(len(peers), 1)
                for peer in (*peers[turn:], *peers[:turn]):
                    yield number, workload, peer


@dataclass(frozen=True)
class Start:
    """One start of a server: how long until its first right answer, and what it then held while idle."""

    seconds: float
    memory: Memory


@dataclass
class Results:
    """All that was seen. The keys are peer, workload and connections."""

    samples: dict[tuple[str, str, int], list[Sample]] = field(default_factory=dict)
    starts: dict[tuple[str, str], list[Start]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    # By peer and workload; without a workload it is about all of them.
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    cut: bool = False

    @property
    def errors(self) -> int:
        """Wrong or missing answers in all measured points."""
        return sum(sample.errors for samples in self.samples.values() for sample in samples)


class Clock:
    """Who has used the machine since the clock was made."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._began = time.monotonic()
        self._servers = server.cpu_seconds()
        self._all, self._ours = machine_cpu_seconds(), self._own_seconds()

    def server_seconds(self) -> float:
        """Processor time that the server has used."""
        return self._server.cpu_seconds() - self._servers

    def foreign_share(self) -> float:
        """The share of all cores that went to others than the server, the load generator and this program."""
        foreign = machine_cpu_seconds() - self._all - (self._own_seconds() - self._ours)
        capacity = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        return min(max(foreign / capacity, 0.0), 1.0)

    def _own_seconds(self) -> float:
        """Processor time of the server, of this program, and of the load generators that have ended."""
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return self._server.cpu_seconds() + sum(one.ru_utime + one.ru_stime for one in usage)


class Bench:
    """Carries out a plan."""

    def __init__(self, plan: Plan, wrk: str, scratch: Path) -> None:
        self.plan = plan
        self.results = Results()
        self._wrk = wrk
        self._scratch = scratch
        self._deadline = time.monotonic() + plan.limit_seconds
        self._tools: dict[str, Tools] = {}

    def prepare(self) -> None:
        """Install and build what the peers need; a peer that cannot be had is a failure of its own."""
        for peer in self.plan.peers:
            try:
                tools = self._tools[peer.name] = peer.prepare(self._scratch)
                self.results.versions[peer.name] = peer.version(tools)
            except SetupError as exc:
                self._fail(peer, None, "could not be installed", str(exc))
        for workload in self.plan.workloads:
            if workload.program:
                run_program(workload.program, str(self._scratch))

    def run(self) -> Results:
        """Measure every session of the plan, within its time."""
        sessions = list(self.plan.sessions())
        for index, (number, workload, peer) in enumerate(sessions, 1):
            if time.monotonic() > self._deadline:
                self.results.cut = True
                say("the time limit is reached: the rest is left out")
                break
            if not self._failed(peer, workload):
                say(f"[{index}/{len(sessions)}] round {number + 1}: {workload.name}, {peer.title}")
                self._session(workload, peer)
        return self.results

    def _session(self, workload: Workload, peer: Peer) -> None:
        launch = peer.start(self._tools[peer.name], workload.model, free_port())
        server = Server(launch, self._scratch / f"{peer.name}.log")
        began = time.monotonic()
        try:
            with server:
                self._measure(server, began, workload, peer)
        except (StartError, LoadError) as exc:
            self._fail(peer, workload, str(exc), server.log_tail())

    def _measure(self, server: Server, began: float, workload: Workload, peer: Peer) -> None:
        exchange = peer.exchange(workload.first_case(self._scratch))
        server.wait_for_answer(lambda: exchange.accepts(ask(server.url, exchange)))
        seconds = time.monotonic() - began
        exchanges = [peer.exchange(case) for case in workload.check_cases(self._scratch)]
        wrong = check_answers(server.url, exchanges, workload.checkers)
        if wrong:
            raise LoadError(f"{wrong} concurrent queries got no answer or another one's")
        time.sleep(SETTLE_SECONDS)
        start = Start(seconds, server.memory())
        self.results.starts.setdefault((peer.name, workload.name), []).append(start)
        for connections in self.plan.connections_of(workload):
            if time.monotonic() > self._deadline:
                self.results.cut = True
                return
            sample = self._point(server, connections, peer, exchange)
            self.results.samples.setdefault((peer.name, workload.name, connections), []).append(sample)
            say(f"    {connections:>4} connections: {describe(sample)}")

    def _point(self, server: Server, connections: int, peer: Peer, exchange: Exchange) -> Sample:
        url = server.url
        run_wrk(self._wrk, url, connections, self.plan.warmup_seconds, exchange)
        # wrk leaves without waiting for its last answers: let a slow server work them off.
        ask(url, exchange, DRAIN_SECONDS)
        clock, before = Clock(server), read_counts(self._scratch / "counts")
        sample = run_wrk(self._wrk, url, connections, self.plan.seconds, exchange)
        after, foreign = read_counts(self._scratch / "counts"), clock.foreign_share()
        batches, queries = (b - a for a, b in zip(before, after, strict=True))
        mean_batch = queries / batches if batches and not peer.echoes else None
        cpu_us = clock.server_seconds() / sample.requests * 1e6 if sample.requests else None
        return replace(sample, mean_batch=mean_batch, cpu_us=cpu_us, foreign=foreign)

    def _failed(self, peer: Peer, workload: Workload) -> bool:
        return any((peer.name, name) in self.results.failures for name in ("", workload.name))

    def _fail(self, peer: Peer, workload: Workload | None, reason: str, words: str) -> None:
        self.results.failures[peer.name, workload.name if workload else ""] = reason
        say(f"    {peer.title}: {reason}")
        for line in words.splitlines():
            say(f"      | {line}")


def read_counts(path: Path) -> tuple[int, int]:
    """Batches and queries that the models counted so far (see peers/models.py)."""
    try:
        batches, queries = struct.unpack("<qq", path.read_bytes())
    except (OSError, struct.error):
        return 0, 0
    return batches, queries


def describe(sample: Sample) -> str:
    """A sample in one line."""
    text = f"{sample.rate:>8,.0f}/s  p50 {sample.p50_ms:.2f} ms  p99 {sample.p99_ms:.2f} ms"
    if sample.mean_batch is not None:
        text += f"  mean batch {sample.mean_batch:.1f}"
    if sample.foreign > NOISE:
        text += f"  (others used {sample.foreign:.0%} of the machine)"
    return text + (f"  {sample.errors} ERRORS" if sample.errors else "")


def say(text: str) -> None:
    """Tell how far it is, on standard error."""
    print(text, file=sys.stderr, flush=True)
