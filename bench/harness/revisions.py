"""Two revisions of Shoal, built and measured side by side."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .environments import ROOT, SetupError, python_of, run_quietly
from .gobench import GoPackage, with_python
from .load import ask, check_answers, run_wrk
from .peers import Tools, shoal
from .processes import Server, free_port
from .workloads import PLAIN, WORKLOADS, Workload

WORKTREE = "worktree"
# The package, as it were, of what is measured under load.
MACRO = "macro"
PACKAGES = (
    GoPackage("./batch"),
    GoPackage(".", "Handle"),
    GoPackage("./internal/tensor"),
    GoPackage("./internal/runtime/python"),
    GoPackage("./internal/front/rest"),
)
MACROS = {"W1": (1, 64), "W2": (16, 64)}
WARMUP_SECONDS = 1


@dataclass(frozen=True)
class Revision:
    """A tree of Shoal's sources, and a folder for what is built from it."""

    label: str
    root: Path
    built: Path

    def compile(self, packages: Sequence[GoPackage]) -> None:
        """Build the server, and the packages' benchmarks. Raises SetupError."""
        run_quietly(
            ["go", "build", "-o", str(self.server), "./cmd/shoal"], f"building {self.label}", cwd=self.root
        )
        for package in packages:
            argv = ["go", "test", "-c", "-o", str(self.binary(package)), package.folder]
            run_quietly(argv, f"building {package.folder} of {self.label}", cwd=self.root)

    def packages(self) -> list[GoPackage]:
        """The packages that have benchmarks."""
        return [package for package in PACKAGES if package.exists_in(self.root)]

    @property
    def server(self) -> Path:
        """The server's binary."""
        return self.built / "shoal"

    def binary(self, package: GoPackage) -> Path:
        """The binary of a package's tests."""
        return self.built / (re.sub(r"\W+", "-", package.folder) + ".test")

    def run(self, package: GoPackage, pattern: str, benchtime: str) -> str:
        """Run benchmarks once; returns their lines, with those that name the package."""
        argv = [str(self.binary(package)), "-test.run=^$", f"-test.bench={pattern}", "-test.benchmem"]
        argv += [f"-test.benchtime={benchtime}", "-test.timeout=5m"]
        what = f"{package.folder} of {self.label}"
        return run_quietly(argv, what, env=with_python(), cwd=self.root / package.folder)

    def load(self, workload: Workload, connections: Sequence[int], seconds: int, wrk: str) -> str:
        """Serve a model under load once; returns lines as Go's benchmarks have them."""
        tools = Tools(self.built, python_of("shoal"), self.server, self.root / "python")
        server = Server(shoal()(tools, workload.model, free_port()), self.built / "server.log")
        with server:
            lines = list(_load(server, workload, connections, seconds, wrk))
        return "\n".join([f"pkg: {MACRO}", *lines, ""])


def _load(
    server: Server, workload: Workload, connections: Sequence[int], seconds: int, wrk: str
) -> Iterator[str]:
    exchange = PLAIN.exchange(workload.first_case(server.log.parent))
    server.wait_for_answer(lambda: exchange.accepts(ask(server.url, exchange)))
    cases = [PLAIN.exchange(case) for case in workload.check_cases(server.log.parent)]
    if wrong := check_answers(server.url, cases, workload.checkers):
        raise SetupError(f"{wrong} concurrent queries got no answer or another one's")
    run_wrk(wrk, server.url, max(connections), WARMUP_SECONDS, exchange)
    for count in connections:
        before = server.cpu_seconds()
        sample = run_wrk(wrk, server.url, count, seconds, exchange)
        used = server.cpu_seconds() - before
        if sample.errors or not sample.requests:
            raise SetupError(f"{workload.name} with {count} connections: {sample.errors} errors")
        yield macro_line(workload.name, count, sample.requests, sample.rate, sample.p50_ms, used)


def macro_line(workload: str, connections: int, requests: int, rate: float, p50_ms: float, cpu: float) -> str:
    """A measurement under load as a line of Go's benchmarks."""
    figures = f"{1e9 / rate:.1f} ns/op {p50_ms * 1e6:.0f} p50-ns {cpu / requests * 1e9:.1f} cpu-ns/op"
    return f"Benchmark{workload}/connections={connections} {requests} {figures}"


@contextmanager
def checked_out(name: str, label: str, scratch: Path) -> Iterator[Revision]:
    """A revision in a git worktree of its own, removed at the end; "worktree" is this tree as it is."""
    built = scratch / f"{label}-built"
    built.mkdir()
    if name == WORKTREE:
        yield Revision(label, ROOT, built)
        return
    commit = run_quietly(["git", "rev-parse", "--verify", f"{name}^{{commit}}"], f"finding {name}").strip()
    root = scratch / label
    run_quietly(["git", "worktree", "add", "--detach", str(root), commit], f"checking out {name}")
    try:
        yield Revision(label, root, built)
    finally:
        run_quietly(["git", "worktree", "remove", "--force", str(root)], f"removing the worktree of {name}")


def macros() -> dict[Workload, tuple[int, ...]]:
    """What is measured under load."""
    return {workload: MACROS[workload.name] for workload in WORKLOADS if workload.name in MACROS}
