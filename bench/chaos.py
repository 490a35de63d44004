"""Everything goes wrong at once, and nothing may be lost: `make chaos MINUTES=2`.

A real server with several workers is queried over HTTP, through a proxy that delays, slices, throttles and breaks
connections, and through handles, while workers are killed and stopped, versions replaced, traffic shifted, configs
changed, the server's file reloaded, and bursts, nonsense and slow clients come in between. All of it follows from a
seed. Every caller's outcome is compared with what it must be:

- right: the answer that belongs to the query, or the error that it asked for (its own bad input);
- refused: an error that says so honestly: a full queue, with Retry-After, or a deadline that the caller itself had set;
- left: the caller cancelled, or hung up;
- cut: the proxy broke the connection, so that nobody could deliver an answer;
- given up: as docs/failures.md says, a query with which two workers ended is refused. Here that may hit an innocent one, where
  the worker that it was alone in was ended from outside; whether it was is looked up by its pid;
- lost: everything else. No answer, another's answer, an error that was the server's or a neighbour's. It must be 0.

In the end memory, descriptors and goroutines must be where they were.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness.chaos_model import digest
from harness.proxy import Proxy
from soak import MIB, memory_of

import shoal
from shoal import serve

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs" / "reliability.md"
MARKS = "<!-- chaos: written by make chaos -->\n", "<!-- end -->\n"
PATIENCE = 60.0
# Errors that tell an innocent caller honestly that its query was not computed.
REFUSALS = {"QueueFull"}
ALLOWED = {"memory": 48.0 * MIB, "descriptors": 16.0, "goroutines": 24.0}

FILE = """
http: {{address: "127.0.0.1:0"}}
admin: {{address: "unix:{folder}/admin.sock"}}
log: {{level: error}}
backends:
  chaos:v1:
    python: {{file: {model}, object: Chaos, init_args: ["v1"]}}
    config: {{max_batch_size: 16, num_replicas: 2, timeout: 50s, verify_one_in: 20, env: {{CHAOS_ROUND: "{round}", CHAOS_LIE: "{lie}"}}}}
  chaos:v2:
    python: {{file: {model}, object: Chaos, init_args: ["v2"]}}
    config: {{max_batch_size: 8, num_replicas: 1, timeout: 50s}}
  rows:v1:
    python: {{file: {model}, object: rows}}
    config: {{max_batch_size: 8, num_replicas: 2, timeout: 50s}}
endpoints:
  chaos: {{route: /chaos, methods: [GET, POST], traffic: {{"chaos:v1": 0.5, "chaos:v2": 0.5}}}}
  rows: {{route: /rows, methods: [POST], backend: "rows:v1"}}
"""


class Ledger:
    """What became of every query."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.lost: list[str] = []
        self.killed: set[str] = set()  # workers that were ended from outside, by pid

    def add(self, outcome: str, code: str = "") -> None:
        """Count a query that was sent; code says why it was refused."""
        with self._lock:
            self.counts[outcome] += 1
            if code:
                self.refused[code] += 1

    def lose(self, what: str) -> None:
        """A query that got not what it must."""
        with self._lock:
            self.counts["lost"] += 1
            self.lost.append(what)

    @property
    def sent(self) -> int:
        """All queries."""
        return sum(self.counts.values())


class Query:
    """A query and what its caller must get."""

    numbers = iter(range(1, 1 << 62))
    _lock = threading.Lock()

    def __init__(self, rng: random.Random, bad: float) -> None:
        with Query._lock:
            self.n = next(Query.numbers)
        self.rows = rng.random() < 0.2
        self.kind = "good"
        if not self.rows and rng.random() < bad:
            self.kind = rng.choice(["item"] * 6 + ["raise"] * 3 + ["kill"])
        self.timeout = rng.uniform(0.001, 0.05) if rng.random() < 0.03 else None
        self.array = np.arange(self.n, self.n + (10_000 if rng.random() < 0.05 else 3)) if self.rows else None
        self.headers = {
            "Shoal-Caller": rng.choice(["a", "b", "c"]),
            "Shoal-Priority": str(rng.randint(-1, 1)),
        }
        if self.timeout:
            self.headers["Shoal-Timeout"] = f"{1000 * self.timeout:.0f}ms"

    def is_right(self, answer: Any) -> bool:
        """Whether an answer is this query's."""
        if self.array is not None:
            return bool(np.array_equal(np.asarray(answer), 3 * self.array + 1))
        return (
            self.kind == "good"
            and isinstance(answer, list)
            and answer[1:] == [self.n, digest(self.n)]
            and answer[0] in ("v1", "v2")
        )

    def is_own_error(self, code: str, message: str) -> bool:
        """Whether an error is what the query asked for."""
        if self.kind == "item":
            return code == "ValueError" and message == f"no {self.n}"
        if self.kind == "raise":
            return code == "RuntimeError" and message == "a query of the batch raised"
        return self.kind == "kill" and code == "WorkerDied" and "ended by signal" in message

    def is_given_up(self, code: str, message: str, killed: set[str]) -> bool:
        """Whether the worker was ended from outside that the query was refused for."""
        pids = re.findall(r"\(pid (\d+)\) died", message)
        return code == "WorkerDied" and bool(pids) and pids[-1] in killed

    def judge(self, ledger: Ledger, code: str, message: str, how: str) -> None:
        """Book an error that a caller got."""
        if self.is_own_error(code, message):
            ledger.add("right")
        elif code in REFUSALS or (self.timeout and code == "DeadlineExceeded"):
            ledger.add("refused", code)
        elif self.is_given_up(code, message, ledger.killed):
            ledger.add("given up")
        else:
            ledger.lose(f"{how}: {self} got {code}: {message}")

    def __str__(self) -> str:
        return f"query {self.n} ({'rows' if self.rows else self.kind})"


class Caller(threading.Thread):
    """Queries until it is told to stop; every query is booked."""

    def __init__(self, ledger: Ledger, rng: random.Random, bad: float, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.ledger, self.rng, self.bad, self.stopped = ledger, rng, bad, stop
        self.broke: BaseException | None = None

    def run(self) -> None:
        """Call until the end; what should not happen is kept for the report."""
        try:
            self.call()
        except BaseException as exc:
            self.broke = exc
            self.ledger.lose(f"{type(self).__name__} broke: {type(exc).__name__}: {exc}")

    def call(self) -> None:
        raise NotImplementedError


class HTTPCaller(Caller):
    """Asks over HTTP, on connections that it keeps for a while."""

    def __init__(self, address: str, *rest: Any, proxy: Proxy | None = None) -> None:
        super().__init__(*rest)
        self.address, self.proxy = address, proxy

    def call(self) -> None:
        connection: http.client.HTTPConnection | None = None
        left = 0
        while not self.stopped.is_set():
            if connection is None or left == 0:
                if connection is not None:
                    connection.close()
                connection = http.client.HTTPConnection(self.address, timeout=PATIENCE)
                left = self.rng.randint(1, 40)
            left -= 1
            if not self.ask(connection, Query(self.rng, self.bad)):
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    def ask(self, connection: http.client.HTTPConnection, q: Query) -> bool:
        """One query; false where the connection is of no use any more."""
        fair, how = True, "HTTP" if self.proxy is None else "HTTP through the proxy"
        try:
            connection.connect() if connection.sock is None else None
            port = connection.sock.getsockname()[1]
            if q.array is not None:
                body = json.dumps({"x": q.array.tolist()})
                connection.request("POST", "/rows", body, {**q.headers, "Content-Type": "application/json"})
            else:
                connection.request("GET", f"/chaos?n={q.n}&kind={q.kind}", headers=q.headers)
            if self.rng.random() < 0.01:  # it hangs up
                self.ledger.add("left")
                return False
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as exc:
            if self.proxy is not None:
                fair = self.proxy.fair(port)
            if fair:
                self.ledger.lose(f"{how}: {q} got no answer: {type(exc).__name__}: {exc}")
            else:
                self.ledger.add("cut")
            return False
        if response.status == 200:
            answer = json.loads(text)
            if q.is_right(answer):
                self.ledger.add("right")
            else:
                self.ledger.lose(f"{how}: {q} was answered with {text[:80]!r}")
        else:
            problem = json.loads(text)
            code = str(problem.get("code"))
            q.judge(self.ledger, code, str(problem.get("detail")), how)
            if code in REFUSALS and not response.headers.get("Retry-After"):
                self.ledger.lose(f"{how}: {q} was refused with {code} and no Retry-After")
        return not response.will_close


class HandleCaller(Caller):
    """Keeps queries open through a handle."""

    def __init__(self, client: serve.Client, *rest: Any, open_at_once: int = 16) -> None:
        super().__init__(*rest)
        self.chaos, self.rows, self.open = client.get_handle("chaos"), client.get_handle("rows"), open_at_once

    def call(self) -> None:
        under_way: deque[tuple[Query, Any, bool]] = deque()
        while not self.stopped.is_set():
            while len(under_way) < self.open:
                under_way.append(self.send())
            self.check(*under_way.popleft())
        while under_way:
            self.check(*under_way.popleft())

    def send(self) -> tuple[Query, Any, bool]:
        q = Query(self.rng, self.bad)
        handle = (self.rows if q.rows else self.chaos).options(
            timeout=q.timeout, caller=q.headers["Shoal-Caller"], priority=int(q.headers["Shoal-Priority"])
        )
        ref = handle.remote(x=q.array) if q.rows else handle.remote(n=q.n, kind=q.kind)
        left = self.rng.random() < 0.01
        if left:
            ref.cancel()
        return q, ref, left

    def check(self, q: Query, ref: Any, left: bool) -> None:
        try:
            answer = ref.result(PATIENCE)
        except Exception as exc:
            if left and isinstance(exc, shoal.Canceled):
                self.ledger.add("left")
            else:
                message = exc.message if isinstance(exc, shoal.Error) else str(exc)
                q.judge(self.ledger, type(exc).__name__, message, "handle")
            return
        if q.is_right(answer):
            self.ledger.add("right")
        else:
            self.ledger.lose(f"handle: {q} was answered with {str(answer)[:80]}")


class BrokenClient(threading.Thread):
    """Sends halves, nonsense and drips; the server must stay what it is."""

    def __init__(self, address: str, rng: random.Random, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        host, port = address.rsplit(":", 1)
        self.to, self.rng, self.stopped, self.done = (host, int(port)), rng, stop, Counter[str]()

    def run(self) -> None:
        """Misbehave, again and again."""
        deeds: list[Callable[[socket.socket], None]] = [
            self.half, self.nonsense, self.drip, self.deaf, self.long_head, self.lying_length, self.pipelined,
        ]  # fmt: skip
        while not self.stopped.wait(self.rng.uniform(0.0, 0.1)):
            deed = self.rng.choice(deeds)
            try:
                with socket.create_connection(self.to, timeout=2) as connection:
                    deed(connection)
            except OSError:
                pass  # it was thrown out, as it should be
            self.done[deed.__name__.replace("_", " ")] += 1

    def half(self, connection: socket.socket) -> None:
        whole = (
            b"POST /rows HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\nContent-Type: application/json\r\n\r\n"
            + b'{"x": [1, 2, 3]}'
        )
        connection.sendall(whole[: self.rng.randrange(len(whole))])

    def nonsense(self, connection: socket.socket) -> None:
        connection.sendall(self.rng.randbytes(self.rng.randint(1, 2000)))
        connection.recv(1000)

    def drip(self, connection: socket.socket) -> None:
        for byte in b"GET /chaos?n=1&kind=good HTTP/1.1\r\nHost: "[: self.rng.randrange(45)]:
            connection.sendall(bytes([byte]))
            time.sleep(0.01)

    def deaf(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.sendall(b"GET /chaos?n=1&kind=good HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
        time.sleep(0.1)

    def long_head(self, connection: socket.socket) -> None:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000 + b"\r\n\r\n")
        connection.recv(1000)

    def lying_length(self, connection: socket.socket) -> None:
        length = self.rng.choice([b"-1", b"99999999999999999999", b"1\r\nContent-Length: 2", b"0x10", b"1 1"])
        connection.sendall(b"POST /rows HTTP/1.1\r\nHost: x\r\nContent-Length: " + length + b"\r\n\r\n{}")
        answer = connection.recv(1000)
        assert not answer.startswith(b"HTTP/1.1 2"), answer

    def pipelined(self, connection: socket.socket) -> None:
        connection.sendall(b"GET /chaos?n=1&kind=good HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        connection.recv(10)


class Trouble:
    """What is done to the server while it is queried."""

    def __init__(self, server: Server, ledger: Ledger, rng: random.Random, deaths: bool) -> None:
        self.server, self.client, self.ledger, self.rng = server, server.client, ledger, rng
        self.done: Counter[str] = Counter()
        self.deeds: list[Callable[[], None]] = [
            self.pause, self.redeploy, self.traffic, self.config, self.replicas, self.reload, self.burst,
        ]  # fmt: skip
        if deaths:
            self.deeds += [self.kill, self.kill, self.crash]

    def run(self, until: float, most: float) -> None:
        """Make trouble until the time comes, with pauses of at most so many seconds."""
        bag: list[Callable[[], None]] = []
        while time.monotonic() < until:
            if not bag:  # each comes up as often as the others
                bag = self.rng.sample(self.deeds, len(self.deeds))
            deed = bag.pop()
            deed()
            self.done[deed.__name__] += 1
            time.sleep(self.rng.uniform(0.05, most))

    def worker(self) -> int:
        """A worker of this server; 0 where none is found."""
        pids = [
            int(replica["pid"])
            for backend in self.client.status()["backends"]
            for replica in backend["replicas"]
            if replica.get("pid")
        ]
        return self.rng.choice(pids) if pids else 0

    def signal(self, number: signal.Signals) -> int:
        """Signal a worker that is a child of the server."""
        pid = self.worker()
        try:
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            if pid and parent == self.server.pid:
                if number != signal.SIGSTOP:
                    self.ledger.killed.add(str(pid))
                os.kill(pid, number)
                return pid
        except OSError:
            pass  # it ended by itself
        return 0

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def crash(self) -> None:
        self.signal(signal.SIGSEGV)

    def pause(self) -> None:
        pid = self.signal(signal.SIGSTOP)
        time.sleep(self.rng.uniform(0.05, 0.4))
        if pid:
            try:
                os.kill(pid, signal.SIGCONT)
            except OSError:
                pass

    def redeploy(self) -> None:
        name = self.rng.choice(["v1", "v2"])
        source = {
            "kind": "file",
            "path": str(HERE / "harness" / "chaos_model.py"),
            "object": "Chaos",
            "init_args": [name],
        }
        config = {
            "max_batch_size": self.rng.randint(1, 32),
            "num_replicas": self.rng.randint(1, 2),
            "timeout": 50,
            "verify_one_in": 20,
        }
        self.client.deploy(f"chaos:{name}", source, config, replace=True)

    def traffic(self) -> None:
        share = self.rng.choice([0.0, 0.1, 0.5, 1.0])
        self.client.set_traffic("chaos", {"chaos:v1": share, "chaos:v2": 1 - share})

    def config(self) -> None:
        backend = self.rng.choice(["chaos:v1", "chaos:v2", "rows:v1"])
        change = {
            "max_batch_size": self.rng.randint(1, 32),
            "batch_wait_timeout": self.rng.choice([0, 0.002]),
        }
        self.client.update_backend_config(backend, change)

    def replicas(self) -> None:
        backend = self.rng.choice(["chaos:v1", "chaos:v2", "rows:v1"])
        self.client.update_backend_config(backend, {"num_replicas": self.rng.randint(1, 3)})

    def reload(self) -> None:
        self.server.write(self.rng.randrange(1000))
        os.kill(self.server.pid, signal.SIGHUP)

    def burst(self) -> None:
        """More at once than the queue may hold."""
        self.client.update_backend_config("chaos:v2", {"max_queued": 50})
        handle = self.client.get_handle("chaos")
        queries = [(q, handle.remote(n=q.n, kind=q.kind)) for q in self.good(400)]
        for q, ref in queries:
            try:
                answer = ref.result(PATIENCE)
            except Exception as exc:
                q.timeout = None  # it had none
                q.judge(self.ledger, type(exc).__name__, str(exc), "burst")
            else:
                if q.is_right(answer):
                    self.ledger.add("right")
                else:
                    self.ledger.lose(f"burst: {q} was answered with {answer}")
        self.client.update_backend_config("chaos:v2", {"max_queued": 4096})

    def good(self, n: int) -> list[Query]:
        queries = []
        while len(queries) < n:
            q = Query(self.rng, 0)
            if not q.rows:
                queries.append(q)
        return queries


class Server:
    """`shoal serve` with a file, in a process of its own."""

    def __init__(self, folder: Path, lie: float) -> None:
        self._folder, self._lie = folder, lie
        self.write(0)
        argv = [Path(sys.executable).parent / "shoal", "serve", folder / "shoal.yaml", "--json"]
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError((folder / "log").read_text())
        ready = json.loads(line)
        self.client = serve.connect(ready["admin_address"])
        self.pid = int(self.client.status()["pid"])
        self.address = self.client.http_address

    def write(self, round_: int) -> None:
        """Write the file; another round is another environment, and so new workers."""
        text = FILE.format(
            folder=self._folder, model=HERE / "harness" / "chaos_model.py", round=round_, lie=self._lie
        )
        scratch = self._folder / "next.yaml"
        scratch.write_text(text)
        scratch.replace(self._folder / "shoal.yaml")

    def figures(self) -> dict[str, float]:
        """Memory, descriptors and goroutines of the server."""
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        goroutines = next(line for line in text.splitlines() if line.startswith("go_goroutines ")).split()[1]
        return {
            "memory": memory_of(self.pid),
            "descriptors": float(len(os.listdir(f"/proc/{self.pid}/fd"))),
            "goroutines": float(goroutines),
        }

    def settle(self) -> None:
        """Bring the replicas back to what they were, and wait until they are ready and nothing waits."""
        for backend, replicas in (("chaos:v1", 2), ("chaos:v2", 1), ("rows:v1", 2)):
            self.client.update_backend_config(backend, {"num_replicas": replicas})
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            backends = self.client.status()["backends"]
            states = [replica["state"] for backend in backends for replica in backend["replicas"]]
            if all(state == "ready" for state in states) and not any(
                b["queued"] + b["running"] for b in backends
            ):
                return
            time.sleep(0.05)
        raise RuntimeError(f"the server does not come to rest: {self.client.status()['backends']}")

    def stop(self) -> int:
        """End the server; its exit status."""
        self.client.shutdown()
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._log.close()

    def log(self) -> str:
        """What it said."""
        return (self._folder / "log").read_text(errors="replace")


def chaos(seconds: float, seed: int, deaths: bool, bad: float, lie: float) -> dict[str, Any]:
    """Run it; what came of it."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        server = Server(Path(folder), lie)
        try:
            result = _chaos(server, seconds, seed, deaths, bad)
        finally:
            status = server.stop()
        if status != 0:
            result["lost"].append(f"the server ended with status {status}: {server.log()[-2000:]}")
        if "panic" in server.log():
            result["lost"].append(f"the server panicked: {server.log()[-4000:]}")
        return result


def _chaos(server: Server, seconds: float, seed: int, deaths: bool, bad: float) -> dict[str, Any]:
    ledger, stop = Ledger(), threading.Event()
    rngs = (random.Random(seed * 1000 + i) for i in range(100))
    proxy = Proxy(server.address, next(rngs))
    broken = [BrokenClient(server.address, next(rngs), stop) for _ in range(2)]
    callers: list[Caller] = [HTTPCaller(server.address, ledger, next(rngs), bad, stop) for _ in range(4)]
    callers += [HTTPCaller(proxy.address, ledger, next(rngs), bad, stop, proxy=proxy) for _ in range(4)]
    callers += [HandleCaller(server.client, ledger, next(rngs), bad, stop) for _ in range(2)]
    threads: list[threading.Thread] = [*callers, *broken]
    for thread in threads:
        thread.start()
    time.sleep(min(1.0, seconds / 10))  # until it is warm
    before = server.figures()
    trouble = Trouble(server, ledger, next(rngs), deaths)
    trouble.run(time.monotonic() + seconds, 0.5)
    stop.set()
    for thread in threads:
        thread.join(2 * PATIENCE)
        if thread.is_alive():
            ledger.lose(f"{type(thread).__name__} got neither an answer nor an error")
    proxy.close()
    server.settle()
    for backend in server.client.status()["backends"]:
        if samples := backend.get("verified", {}).get("samples"):
            ledger.lose(f"{backend['name']}: a query got another answer alone: {samples}")
    return {
        "seconds": seconds, "seed": seed, "sent": ledger.sent, "counts": dict(ledger.counts),
        "refused": dict(ledger.refused), "lost": ledger.lost, "troubles": dict(trouble.done),
        "proxied": dict(proxy.toxics), "broken_clients": dict(sum((b.done for b in broken), Counter())),
        "grown": growth(server, before),
    }  # fmt: skip


def growth(server: Server, before: dict[str, float]) -> dict[str, float]:
    """What is more than before and than is allowed, given a moment to come down."""
    deadline = time.monotonic() + 10
    while True:
        now = server.figures()
        grown = {name: now[name] - before[name] for name in now if now[name] > before[name] + ALLOWED[name]}
        if not grown or time.monotonic() > deadline:
            return grown
        time.sleep(0.2)


def listed(counts: dict[str, int]) -> str:
    """Counts in one line."""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "none"


def table(result: dict[str, Any]) -> str:
    """The result as a table in Markdown."""
    counts = result["counts"]
    rows = [
        ("queries sent", f"{result['sent']:,} in {result['seconds']:.0f} s, seed {result['seed']}"),
        ("answered right, or with the error that was theirs", f"{counts.get('right', 0):,}"),
        ("refused honestly", f"{counts.get('refused', 0):,} ({listed(result['refused'])})"),
        ("given up: two workers ended with them, one from outside", f"{counts.get('given up', 0):,}"),
        ("left by their callers", f"{counts.get('left', 0):,}"),
        ("cut by the proxy", f"{counts.get('cut', 0):,}"),
        ("**lost**", f"**{len(result['lost']):,}**"),
        ("what was done to the server", listed(result["troubles"])),
        ("connections through the proxy", listed(result["proxied"])),
        ("broken clients", listed(result["broken_clients"])),
        (
            "memory, descriptors, goroutines",
            "as before" if not result["grown"] else f"GREW: {result['grown']}",
        ),
    ]
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {text} |\n" for name, text in rows)


def write_report(text: str) -> None:
    """Put the table into the docs."""
    whole = DOCS.read_text()
    head, _, rest = whole.partition(MARKS[0])
    DOCS.write_text(head + MARKS[0] + text + MARKS[1] + rest.partition(MARKS[1])[2])


def main() -> int:
    """Returns the exit status: 1 when a query was lost or something grew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=2.0, help="how long (default 2)")
    parser.add_argument("--seconds", type=float, help="how long, for short runs")
    parser.add_argument(
        "--seed", type=int, default=int(os.environ.get("SHOAL_SEED", "1")), help="of all dice (default 1)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--no-deaths", action="store_true", help="kill no workers")
    parser.add_argument(
        "--bad", type=float, default=0.05, help="the share of queries that do harm (default 0.05)"
    )
    parser.add_argument(
        "--lie", type=float, default=0.0, help="let the model answer this share wrong, to see it found"
    )
    parser.add_argument("--report", action="store_true", help=f"write the result to {DOCS.name}")
    options = parser.parse_args()
    seconds = options.seconds or 60 * options.minutes
    result = chaos(seconds, options.seed, not options.no_deaths, options.bad, options.lie)
    if options.json:
        print(json.dumps(result))
    else:
        print(table(result))
        for line in result["lost"][:20]:
            print(f"  lost: {line}")
    if options.report:
        write_report(table(result))
    return 1 if result["lost"] or result["grown"] else 0


if __name__ == "__main__":
    sys.exit(main())
