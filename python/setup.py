"""Builds the Go server and carries it in the wheel; everything else is in pyproject.toml."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution
from setuptools.errors import ExecError

HERE = Path(__file__).resolve().parent
BINARY = HERE / "shoal" / "bin" / "shoal"


def make_binary() -> None:
    """Put the server at shoal/bin/shoal: a copy of $SHOAL_BINARY, or a fresh build from the repository."""
    BINARY.parent.mkdir(exist_ok=True)
    ready = os.environ.get("SHOAL_BINARY")
    if ready:
        if not Path(ready).is_file():
            raise ExecError(f"SHOAL_BINARY is {ready!r}, which is not a file")
        if Path(ready).resolve() != BINARY.resolve():
            shutil.copyfile(ready, BINARY)
        BINARY.chmod(0o755)
        return
    build_with_go(HERE.parent)


def build_with_go(repository: Path) -> None:
    if not (repository / "cmd" / "shoal").is_dir():
        raise ExecError(
            f"shoal's Go sources are not at {repository}: build from a checkout of the repository, "
            "or set SHOAL_BINARY to a ready shoal executable"
        )
    go = shutil.which("go")
    if go is None:
        raise ExecError(
            "building shoal needs Go, and there is no `go` on PATH: install it from https://go.dev/dl, "
            "or set SHOAL_BINARY to a ready shoal executable"
        )
    fresh = BINARY.with_name(f"{BINARY.name}.{os.getpid()}")
    command = [go, "build", "-trimpath", "-ldflags", "-s -w", "-o", str(fresh), "./cmd/shoal"]
    done = subprocess.run(command, cwd=repository, env={**os.environ, "CGO_ENABLED": "0"}, check=False)
    if done.returncode != 0:
        raise ExecError(f"`{' '.join(command)}` in {repository} failed with status {done.returncode}")
    fresh.replace(BINARY)  # whatever was there before, and whoever runs it


class BuildWithBinary(build_py):
    """build_py that also brings the server. An editable install finds it in the source tree."""

    def run(self) -> None:
        make_binary()
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "shoal" / "bin" / "shoal"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(BINARY, target)
            target.chmod(0o755)


class PlatformWheel(bdist_wheel):
    """One wheel a platform, for every Python 3: it holds a binary, but no extension module."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class BinaryDistribution(Distribution):
    """Tells setuptools to use the platform's library directory."""

    def has_ext_modules(self) -> bool:
        return True


setup(
    cmdclass={"build_py": BuildWithBinary, "bdist_wheel": PlatformWheel},
    distclass=BinaryDistribution,
)
