#!/usr/bin/env python3
"""Runs every check and test, and counts the tests.

`make test` is this program without arguments; names of steps (see STEPS) run only those. A step that fails
does not stop the others, so that the count is whole. The last line is always the count: "N passed, N failed".
It needs only the standard library, because it also makes the environment that the tests run in.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
STEP_TIMEOUT = 20 * 60.0


@dataclass
class Outcome:
    """What a step did: passed and failed count tests, and a check that fails counts as one."""

    ok: bool
    passed: int = 0
    failed: int = 0
    output: str = ""
    skipped: bool = False


@dataclass
class Step:
    """One thing to run."""

    name: str
    run: Callable[[], Outcome]
    seconds: float = field(default=0.0, init=False)
    outcome: Outcome | None = field(default=None, init=False)


@dataclass
class Done:
    """A command that has ended."""

    status: int
    output: str


def execute(command: list[str], cwd: Path = ROOT, env: dict[str, str] | None = None) -> Done:
    """Run a command to its end; its two outputs come as one."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=STEP_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        said = late.stdout.decode("utf-8", "replace") if isinstance(late.stdout, bytes) else ""
        return Done(124, f"{said}\n{shlex.join(command)}: still running after {STEP_TIMEOUT:.0f} s")
    except OSError as error:
        return Done(127, f"{shlex.join(command)}: {error}")
    return Done(done.returncode, done.stdout.decode("utf-8", "replace"))


def check(*command: str, cwd: Path = ROOT, env: dict[str, str] | None = None) -> Callable[[], Outcome]:
    """A step that passes or fails as a whole, and holds no tests."""

    def run() -> Outcome:
        done = execute(list(command), cwd, env)
        return Outcome(done.status == 0, output=done.output)

    return run


def go_files() -> list[str]:
    """The repository's Go files, also those that are not committed yet."""
    listed = execute(["git", "ls-files", "-co", "--exclude-standard", "--", "*.go"]).output.splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


def gofmt() -> Outcome:
    """Names the Go files that are not formatted."""
    done = execute(["gofmt", "-l", *go_files()])
    return Outcome(done.status == 0 and not done.output.strip(), output=done.output)


def go_test() -> Outcome:
    """Go's tests, with the race detector."""
    done = execute(["go", "test", "-race", "-timeout=15m", "-json", "./..."], env={"CGO_ENABLED": "1"})
    return read_go(done)


def read_go(done: Done) -> Outcome:
    """The outcome in what `go test -json` wrote: the words of whatever failed, and the count."""
    passed = failed = 0
    guilty: set[str] = set()  # packages with a failed test
    said: dict[tuple[str, str], list[str]] = {}
    shown: list[str] = []
    for event in go_events(done.output, shown):
        key = (event.get("Package") or event.get("ImportPath", ""), event.get("Test", ""))
        action = event.get("Action", "")
        if action in ("output", "build-output"):
            said.setdefault(key, []).append(event.get("Output", ""))
        elif action == "pass":
            passed += bool(key[1])
            said.pop(key, None)
        elif action == "fail":
            # A package that does not build, or whose process died, fails without a test that did.
            failed += bool(key[1]) or key[0] not in guilty
            guilty.add(key[0])
            # A package's end also ends the tests of it that had no time to fail.
            for other in [other for other in said if other == key or (other[0] == key[0] and not key[1])]:
                shown.append("".join(said.pop(other)))
        elif action == "build-fail":
            shown.append("".join(said.pop(key, [])))
        elif action == "skip":
            said.pop(key, None)
    return Outcome(done.status == 0, passed, failed, "".join(shown))


def go_events(output: str, rest: list[str]) -> Iterator[dict[str, str]]:
    """The events in the output; lines that are none go to rest."""
    for line in output.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if isinstance(event, dict):
            yield event
        else:
            rest.append(line + "\n")


def pytest(folder: str, *targets: str) -> Callable[[], Outcome]:
    """The tests of a folder. One that does not exist, or holds no tests, passes."""

    def run() -> Outcome:
        where = ROOT / folder
        if not any(where.rglob("test_*.py")):
            return Outcome(True, output="no tests here\n")
        with tempfile.TemporaryDirectory() as scratch:
            report = Path(scratch) / "report.xml"
            command = [str(BIN / "python"), "-P", "-m", "pytest", "-q", f"--junitxml={report}", *targets]
            done = execute(command, cwd=where)
            passed, failed = read_junit(report)
        return Outcome(done.status == 0, passed, failed, done.output)

    return run


def read_junit(report: Path) -> tuple[int, int]:
    """Tests passed and failed in a JUnit report; none where there is no readable report."""
    try:
        cases = list(ET.parse(report).getroot().iter("testcase"))
    except (OSError, ET.ParseError):
        return 0, 0
    failed = sum(any(case.find(tag) is not None for tag in ("failure", "error")) for case in cases)
    skipped = sum(case.find("skipped") is not None for case in cases)
    return len(cases) - failed - skipped, failed


def ruff() -> Outcome:
    """Lint of all Python."""
    folders = [name for name in ("python", "scripts", "examples", "test", "bench") if (ROOT / name).is_dir()]
    done = execute([str(BIN / "ruff"), "check", *folders])
    return Outcome(done.status == 0, output=done.output)


# What scanners say when the database of vulnerabilities cannot be reached, as in places without a network.
UNREACHABLE = (
    "no such host",
    "connection refused",
    "i/o timeout",
    "fetching vulnerabilities",
    "could not be audited",
    "Max retries exceeded",
    "ConnectionError",
    "Temporary failure in name resolution",
)
GOVULNCHECK = "golang.org/x/vuln/cmd/govulncheck@v1.1.4"
GOSEC = "github.com/securego/gosec/v2/cmd/gosec@v2.22.9"
# Rules that do not fit: unsafe (G103) and conversions of integers (G115) are the decoders' trade, and fuzzed;
# unhandled errors (G104) are golangci-lint's; random numbers (G404) choose backends, and keys come from
# crypto/rand; files (G304) are named by whoever runs the server. The others are on.
GOSEC_OFF = "G103,G104,G115,G304,G404"


def scan(*command: str) -> Callable[[], Outcome]:
    """A scanner that needs a database from elsewhere: where that cannot be reached, it is skipped."""

    def run() -> Outcome:
        done = execute(list(command))
        vulnerable = done.status and ("Vulnerability #" in done.output or "Found " in done.output)
        if not vulnerable and any(sign in done.output for sign in UNREACHABLE):
            return Outcome(True, output="skipped: the database is not reachable\n", skipped=True)
        return Outcome(done.status == 0, output=done.output)

    return run


STEPS = [
    Step("setup", check("make", "--no-print-directory", "setup")),
    Step("go-vet", check("go", "vet", "./...")),
    Step("gofmt", gofmt),
    Step("go-test", go_test),
    Step("ruff", ruff),
    Step("mypy", check(str(BIN / "mypy"), cwd=ROOT / "python")),
    Step("mypy-test", check(str(BIN / "mypy"), "--config-file=test/mypy.ini", "test", "scripts")),
    Step("python", pytest("python", "tests")),
    Step("bench", pytest("bench")),
    Step("e2e", pytest("test")),
    Step(
        "gosec",
        check(
            "go",
            "run",
            GOSEC,
            "-quiet",
            f"-exclude={GOSEC_OFF}",
            "-exclude-dir=bench",
            "-exclude-dir=batch/sim",
            "./...",
        ),
    ),
    Step("govulncheck", scan("go", "run", GOVULNCHECK, "./...")),
    Step(
        "pip-audit", scan(str(BIN / "pip-audit"), "--local", "--progress-spinner", "off", "--timeout", "10")
    ),
]


def main(names: list[str]) -> int:
    """Run the steps of these names (all, without names); returns the exit status."""
    unknown = set(names) - {step.name for step in STEPS}
    if unknown:
        print(f"no step {sorted(unknown)[0]!r}; there are: {', '.join(step.name for step in STEPS)}")
        return 2
    steps = [step for step in STEPS if not names or step.name in names]
    for step in steps:
        run(step)
    return report(steps)


def run(step: Step) -> None:
    """Run one step and say how it went; the output of one that failed is shown whole."""
    print(f"=== {step.name} ", end="", flush=True)
    start = time.monotonic()
    step.outcome = outcome = step.run()
    step.seconds = time.monotonic() - start
    if not outcome.ok and outcome.failed == 0:
        outcome.failed = 1
    tests = f", {outcome.passed} passed, {outcome.failed} failed" if outcome.passed + outcome.failed else ""
    how = "skipped, no database," if outcome.skipped else "ok" if outcome.ok else "FAILED"
    print(f"{how} in {step.seconds:.1f} s{tests}", flush=True)
    if not outcome.ok:
        print(outcome.output, flush=True)


def report(steps: list[Step]) -> int:
    """Name the steps that failed and print the count, last of all."""
    outcomes = [step.outcome for step in steps if step.outcome is not None]
    bad = [step.name for step in steps if step.outcome is not None and not step.outcome.ok]
    if bad:
        print(f"failed: {', '.join(bad)}")
    print(f"{sum(o.passed for o in outcomes)} passed, {sum(o.failed for o in outcomes)} failed", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
