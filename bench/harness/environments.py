"""What has to be there before anything can be measured: virtual environments, binaries, wrk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from .processes import MARK, RUN

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"
# The sources of the Shoal that is measured: these, or those of another checkout, to measure an earlier revision.
TREE = Path(os.environ.get("SHOAL_BENCH_TREE") or ROOT).resolve()
INSTALL_SECONDS = 900
BUILD_SECONDS = 600


class SetupError(Exception):
    """Something that a peer or the whole benchmark needs could not be had."""


def run_quietly(
    argv: list[str],
    what: str,
    *,
    seconds: float = BUILD_SECONDS,
    env: Mapping[str, str] | None = None,
    cwd: Path = TREE,
) -> str:
    """Run a command in the root of the measured sources; returns its output. Raises SetupError with its last words."""
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env={**os.environ, MARK: f"{RUN}/", **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise SetupError(f"{what}: {exc}") from None
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()[-5:]
        raise SetupError(f"{what} failed: " + "\n".join(words))
    return done.stdout


def python_of(name: str) -> Path:
    """The interpreter of the environment for bench/requirements/NAME.txt, made where it is missing."""
    folder = ROOT / ".venvs" / f"bench-{name}"
    python = folder / "bin" / "python"
    requirements = BENCH / "requirements" / f"{name}.txt"
    stamp = folder / "installed-requirements.txt"
    wanted = requirements.read_text()
    if stamp.exists() and stamp.read_text() == wanted and python.exists():
        return python
    print(f"setting up the virtual environment of {name} …", file=sys.stderr, flush=True)
    if not python.exists():
        run_quietly([sys.executable, "-m", "venv", str(folder)], f"making an environment for {name}")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run_quietly([*pip, "-r", str(requirements)], f"installing {name}", seconds=INSTALL_SECONDS)
    stamp.write_text(wanted)
    return python


def run_program(name: str, *arguments: str) -> str:
    """Run a program of bench/peers in Shoal's environment, with the SDK of this tree; returns its output."""
    argv = [str(python_of("shoal")), str(BENCH / "peers" / name), *arguments]
    return run_quietly(argv, name, env={"PYTHONPATH": str(TREE / "python")})


def version_of(python: Path, distribution: str) -> str:
    """The version of a distribution installed beside that interpreter."""
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    return run_quietly([str(python), "-c", code], f"asking for the version of {distribution}").strip()


def build(package: str, binary: Path) -> Path:
    """Compile a Go program of this module; what the benchmark itself needs comes from its own sources."""
    cwd = ROOT if package.startswith("./bench/") else TREE
    run_quietly(["go", "build", "-o", str(binary), package], f"building {package}", cwd=cwd)
    return binary


def find_wrk() -> str:
    """The load generator, installed with apt where that is possible."""
    found = shutil.which("wrk")
    if found:
        return found
    hint = "wrk is missing: `apt-get install wrk` (Debian, Ubuntu) or `brew install wrk` (macOS)"
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise SetupError(hint)
    print("installing wrk …", file=sys.stderr, flush=True)
    install = ["apt-get", "install", "-y", "--no-install-recommends", "wrk"]
    try:
        run_quietly(install, "installing wrk")
    except SetupError:
        run_quietly(["apt-get", "update"], "apt-get update")
        run_quietly(install, "installing wrk")
    found = shutil.which("wrk")
    if not found:
        raise SetupError(hint)
    return found
