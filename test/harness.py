"""Real servers, real clients, and ways to wait for what they do."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import requests

from shoal import serve

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
SHOAL = Path(sys.executable).parent / "shoal"
PATIENCE = 60.0  # seconds until something that must happen is given up on


def wait_for_another_request() -> None:
    """Wait until a signal to stop is another request than the last one: within a second both are one."""
    heard = time.monotonic()
    until(lambda: time.monotonic() > heard + 1.2, "a signal to be another request")


def until(ready: Callable[[], T], what: str, patience: float = PATIENCE) -> T:
    """Poll until ready() is true, and return what it returned; fail when that takes too long."""
    deadline = time.monotonic() + patience
    while True:
        found = ready()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {patience:.0f} s for {what}"
        time.sleep(0.005)


def deploy(
    client: serve.Client,
    name: str,
    model: Callable[..., Any],
    *init: Any,
    methods: Sequence[str] = ("GET", "POST"),
    **config: Any,
) -> None:
    """A backend, and an endpoint of the same name with the route /name."""
    client.create_backend(name, model, *init, config=config)
    client.create_endpoint(name, backend=name, route=f"/{name}", methods=methods)


def ask(where: serve.Client | str, path: str, method: str = "GET", **options: Any) -> requests.Response:
    """One HTTP query, on a connection of its own."""
    address = where if isinstance(where, str) else where.http_address
    return requests.request(method, f"http://{address}{path}", timeout=PATIENCE, **options)


def problem(response: requests.Response, status: int, code: str) -> dict[str, Any]:
    """The problem details in a response, which must be of this status and code."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    details: dict[str, Any] = response.json()
    assert details["status"] == status
    assert details["code"] == code, details
    assert details["detail"]
    return details


def backend(client: serve.Client, name: str) -> dict[str, Any]:
    """What the server says about a backend."""
    found: dict[str, Any] = next(b for b in client.status()["backends"] if b["name"] == name)
    return found


def unanswered(client: serve.Client, name: str) -> int:
    """Queries of a backend that wait, were sent ahead to a busy replica, or are computed."""
    found = backend(client, name)
    return int(found["queued"]) + int(found["running"])


def sizes(client: serve.Client, name: str) -> dict[int, int]:
    """Batches of a backend by their size."""
    return {int(size): count for size, count in backend(client, name)["stats"]["batch_sizes"].items()}


def alive(pid: int) -> bool:
    """Whether a process exists and has not ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


class Load:
    """Parallel clients that query without pause until the context ends; keeps every answer and error."""

    def __init__(self, ask: Callable[[int], Any], clients: int = 8, first: int = 0) -> None:
        self.answers: dict[int, Any] = {}
        self.errors: dict[int, Exception] = {}
        self._ask = ask
        self._next = first
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def _run(self) -> None:
        while not self._stop.is_set():
            query = self._take()
            try:
                answer = self._ask(query)
            except Exception as error:
                with self._lock:
                    self.errors[query] = error
            else:
                with self._lock:
                    self.answers[query] = answer

    def _take(self) -> int:
        with self._lock:
            self._next += 1
            return self._next - 1

    @property
    def mark(self) -> int:
        """The number of the next query: all from it on will be asked after now."""
        with self._lock:
            return self._next

    def since(self, mark: int) -> list[Any]:
        """The answers to queries that were asked after the mark."""
        with self._lock:
            return [answer for query, answer in self.answers.items() if query >= mark]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the load; every query under way gets its answer first."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a query got neither an answer nor an error"

    def more(self, count: int = 50) -> None:
        """Wait for that many answers to queries that are asked from now on."""
        mark = self.mark
        until(lambda: len(self.since(mark)) >= count, f"{count} answers; errors so far: {self.errors}")


class Keeper:
    """Asks over HTTP with a connection a thread that it keeps, as load generators do."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._here = threading.local()

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET. Raises OSError or HTTPException where there is no answer."""
        connection: http.client.HTTPConnection | None = getattr(self._here, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._address, timeout=PATIENCE)
            self._here.connection = connection
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            raise


class Loads:
    """The same queries over HTTP and through a handle, at once; each answer must be that of its query."""

    def __init__(self, client: serve.Client, endpoint: str) -> None:
        keeper = Keeper(client.http_address)
        handle = client.get_handle(endpoint)

        def over_http(i: int) -> str:
            status, body = keeper.get(f"/{endpoint}?number={i}")
            assert status == 200, (status, body)
            version, number = json.loads(body)
            assert number == i
            return str(version)

        def through_handle(i: int) -> str:
            version, number = handle.remote(number=i).result(30)
            assert number == i
            return str(version)

        self.loads = [Load(over_http, 4), Load(through_handle, 4)]

    def __enter__(self) -> Loads:
        for load in self.loads:
            load.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for load in self.loads:
            load.stop()

    def more(self, count: int = 50) -> None:
        for load in self.loads:
            load.more(count)

    @property
    def marks(self) -> list[int]:
        return [load.mark for load in self.loads]

    def versions(self, marks: list[int] | None = None) -> Counter[str]:
        """How many answers came from each version; of all, or of those asked for after the marks."""
        since = marks or [0, 0]
        return Counter(
            version for load, mark in zip(self.loads, since, strict=True) for version in load.since(mark)
        )

    @property
    def errors(self) -> list[Exception]:
        return [error for load in self.loads for error in load.errors.values()]


class Process:
    """A program in a session of its own, whose output is kept; it is killed when the context ends."""

    def __init__(
        self, command: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path = ROOT
    ) -> None:
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env={**clean_environment(), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._readers = [
            threading.Thread(target=_read, args=(stream, lines), daemon=True)
            for stream, lines in ((self._process.stdout, self.lines), (self._process.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    @property
    def status(self) -> int | None:
        """The exit status, once the process has ended and its output is read; None before."""
        status = self._process.poll()
        if status is not None:
            self._read_on()
        return status

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process itself."""
        self._process.send_signal(number)

    def wait(self, patience: float = 60.0) -> int:
        """The exit status, once the process has ended and its output is read."""
        status = self._process.wait(patience)
        self._read_on()
        return status

    def _read_on(self) -> None:
        """Read what is left of the output; whoever inherited it may hold it open."""
        for reader in self._readers:
            reader.join(PATIENCE)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    @property
    def said(self) -> str:
        """Both outputs."""
        return self.output + "".join(self.errors)


def _read(stream: Iterable[str], lines: list[str]) -> None:
    for line in stream:
        lines.append(line)  # one at a time: tests read along


def clean_environment() -> dict[str, str]:
    """This environment without what would point programs at another server."""
    return {key: value for key, value in os.environ.items() if not key.startswith("SHOAL_")}


def run(command: Sequence[str | Path], patience: float = 60.0, **options: Any) -> Process:
    """Run a program to its end."""
    with Process(command, **options) as process:
        process.wait(patience)
        return process


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def load_json(text: str) -> Any:
    """JSON, or a failure that shows the text."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise AssertionError(f"not JSON ({error}): {text!r}") from None
