"""Everything that can change while queries run, under continuous load: no query may fail."""

from __future__ import annotations

import os
import pty
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import (
    SHOAL,
    Keeper,
    Load,
    Loads,
    Process,
    alive,
    ask,
    backend,
    deploy,
    run,
    sizes,
    until,
    wait_for_another_request,
)
from models import Journal

import shoal
from shoal import serve

MODEL = """
from shoal import serve

VERSION = {version!r}

@serve.accept_batch
def model(requests, *, number=None):
    if serve.context.web:
        number = [int(request.args["number"]) for request in requests]
    return [[VERSION, n] for n in number]
"""


class Folder:
    """A config file and its model, and a server of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version("v1")
        self.config()

    def version(self, version: str) -> None:
        (self.path / "model.py").write_text(MODEL.format(version=version))

    def last(self) -> None:
        self.version("v3")
        self.config()

    def config(self, config: str = "{}", traffic: str = "{m: 1}", more: str = "") -> None:
        (self.path / "shoal.yaml").write_text(
            f"backends:\n  m: {{python: model.py:model, config: {config}}}\n{more}"
            f"endpoints:\n  m: {{route: /m, traffic: {traffic}}}\n"
        )


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def serving(file: str, path: Path) -> Process:
    return Process(
        [SHOAL, "serve", "--http", "127.0.0.1:0", "--admin", f"unix:{path}/a.sock", file], cwd=path
    )


def connect(server: Process, path: Path) -> serve.Client:
    said(server, "serving")
    return serve.connect(f"unix:{path}/a.sock")


def said(server: Process, words: str) -> None:
    until(lambda: words in server.said, f"the server to say {words!r}")


def reloaded(server: Process, times: int) -> None:
    until(lambda: server.said.count('"msg":"reloaded"') == times, f"reload {times}: {server.said}")


def test_sighup_changes_everything_in_the_file_without_a_failed_query(folder: Folder) -> None:
    other = "  other: {python: {file: model.py, object: model}}\n"
    with serving("shoal.yaml", folder.path) as server:
        client = connect(server, folder.path)
        with Loads(client, "m") as load:
            changes: tuple[Callable[[], object], ...] = (
                lambda: folder.version("v2"),
                lambda: folder.config("{num_replicas: 3, max_batch_size: 2}"),
                lambda: folder.config("{num_replicas: 1}", "{m: 0.5, other: 0.5}", other),
                lambda: folder.config("{env: {A: b}}", "{other: 1}", other),
                folder.last,
            )
            for i, change in enumerate(changes, 1):
                load.more(20)
                change()
                server.signal(signal.SIGHUP)
                reloaded(server, i)
            marks = load.marks
            load.more(20)
        assert load.errors == []
        assert set(load.versions(marks)) == {"v3"}
        assert list(client.list_backends()) == ["m"]
        client.shutdown()


def test_sighup_with_a_wrong_file_changes_nothing(folder: Folder) -> None:
    with serving("shoal.yaml", folder.path) as server:
        client = connect(server, folder.path)
        with Loads(client, "m") as load:
            load.more(20)
            for wrong, complaint in (
                ("{max_batchsize: 1}", "did you mean"),
                ("{num_replicas: 0}", "must be at least 1"),
                ("{env: {A: 1}}", "must be a text"),
            ):
                folder.config(wrong)
                server.signal(signal.SIGHUP)
                said(server, complaint)
            (folder.path / "model.py").write_text("raise RuntimeError('no weights')\n")
            folder.config()
            server.signal(signal.SIGHUP)
            said(server, "no weights")
            load.more(20)
        assert load.errors == []
        assert set(load.versions()) == {"v1"}
        assert '"msg":"reloaded"' not in server.said
        client.shutdown()


APP = """
from model import model
from shoal import serve

serve.init()
serve.create_backend("m", model)
serve.create_endpoint("m", backend="m", route="/m", methods=["GET"])
"""


@pytest.mark.parametrize("file", ["app.py", "model.py:model"])
def test_sighup_deploys_a_python_file_anew(folder: Folder, file: str) -> None:
    (folder.path / "app.py").write_text(APP)
    endpoint = "m" if file == "app.py" else "model"
    with serving(file, folder.path) as server:
        client = connect(server, folder.path)
        with Loads(client, endpoint) as load:
            load.more(20)
            folder.version("v2")
            server.signal(signal.SIGHUP)
            reloaded(server, 1)
            marks = load.marks
            load.more(20)
        assert load.errors == []
        assert set(load.versions(marks)) == {"v2"}
        client.shutdown()


def test_a_server_behind_a_load_balancer_stops_without_a_failed_query(folder: Folder) -> None:
    """The load balancer notices only when it next asks /readyz, and sends queries until then."""
    config = folder.path / "shoal.yaml"
    config.write_text("http: {shutdown_delay: 1h}\n" + config.read_text())
    with serving("shoal.yaml", folder.path) as server:
        client = connect(server, folder.path)
        until(lambda: ask(client, "/readyz").status_code == 200, "the server to be ready")
        with Loads(client, "m") as load:
            load.more(50)
            server.signal(signal.SIGTERM)
            until(lambda: ask(client, "/readyz").status_code == 503, "the server to say that it is to stop")
            load.more(200)
        assert load.errors == []
        client.shutdown()
        assert server.status is None
        wait_for_another_request()
        server.signal(signal.SIGTERM)
        assert server.wait(30) == 0


@pytest.mark.parametrize("nohup", [False, True])
def test_a_server_stops_when_its_terminal_is_closed(folder: Folder, nohup: bool) -> None:
    """Unless it was started with nohup; either way the terminal's end is no reload."""
    ready = folder.path / "ready"
    pid, terminal = pty.fork()
    if pid == 0:
        if nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        output = os.open(ready, os.O_CREAT | os.O_WRONLY)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(folder.path)
        arguments = ["serve", "--json", "--http", "127.0.0.1:0", "--admin", f"unix:{folder.path}/a.sock"]
        os.execv(SHOAL, [str(SHOAL), *arguments, "shoal.yaml"])
    try:
        until(lambda: ready.exists() and '"ready":true' in ready.read_text(), "the server to be up")
        os.close(terminal)
        if nohup:
            time.sleep(0.2)  # it cannot be waited for that nothing happens
            assert alive(pid)
            client = serve.connect(f"unix:{folder.path}/a.sock")
            assert client.status()["ready"]
            client.shutdown()
            os.kill(pid, signal.SIGTERM)
        _, status = os.waitpid(pid, 0)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    assert os.waitstatus_to_exitcode(status) == 0, ready.read_text()
    assert ("the terminal was closed" in ready.read_text()) is not nohup
    assert '"msg":"reloaded"' not in ready.read_text()


def test_shoal_reload_says_what_it_did(folder: Folder) -> None:
    with serving("shoal.yaml", folder.path) as server:
        client = connect(server, folder.path)
        client.shutdown()
        folder.version("v2")
        done = run([SHOAL, "--server", f"unix:{folder.path}/a.sock", "reload"])
        assert done.output == "deployed: m\n", done.said


CHANGES: tuple[dict[str, Any], ...] = (
    {"max_batch_size": 16},
    {"max_batch_size": 1},
    {"batch_wait_timeout": "2ms", "max_batch_size": 8},
    {"batch_wait_timeout": 0},
    {"latency_slo": "100ms"},
    {"leave_at_once": True},
    {"num_replicas": 3},
    {"num_replicas": 1},
    {"max_replicas": 2, "scale_up_queue_time": "1ms", "scale_down_delay": "1s"},
    {"max_queued": 100, "max_queued_bytes": "1MiB"},
    {"max_concurrent_batches": 2},
    {"timeout": "20s"},
    {"env": {"A": "b"}},
    {"expose_traceback": True},
    {"batch_timeout": "10s", "heartbeat_timeout": "10s"},
    {"idle_timeout": "1h"},
    {"memory_limit": "1GiB"},
    {"cpu_time_limit": "1h", "open_files_limit": 256},
    {"warm_up": {"requests": [{"query": {"number": 1}}]}},
    {"queue_time_target": "5s"},
    {"compute_late": True},
    {"caller_weights": {"gold": 4, "*": 1}},
    {"isolate_callers": True},
    {"on_batch_error": "fail"},
    {"on_batch_error": "isolate", "max_batch_size": 32},
)


def test_no_key_of_a_config_loses_a_query_when_it_changes(folder: Folder) -> None:
    with serving("shoal.yaml", folder.path) as server:
        client = connect(server, folder.path)
        with Loads(client, "m") as load:
            for change in CHANGES:
                load.more(20)
                client.update_backend_config("m", change)
                assert load.errors == [], change
            load.more(20)
        assert load.errors == []
        client.shutdown()


def test_workers_are_recycled_without_a_failed_query(folder: Folder) -> None:
    folder.config("{num_replicas: 2, max_batch_size: 2, recycle_after: 20}")
    with serving("shoal.yaml", folder.path) as server:
        client = connect(server, folder.path)
        first = {replica["pid"] for replica in backend(client, "m")["replicas"]}

        def fresh() -> bool:
            return not first & {replica["pid"] for replica in backend(client, "m")["replicas"]}

        with Loads(client, "m") as load:
            until(fresh, "all workers to be recycled")
            load.more(20)
        assert load.errors == []
        assert set(backend(client, "m")["restart_reasons"]) == {"recycle"}
        client.shutdown()


CROWDED = (
    MODEL
    + """
# Several workers that live at a time leave their marks.
import os, pathlib
here = pathlib.Path(__file__).parent / "workers"
here.mkdir(exist_ok=True)

def lives(pid):
    try:
        return "shoal._worker" in pathlib.Path(f"/proc/{{pid}}/cmdline").read_text()
    except OSError:
        return False

(here / str(os.getpid())).touch()
live = sum(lives(mark.name) for mark in here.iterdir())
with open(here.parent / "most", "a") as most:
    print(live, file=most)
if {broken}:
    raise RuntimeError("no weights")
"""
)


@pytest.mark.parametrize(("replicas", "surge", "most"), [(1, 0, 1), (2, 0, 2), (2, 1, 3)])
def test_a_version_takes_over_within_max_surge_and_loses_no_query(
    folder: Folder, replicas: int, surge: int, most: int
) -> None:
    def version(name: str, broken: bool = False) -> None:
        """In a file of its own: the old version may have to be started again."""
        (folder.path / f"{name}.py").write_text(CROWDED.format(version=name, broken=broken))
        config = f"{{num_replicas: {replicas}, max_surge: {surge}}}"
        (folder.path / "shoal.yaml").write_text(
            f"backends: {{m: {{python: {name}.py:model, config: {config}}}}}\n"
            "endpoints: {m: {route: /m, backend: m}}\n"
        )

    version("v1")
    with serving("shoal.yaml", folder.path) as server:
        client = connect(server, folder.path)
        with Loads(client, "m") as load:
            load.more(20)
            version("v2", broken=True)
            server.signal(signal.SIGHUP)
            said(server, "no weights")
            load.more(20)
            assert set(load.versions()) == {"v1"}
            version("v2")
            server.signal(signal.SIGHUP)
            reloaded(server, 1)
            marks = load.marks
            load.more(20)
            assert set(load.versions(marks)) == {"v2"}
            client.update_backend_config("m", {"env": {"A": "b"}})
            load.more(20)
        assert load.errors == []
        client.shutdown()
    assert max(int(line) for line in (folder.path / "most").read_text().split()) <= most


class Lazy:
    """A model that prepares for each batch size when it first sees it, which takes its time."""

    def __init__(self, journal: Journal, version: str) -> None:
        self._journal = journal
        self._version = version
        self._ready: set[int] = set()

    @serve.accept_batch
    def __call__(self, requests: list[Any], *, number: Any = None) -> list[list[Any]]:
        if serve.context.web:
            number = [int(request.args["number"]) for request in requests]
        if len(requests) not in self._ready:
            live = any(n >= 0 for n in number)
            self._journal.add([self._version, len(requests), live])
            time.sleep(0.05)
            self._ready.add(len(requests))
        return [[self._version, n] for n in number]


@pytest.mark.parametrize("request_", [{"query": {"number": -1}}, {"kwargs": {"number": -1}}])
def test_no_query_meets_a_model_that_is_not_warmed_up_for_its_batch_size(
    client: serve.Client, journal: Journal, request_: dict[str, Any]
) -> None:
    config = {"max_batch_size": 6, "warm_up": {"requests": [request_], "every_size": True}}
    client.create_backend("m", Lazy, journal, "v1", config=config)
    client.create_endpoint("m", backend="m", route="/m")
    with Loads(client, "m") as load:
        load.more(20)
        client.create_backend("m", Lazy, journal, "v2", config=config, replace=True)
        load.more(20)
        client.update_backend_config("m", {"num_replicas": 2})
        load.more(20)
    assert load.errors == []
    assert journal.entries() == [
        [version, size, False] for version in ("v1", "v2", "v2") for size in range(1, 7)
    ]
    answered = load.versions()
    assert sum(size * count for size, count in sizes(client, "m").items()) == answered["v2"]


class Picky:
    """A model whose new version cannot compute batches of four."""

    def __init__(self, version: str) -> None:
        self._version = version

    @serve.accept_batch
    def __call__(self, requests: list[Any]) -> list[str]:
        if self._version == "v2" and len(requests) == 4:
            raise MemoryError("no room on the device")
        return [self._version] * len(requests)


def test_a_version_that_fails_its_warm_up_gets_no_query_and_the_old_one_stays(client: serve.Client) -> None:
    client.create_backend("m", Picky, "v1", config={"max_batch_size": 8})
    client.create_endpoint("m", backend="m", route="/m", example={"query": {"number": 1}})
    before = backend(client, "m")["replicas"]
    with pytest.raises(shoal.LoadFailed) as failed:
        client.create_backend("m", Picky, "v2", config={"max_batch_size": 8}, replace=True)
    assert "its warm-up failed at batch size 4: MemoryError: no room on the device" in str(failed.value)
    assert "in __call__" in failed.value.traceback
    assert ask(client, "/m").text == "v1"
    assert backend(client, "m")["replicas"] == before


def test_a_model_of_arrays_is_warmed_up(client: serve.Client, journal: Journal) -> None:
    @serve.accept_batch(arrays=True)
    def double(x: Any) -> Any:
        journal.add(list(x.shape))
        return x * 2

    warm_up = {"requests": [{"json": {"x": [1.0, 2.0, 3.0]}}], "batch_sizes": [1, 4]}
    deploy(client, "double", double, max_batch_size=4, warm_up=warm_up)
    assert journal.entries() == [[1, 3], [4, 3]]
    assert ask(client, "/double", "POST", json={"x": [1.0, 2.0, 3.0]}).json() == [2.0, 4.0, 6.0]


class Version:
    """A model that answers with a number and fails for a part of the queries."""

    def __init__(self, version: str, score: float = 0.5, broken: bool = False) -> None:
        self._version, self._score, self._broken = version, score, broken

    def __call__(self, request: Any) -> dict[str, Any]:
        if self._broken and serve.context.web:
            raise RuntimeError("broken")
        return {"version": self._version, "score": self._score}


@pytest.fixture
def v1(client: serve.Client) -> None:
    client.create_backend("m:v1", Version, "v1")
    client.create_endpoint("m", backend="m:v1", route="/m")


def over(client: serve.Client) -> dict[str, Any]:
    """The canary once it has ended."""
    until(lambda: (client.canary("m") or {})["state"] not in ("comparing", "shifting"), "the canary to end")
    return client.canary("m") or {}


def traffic(client: serve.Client) -> dict[str, float]:
    shares: dict[str, float] = client.list_endpoints()["m"]["traffic"]
    return shares


@pytest.mark.usefixtures("v1")
def test_a_canary_is_compared_takes_over_and_loses_no_query(client: serve.Client) -> None:
    client.create_backend("m:v2", Version, "v2", 0.5000001)
    keeper = Keeper(client.http_address)
    with Load(lambda _: keeper.get("/m"), 4) as load:
        compare = {"ignore": ["version"]}
        options = {"steps": [0.3], "step_time": 0.2, "min_queries": 10, "min_compared": 20}
        client.start_canary("m", "m:v2", compare=compare, **options)
        ended = over(client)
        load.more(10)
    assert ended["state"] == "promoted", ended
    assert ended["comparison"]["different"] == 0
    assert ended["comparison"]["compared"] >= 20
    assert traffic(client) == {"m:v2": 1}
    assert load.errors == {}
    assert {status for status, _ in load.answers.values()} == {200}


@pytest.mark.usefixtures("v1")
def test_a_canary_that_answers_differently_gets_no_traffic(client: serve.Client) -> None:
    client.create_backend("m:v2", Version, "v1", 0.6)
    keeper = Keeper(client.http_address)
    with Load(lambda _: keeper.get("/m"), 4) as load:
        client.start_canary("m", "m:v2", compare={"tolerance": 0.01}, step_time=0.2)
        ended = over(client)
    assert ended["state"] == "rolled_back", ended
    assert "score: 0.5, and 0.6" in ended["reason"]
    assert ended["canary"]["queries"] == 0
    assert traffic(client) == {"m:v1": 1}
    assert load.errors == {}
    assert b"0.6" not in b"".join(body for _, body in load.answers.values())


@pytest.mark.usefixtures("v1")
def test_a_canary_whose_queries_fail_is_turned_back(client: serve.Client) -> None:
    client.create_backend("m:v2", Version, "v2", 0.5, True)
    keeper = Keeper(client.http_address)
    with Load(lambda _: keeper.get("/m"), 4) as load:
        client.start_canary("m", "m:v2", steps=[0.3], step_time="1h")
        ended = over(client)
        mark = load.mark + 4  # beyond those that are under way
        load.more(50)
    assert ended["state"] == "rolled_back", ended
    assert "queries failed" in ended["reason"]
    assert traffic(client) == {"m:v1": 1}
    assert {status for status, _ in load.since(mark)} == {200}
    said = run([SHOAL, "--server", client.address, "canary", "status", "m"])
    assert said.output.startswith("m:v2: rolled_back"), said.said


def test_a_canary_in_the_config_file_survives_reloads_and_loses_no_query(folder: Folder) -> None:
    def declare(version: str, steps: str, step_time: str) -> None:
        canary = f"{{backend: {version}, steps: {steps}, step_time: {step_time}, min_queries: 5}}"
        (folder.path / "shoal.yaml").write_text(
            "backends:\n  v1: {python: model.py:model}\n"
            "  v2: {python: v2.py:model}\n  v3: {python: v2.py:model}\n"
            f"endpoints: {{m: {{route: /m, backend: v1, canary: {canary}}}}}\n"
        )

    (folder.path / "v2.py").write_text(MODEL.format(version="v2"))
    declare("v2", "[0.5]", "1h")
    with serving("shoal.yaml", folder.path) as server:
        client = connect(server, folder.path)
        with Loads(client, "m") as load:
            load.more(50)
            assert set(load.versions()) == {"v1", "v2"}
            server.signal(signal.SIGHUP)
            reloaded(server, 1)
            assert (client.canary("m") or {})["state"] == "shifting"
            assert traffic(client) == {"v1": 0.5, "v2": 0.5}
            declare("v3", "[0.5]", "100ms")
            server.signal(signal.SIGHUP)
            reloaded(server, 2)
            assert over(client)["state"] == "promoted"
            server.signal(signal.SIGHUP)
            reloaded(server, 3)
            assert traffic(client) == {"v3": 1}
            load.more(50)
        assert load.errors == []
        client.shutdown()
