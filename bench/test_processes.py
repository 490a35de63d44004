from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from harness import processes
from harness.processes import Launch, Server, StartError

# A server whose child leaves for a session of its own and loses its parent, and does not heed SIGTERM.
STUBBORN = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(60)
"""


def python(code: str, *arguments: str, seconds: float = 10) -> Launch:
    return Launch([sys.executable, "-c", code, *arguments], "", start_seconds=seconds, stop_seconds=5)


def test_stopping_a_server_ends_what_it_left_behind(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with Server(python(STUBBORN, str(note)), tmp_path / "log") as server:
        server.wait_for_answer(lambda: note.exists() and note.read_text() != "")
        orphan = int(note.read_text())
        memory = server.memory()
        assert memory.processes == 2
        assert 0 < memory.root < memory.tree
        assert orphan in {process.pid for process in server.members()}
    assert not _runs(orphan)
    assert server.members() == set()


def test_a_server_is_stopped_when_measuring_fails(tmp_path: Path) -> None:
    server = Server(python("import time; time.sleep(60)"), tmp_path / "log")
    with pytest.raises(KeyboardInterrupt), server:
        raise KeyboardInterrupt
    assert server.members() == set()


def test_leftovers_of_the_run_are_ended(tmp_path: Path) -> None:
    server = Server(python("import time; time.sleep(60)"), tmp_path / "log")
    processes.stop_leftovers()
    with pytest.raises(StartError, match="exited with status -9"):
        server.wait_for_answer(lambda: False)


def test_a_server_that_exits_did_not_start(tmp_path: Path) -> None:
    with (
        Server(python("print('no such model'); raise SystemExit(3)"), tmp_path / "log") as server,
        pytest.raises(StartError, match="exited with status 3 before its first answer"),
    ):
        server.wait_for_answer(lambda: False)
    assert server.log_tail() == "no such model"


def test_a_server_that_is_too_slow_did_not_start(tmp_path: Path) -> None:
    began = time.monotonic()
    with (
        Server(python("import time; time.sleep(60)", seconds=0.2), tmp_path / "log") as server,
        pytest.raises(StartError, match=r"no right answer within 0\.2 s"),
    ):
        server.wait_for_answer(lambda: False)
    assert time.monotonic() - began < 10


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] != "Z"
