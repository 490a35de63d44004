"""The server as a process: how it stops, and with whom it dies."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from harness import (
    SHOAL,
    Keeper,
    Load,
    Process,
    alive,
    ask,
    backend,
    clean_environment,
    free_port,
    load_json,
    run,
    until,
    wait_for_another_request,
)
from models import Gate, Journal

import shoal
from shoal import serve
from shoal._handle import Handle

HERE = Path(__file__).resolve().parent

MODEL = """
from pathlib import Path

from models import Gate, Journal
from shoal import serve

here = Path(__file__).parent
gate, journal = Gate(here / "gate"), Journal(here / "journal")


@serve.accept_batch
def model(requests, *, number=None):
    if serve.context.web:
        number = [int(request.args["number"]) for request in requests]
    journal.add(number)
    gate.wait()
    return [n + 1 for n in number]
"""


class Server(Process):
    """`shoal serve FILE`, ready."""

    def __init__(self, folder: Path) -> None:
        (folder / "model.py").write_text(MODEL)
        self.http = f"127.0.0.1:{free_port()}"
        self.admin = f"unix:{folder / 'admin.sock'}"
        super().__init__(
            [SHOAL, "serve", "--http", self.http, "--admin", self.admin, folder / "model.py:model"],
            env={"PYTHONPATH": str(HERE)},
        )
        until(self._ready, "the server to be ready")

    def _ready(self) -> bool:
        assert self.status is None, self.said
        try:
            return ask(self.http, "/model?number=0").status_code == 200
        except OSError:
            return False


def test_a_server_is_not_ready_while_its_file_is_deployed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    (tmp_path / "app.py").write_text(
        f"""
import time
from pathlib import Path

while not Path({str(ready)!r}).exists():
    time.sleep(0.005)
"""
        + MODEL
    )
    http = f"127.0.0.1:{free_port()}"
    with Process(serve_command(http, tmp_path, "app.py"), env={"PYTHONPATH": str(HERE)}) as server:
        until(lambda: answers(http), "the server to listen")
        assert ask(http, "/readyz").status_code == 503
        assert "still being deployed" in ask(http, "/readyz").text
        ready.touch()
        until(lambda: ask(http, "/readyz").status_code == 200, "the server to be ready")
        assert ask(http, "/model?number=1").text == "2"
        server.signal(signal.SIGTERM)
        assert server.wait(30) == 0


def serve_command(http: str, folder: Path, what: str) -> list[str]:
    return [str(SHOAL), "serve", "--http", http, "--admin", f"unix:{folder}/a.sock", f"{folder}/{what}"]


def answers(http: str) -> bool:
    try:
        return ask(http, "/livez").status_code == 200
    except OSError:
        return False


def test_a_server_outlives_the_reader_of_its_output(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("def talk(request):\n    print('words')\n    return 'said'\n")
    http = f"127.0.0.1:{free_port()}"
    command = serve_command(http, tmp_path, "model.py:talk")
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=clean_environment()
    )
    try:
        until(lambda: answers(http) and ask(http, "/readyz").status_code == 200, "the server to be ready")
        assert server.stderr is not None
        server.stderr.close()
        for _ in range(3):
            assert ask(http, "/talk").text == "said"
        server.terminate()
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path) as server:
        yield server


def test_sigterm_under_load_loses_no_accepted_query_and_exits_with_0(
    server: Server, journal: Journal
) -> None:
    keeper = Keeper(server.http)

    def query(number: int) -> int:
        status, body = keeper.get(f"/model?number={number}")
        if status == 503:
            raise ConnectionRefusedError("the server drains")
        assert status == 200, (status, body)
        return int(body)

    load = Load(query, 16, first=1)
    with load:
        load.more(500)
        server.signal(signal.SIGTERM)
        assert server.wait(30) == 0
    computed = [number for batch in journal.entries() for number in batch if number > 0]
    assert len(computed) == len(set(computed))
    assert set(computed) == set(load.answers), "what was computed was answered, and nothing else"
    assert all(answer == number + 1 for number, answer in load.answers.items())
    for error in load.errors.values():
        assert isinstance(error, (OSError, http.client.RemoteDisconnected)), repr(error)


def test_a_stopping_server_answers_what_it_accepted_and_refuses_the_rest(
    server: Server, pool: ThreadPoolExecutor, gate: Gate, journal: Journal
) -> None:
    client = serve.connect(server.admin)
    handle = client.get_handle("model")
    worker = backend(client, "model")["replicas"][0]["pid"]
    accepted = len(journal.entries())
    with gate.closed():
        web = [pool.submit(ask, server.http, "/model?number=1")]
        until(lambda: len(journal.entries()) > accepted, "the first query to be computed")
        web += [pool.submit(ask, server.http, f"/model?number={n}") for n in range(2, 6)]
        refs = [handle.remote(number=n) for n in range(5)]
        until(lambda: backend(client, "model")["queued"] == 9, "nine queries to wait")
        server.signal(signal.SIGTERM)
        until(lambda: refused(server.http), "the server to refuse new queries")
        until(lambda: draining(handle), "the handle to be told")
        assert server.status is None
    assert [query.exception() for query in web] == [None] * 5, server.said
    assert [int(query.result().text) for query in web] == [2, 3, 4, 5, 6]
    assert shoal.get(refs, timeout=30) == [1, 2, 3, 4, 5]
    assert server.wait(30) == 0
    until(lambda: not alive(worker), "the worker to end")
    assert not Path(server.admin.removeprefix("unix:")).exists()
    with pytest.raises(shoal.Unavailable):
        client.status()


def refused(address: str) -> bool:
    """Whether a new query is refused; one that is accepted after all must not wait for the gate."""
    try:
        return ask(address, "/model?number=99", headers={"Shoal-Timeout": "50ms"}).status_code == 503
    except OSError:
        return True


def draining(handle: Handle) -> bool:
    try:
        handle.options(timeout=0.05).remote(number=99).result(10)
    except (shoal.Draining, shoal.Unavailable):
        return True
    except shoal.DeadlineExceeded:
        pass
    return False


def computed(server: Server, pool: ThreadPoolExecutor, journal: Journal) -> Future[requests.Response]:
    """A query that is being computed by now. The gate is closed."""
    before = len(journal.entries())
    query = pool.submit(ask, server.http, "/model?number=1")
    until(lambda: len(journal.entries()) > before, "the query to be computed")
    return query


def test_two_signals_together_are_one_request(
    server: Server, pool: ThreadPoolExecutor, gate: Gate, journal: Journal
) -> None:
    with gate.closed():
        query = computed(server, pool, journal)
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):  # it wakes up to both
            server.signal(number)
        until(lambda: refused(server.http), "the server to refuse new queries")
    assert query.result().status_code == 200
    assert server.wait() == 0


def test_a_second_signal_ends_the_server_at_once(
    server: Server, pool: ThreadPoolExecutor, gate: Gate, journal: Journal
) -> None:
    with gate.closed():
        query = computed(server, pool, journal)
        server.signal(signal.SIGTERM)
        until(lambda: refused(server.http), "the server to refuse new queries")
        wait_for_another_request()
        server.signal(signal.SIGTERM)
        assert server.wait() == 1  # by itself, and not by the signal
    if query.exception() is None:  # the connection may also break off
        assert query.result().status_code == 503
        assert query.result().json()["code"] == "Draining"


PARENT = """
import json, os, signal
from shoal import serve

def model(request):
    return os.getpid()

client = serve.start(http_port=0)
client.create_backend("model", model)
client.create_endpoint("model", backend="model")
pids = {"server": client.status()["pid"], "worker": client.get_handle("model").remote().result(30)}
print(json.dumps(pids), flush=True)
END
"""


@pytest.mark.parametrize(
    ("end", "status"),
    [("signal.pause()", -signal.SIGKILL), ("raise SystemExit(3)", 3), ("os._exit(4)", 4), ("", 0)],
    ids=["killed", "exit", "_exit", "end"],
)
def test_an_embedded_server_ends_with_its_program(tmp_path: Path, end: str, status: int) -> None:
    program = tmp_path / "program.py"
    program.write_text(PARENT.replace("END", end))
    with Process([sys.executable, program]) as parent:
        until(lambda: "\n" in parent.output or parent.status is not None, "the program to start its server")
        assert parent.lines, parent.said
        pids = load_json(parent.lines[0])
        if status < 0:
            os.kill(parent.pid, signal.SIGKILL)
        assert parent.wait() == status, parent.said
        until(lambda: not alive(pids["server"]), "the server to end")
        until(lambda: not alive(pids["worker"]), "the worker to end")


def test_functions_and_classes_of_a_program_deploy_with_what_they_use(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        """
import json
import shoal
from dataclasses import dataclass
from shoal import serve

OFFSET = 10

@dataclass
class Point:
    x: int
    y: int

def shift(n):
    return n + OFFSET

@serve.accept_batch
def function(requests, *, n):
    return [shift(i) for i in n]

class Base:
    def __init__(self, factor):
        self.factor = factor

class Model(Base):
    def __init__(self, factor, *, swap):
        super().__init__(factor)
        self.swap = swap

    @serve.accept_batch
    def __call__(self, requests, *, point):
        return [Point(self.factor * p.y, self.factor * p.x) if self.swap else p for p in point]

    def factor_of(self, request):
        return self.factor

if __name__ == "__main__":
    serve.init(http_port=0)
    serve.create_backend("function", function)
    serve.create_backend("lambda", lambda request: request.data * 2)
    serve.create_backend("class", Model, 3, swap=True)
    for name in ("function", "lambda", "class"):
        serve.create_endpoint(name, backend=name)
    assert shoal.get([serve.get_handle("function").remote(n=n) for n in range(3)]) == [10, 11, 12]
    assert serve.get_handle("lambda").remote(21).result() == 42
    assert serve.get_handle("class").remote(point=Point(1, 2)).result() == Point(6, 3)
    assert serve.get_handle("class").options("factor_of").remote().result() == 3
    print(json.dumps(sorted(serve.list_backends())))
"""
    )
    done = run([sys.executable, program])
    assert done.status == 0, done.said
    assert load_json(done.output) == ["class", "function", "lambda"]


def test_a_detached_server_stays_and_is_found(tmp_path: Path) -> None:
    program = "from shoal import serve; print(serve.start(detached=True, http_port=0).status()['pid'])"
    environment = {"XDG_RUNTIME_DIR": str(tmp_path)}
    first = run([sys.executable, "-c", program], env=environment)
    assert first.status == 0, first.said
    pid = int(first.output)
    try:
        assert alive(pid)
        again = "from shoal import serve; print(serve.connect().status()['pid'])"
        assert int(run([sys.executable, "-c", again], env=environment).output) == pid
    finally:
        os.kill(pid, signal.SIGTERM)
        until(lambda: not alive(pid), "the detached server to stop")
