"""A server that this process starts: the binary, its life, and what it prints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, Any

from . import _address
from ._errors import Error, Unavailable

_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 30.0
_ABANDON_TIMEOUT = 5.0
_TAIL = 40  # lines that an error shows of what a server said before it ended


def find_binary() -> str:
    """The server's executable: $SHOAL_BINARY, the one in the wheel, or `shoal` on PATH. Raises Error."""
    chosen = os.environ.get("SHOAL_BINARY")
    if chosen:
        if not os.access(chosen, os.X_OK):
            raise Error(f"SHOAL_BINARY is {chosen!r}, which cannot be executed")
        return chosen
    packaged = Path(__file__).parent / "bin" / "shoal"
    if os.access(packaged, os.X_OK):
        return str(packaged)
    found = shutil.which("shoal")
    # The console script of this very package only looks here again.
    if found and Path(found).parent != Path(sys.executable).parent:
        return found
    raise Error(
        "there is no shoal server to start: install the package with `pip install ./python` (which builds "
        "it), set SHOAL_BINARY to the executable, or connect to a running server with serve.connect(address)"
    )


class ServerProcess:
    """One started server.

    Not detached, it stops gracefully when this process ends, however that happens: it watches its standard
    input, a pipe that only this process holds. Its output appears as this program's output. Detached, it
    stays until somebody stops it, and its output goes to a file beside its socket.
    """

    def __init__(self, http_host: str, http_port: int, *, detached: bool = False) -> None:
        """Start the server and wait until it is ready. Raises Unavailable when it does not come up."""
        self.detached = detached
        self._owner = os.getpid()
        binary = find_binary()
        self._folder = None if detached else tempfile.mkdtemp(prefix="shoal-")
        http = f"{_bracketed(http_host)}:{http_port}"
        self._command = [binary, "serve", "--embedded", "--http", http]
        # A detached server listens where everybody looks for one.
        self._command += ["--detached"] if detached else ["--admin", f"unix:{self._folder}/admin.sock"]
        self._said: deque[str] = deque(maxlen=_TAIL)
        self._report: dict[str, Any] = {}
        self._reported = threading.Event()
        self._pumps: list[threading.Thread] = []
        self._log: Path | None = None
        if detached:
            self._start_detached(_address.runtime_folder() / f"server-{http_port or os.getpid()}.log")
        else:
            self._start_embedded()
        try:
            self._await_ready()
        except BaseException:  # an interrupt too: nobody has the server's address yet
            self._abandon()
            raise
        self.address = str(self._report["admin_address"])
        self.http_address = str(self._report["http_address"])

    def _start_embedded(self) -> None:
        self.process = self._spawn(subprocess.PIPE, subprocess.PIPE)
        for pipe, name in ((self.process.stdout, "stdout"), (self.process.stderr, "stderr")):
            assert pipe is not None
            pump = threading.Thread(target=self._pump, args=(pipe, name), name=f"shoal-{name}", daemon=True)
            pump.start()
            self._pumps.append(pump)

    def _start_detached(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _address.check_private(path.parent)
        self._log = path
        with path.open("wb") as log:
            self.process = self._spawn(subprocess.DEVNULL, log)

    def _spawn(self, stdin: int, output: int | IO[bytes]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                self._command,
                stdin=stdin,
                stdout=output,
                stderr=output,
                bufsize=0,  # no buffer objects, whose locks a fork could copy while they are held
                # A session of its own: Ctrl-C in a terminal is for this program, which decides what to stop.
                start_new_session=True,
            )
        except OSError as exc:
            self._clean_up()
            raise Unavailable(f"the server {self._command[0]} cannot be run: {exc}") from exc

    def _pump(self, pipe: IO[bytes], name: str) -> None:
        """Pass lines on to this program's stream of that name, whatever it is at the moment."""
        rest = b""
        while chunk := os.read(pipe.fileno(), 65536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._pass_on(line.decode("utf-8", "replace") + "\n", name)
        if rest:
            self._pass_on(rest.decode("utf-8", "replace"), name)
        pipe.close()

    def _pass_on(self, line: str, name: str) -> None:
        if name == "stdout" and self._is_report(line):
            return
        self._said.append(line)
        stream = getattr(sys, name)
        try:
            stream.write(line)
            stream.flush()
        except (ValueError, OSError, AttributeError):  # the stream was closed, or there is none
            pass

    def _is_report(self, line: str) -> bool:
        """Whether line is the server's own report, that it is ready or why it is not; keeps what it says."""
        if self._reported.is_set() or not line.startswith('{"'):
            return False
        try:
            report = json.loads(line)
        except ValueError:
            return False
        if "ready" not in report:
            return False
        self._report = report
        if report["ready"]:
            self._reported.set()
        return True

    def _await_ready(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._reported.wait(0.02):
            if self._log is not None:
                self._read_log()
            if self.process.poll() is not None and not self._reported.is_set():
                for pump in self._pumps:
                    pump.join(2)
                if self._reported.is_set():
                    break
                self._give_up(f"the server ended with status {self.process.returncode} before it was ready")
            if time.monotonic() > deadline:
                self._give_up(f"the server was not ready within {_START_TIMEOUT:.0f} s")

    def _read_log(self) -> None:
        assert self._log is not None
        with self._log.open(errors="replace") as log:
            lines = log.readlines()
        self._said = deque(lines, maxlen=_TAIL)
        any(self._is_report(line) for line in lines if line.endswith("\n"))

    def _give_up(self, why: str) -> None:
        why = str(self._report.get("error") or why)
        raise Unavailable(
            "\n".join([why, f"command: {' '.join(self._command)}", "".join(self._said).rstrip()])
        )

    def _abandon(self) -> None:
        """End a server that did not come up."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(_ABANDON_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._clean_up()

    def stop(self) -> None:
        """Stop the server gracefully and wait for it; in a forked child do nothing."""
        if os.getpid() != self._owner:
            return
        if self.detached:
            self.process.terminate()
        elif self.process.stdin is not None:
            try:
                self.process.stdin.close()
            except OSError:
                pass
        for force in (self.process.terminate, self.process.kill):
            try:
                self.process.wait(_STOP_TIMEOUT)
                break
            except subprocess.TimeoutExpired:
                force()
        self.process.wait()
        for pump in self._pumps:  # so that its last words are seen
            pump.join(2)
        self._clean_up()

    def forget(self) -> None:
        """In a forked child: let go of the pipe, or the server would outlive its parent."""
        if self.process.stdin is not None:
            self.process.stdin.close()

    def _clean_up(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
