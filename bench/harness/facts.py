"""What machine and what code the figures come from: no host names, no paths."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from .environments import SetupError, run_quietly


def machine() -> dict[str, str | int | float]:
    """Facts of the machine and its tools; load_before is the load average before the first measurement."""
    return {
        "cores": os.cpu_count() or 0,
        "processor": _processor(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "system": platform.system(),
        "kernel": platform.release(),
        "go": _tool(["go", "env", "GOVERSION"]).removeprefix("go"),
        "python": platform.python_version(),
        "wrk": _wrk_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def commit() -> tuple[str, bool]:
    """The short name of the commit that is checked out, and whether the tree has changes beyond it."""
    name = _tool(["git", "rev-parse", "--short", "HEAD"]) or "unknown"
    return name, bool(_tool(["git", "status", "--porcelain"]))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _tool(argv: list[str]) -> str:
    try:
        return run_quietly(argv, argv[0], seconds=30).strip()
    except SetupError:
        return ""


def _wrk_version() -> str:
    # wrk tells its version and exits with status 1.
    try:
        done = subprocess.run(["wrk", "-v"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    words = (done.stdout + done.stderr).split()
    return words[1] if len(words) > 1 else ""
