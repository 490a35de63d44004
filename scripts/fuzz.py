#!/usr/bin/env python3
"""Fuzzes every decoder for a while: `make fuzz SECONDS=30`. Names of targets fuzz only those.

The targets of Go are all functions `FuzzX`, each run for so many seconds; those of Python are
python/tests/test_fuzz.py. What fails is kept by Go as a seed in testdata/fuzz, and fails every
`go test` from then on.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def targets() -> list[tuple[str, str]]:
    """Package and name of every target."""
    found = []
    for path in sorted(ROOT.rglob("*_test.go")):
        if not any(part.startswith(".") for part in path.relative_to(ROOT).parts):
            package = "./" + str(path.parent.relative_to(ROOT))
            found += [(package, name) for name in re.findall(r"^func (Fuzz\w+)\(", path.read_text(), re.M)]
    return found


# The end of a run, and no input: until Go 1.27 its coordinator may take the time being over for
# a failure (golang/go#75804).
MERELY_OVER = re.compile(r"^--- FAIL: Fuzz\w+ \([^)]*\)\n    context deadline exceeded\nFAIL\n", re.M)


def fuzz(package: str, name: str, seconds: int) -> bool:
    """Run one target; true if nothing was found."""
    command = ["go", "test", package, "-run=^$", f"-fuzz=^{name}$", f"-fuzztime={seconds}s"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    tries = [int(n) for n in re.findall(r"execs: (\d+)", done.stdout)]
    well = done.returncode == 0 or MERELY_OVER.search(done.stdout) is not None
    verdict = "nothing found" if well else "FAILED"
    print(f"{package} {name}: {max(tries, default=0):,} inputs, {verdict}", flush=True)
    if not well:
        print(done.stdout[-4000:] + done.stderr[-2000:], flush=True)
    return well


def fuzz_python(seconds: int) -> bool:
    """Run the targets of Python, with about as many examples as there is time for."""
    examples = 20 * seconds
    command = [str(ROOT / ".venv" / "bin" / "python"), "-m", "pytest", "-q", "tests/test_fuzz.py"]
    environment = {**os.environ, "SHOAL_FUZZ": str(examples)}
    done = subprocess.run(command, cwd=ROOT / "python", env=environment, capture_output=True, text=True)
    well = done.returncode == 0
    print(
        f"python/tests/test_fuzz.py: {examples:,} inputs a target, {'nothing found' if well else 'FAILED'}",
        flush=True,
    )
    if not well:
        print(done.stdout[-4000:], flush=True)
    return well


def main() -> int:
    """Returns the exit status: 1 when something was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=30, help="for each target (default 30)")
    parser.add_argument("names", nargs="*", help="targets; all without")
    options = parser.parse_args()
    known = targets()
    unknown = set(options.names) - {name for _, name in known} - {"python"}
    if unknown:
        parser.error(
            f"no target {sorted(unknown)[0]!r}; there are python, {', '.join(name for _, name in known)}"
        )
    well = [
        fuzz(package, name, options.seconds)
        for package, name in known
        if not options.names or name in options.names
    ]
    if not options.names or "python" in options.names:
        well.append(fuzz_python(options.seconds))
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
