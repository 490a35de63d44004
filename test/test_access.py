"""Who may do what: API keys and their scopes, over HTTP and through handles, with real workers."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import pytest
from harness import SHOAL, Process, ask, problem, run, until

import shoal
from shoal import serve
from shoal._admin import at
from shoal._deploy import pickle_target

MODEL = """
from shoal import serve

@serve.accept_batch
def double(requests, *, number=None):
    if serve.context.web:
        number = [int(request.args["number"]) for request in requests]
    return [2 * n for n in number]

def caller(request):
    headers = request.headers
    return {"caller": headers.get("Shoal-Caller"), "authorization": headers.get("Authorization")}
"""

ENDPOINTS = """
http: {address: "127.0.0.1:0"}
admin: {address: "http://127.0.0.1:0"}
backends:
  double: {python: "model.py:double"}
  caller: {python: "model.py:caller"}
endpoints:
  double: {route: /double, backend: double}
  caller: {route: /caller, backend: caller, methods: [GET, POST]}
"""


class Key(NamedTuple):
    """A key as `shoal key new` makes it."""

    key: str
    sha256: str


def new_key(name: str, *scopes: str) -> Key:
    made = json.loads(run([SHOAL, "key", "new", name, "--scopes", ",".join(scopes), "--json"]).output)
    return Key(made["key"], made["sha256"])


class Guarded(NamedTuple):
    """A server that wants credentials."""

    process: Process
    http: str
    admin: str
    keys: dict[str, Key]

    def header(self, name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[name].key}"}


GRANTS = {"alice": ["query"], "ci": ["deploy"], "root": ["admin"]}


@contextmanager
def serving(folder: Path, more: str = "") -> Iterator[Guarded]:
    """A server with a key for each of GRANTS, whose config file is extended by more."""
    keys = {name: new_key(name, *scopes) for name, scopes in GRANTS.items()}
    lines = ["auth:", "  keys:"]
    for name, scopes in GRANTS.items():
        lines.append(f'    {name}: {{scopes: [{", ".join(scopes)}], sha256: "{keys[name].sha256}"}}')
    (folder / "model.py").write_text(MODEL)
    (folder / "shoal.yaml").write_text("\n".join(lines) + ENDPOINTS + more)
    with Process([SHOAL, "serve", folder / "shoal.yaml", "--json"]) as process:
        until(lambda: process.lines or process.status is not None, "the server to be ready")
        assert process.lines, process.said
        ready = json.loads(process.lines[0])
        assert ready["ready"], ready
        yield Guarded(process, ready["http_address"], ready["admin_address"], keys)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with serving(tmp_path_factory.mktemp("guarded")) as server:
        yield server


def test_http_wants_a_key_with_the_scope_query(guarded: Guarded) -> None:
    problem(ask(guarded.http, "/double?number=4"), 401, "Unauthorized")
    problem(ask(guarded.http, "/double?number=4", headers={"Authorization": "Bearer x"}), 401, "Unauthorized")
    problem(ask(guarded.http, "/double?number=4", headers=guarded.header("ci")), 403, "Forbidden")
    answer = ask(guarded.http, "/double?number=4", headers=guarded.header("alice"))
    assert (answer.status_code, answer.text) == (200, "8")
    assert ask(guarded.http, "/readyz").status_code == 200


def test_the_model_is_told_the_name_and_not_the_key(guarded: Guarded) -> None:
    headers = {**guarded.header("alice"), "Shoal-Caller": "root"}
    for method in ("GET", "POST"):
        answer = ask(guarded.http, "/caller", method, headers=headers)
        assert answer.json() == {"caller": "alice", "authorization": None}


def test_a_key_to_ask_neither_deploys_nor_reads_logs(guarded: Guarded) -> None:
    client = serve.connect(guarded.admin, guarded.keys["alice"].key)
    assert [e["name"] for e in client.status()["endpoints"]] == ["caller", "double"]
    with pytest.raises(shoal.Forbidden, match="scope deploy"):
        client.create_backend("mine", lambda _: 1)
    with pytest.raises(shoal.Forbidden, match="scope deploy"):
        client.set_traffic("double", {"double": 1.0})
    with pytest.raises(shoal.Forbidden, match="scope deploy"):
        client.list_backends()
    with pytest.raises(shoal.Unauthorized):
        serve.connect(guarded.admin, "made-up")
    logs: list[str | Path] = [SHOAL, "logs", "--server", guarded.admin, "--token"]
    refused = run([*logs, guarded.keys["ci"].key])
    assert (refused.status, "scope admin" in refused.said) == (1, True), refused.said
    assert run([*logs, guarded.keys["root"].key]).status == 0


class Bomb:
    """Unpickling it writes a file: what an attacker would do."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def test_who_may_only_ask_brings_no_code(guarded: Guarded, tmp_path: Path) -> None:
    client = serve.connect(guarded.admin, guarded.keys["alice"].key)
    handle = client.get_handle("double")
    assert handle.remote(number=21).result() == 42
    assert list(handle.map([1, 2, 3], name="number")) == [2, 4, 6]
    with pytest.raises(shoal.InvalidArgument, match="no pickles"):
        handle.remote(number=Bomb(tmp_path / "bomb"))
    # An error of the model is told, and not where its code raised it.
    with pytest.raises(shoal.ModelError, match="unsupported") as caught:
        handle.remote(number=None).result()
    assert not caught.value.traceback
    # A client that does not obey.
    client._open_link().plain = False
    with pytest.raises(shoal.Forbidden, match="pickled"):
        handle.remote(number=Bomb(tmp_path / "bomb")).result()
    assert not (tmp_path / "bomb").exists()
    # The bomb is a real one.
    owner = serve.connect(guarded.admin, guarded.keys["root"].key).get_handle("double")
    with pytest.raises(Exception, match=r"unsupported|TextIO|pickle"):
        owner.remote(number=Bomb(tmp_path / "bomb")).result()
    assert (tmp_path / "bomb").exists()


def test_a_client_that_does_not_trust_its_server_reads_no_pickle(guarded: Guarded) -> None:
    client = serve.connect(guarded.admin, guarded.keys["root"].key, allow_pickle=False)
    handle = client.get_handle("double")
    assert handle.remote(number=21).result() == 42
    with pytest.raises(shoal.InvalidArgument, match="no pickles"):
        handle.remote(number=object())
    with pytest.raises(shoal.ModelError) as caught:
        handle.remote(number=None).result()
    assert caught.value.type == "TypeError"


def test_pickles_can_be_switched_off(tmp_path: Path) -> None:
    with serving(tmp_path, "python: {allow_pickle: false}\n") as server:
        client = serve.connect(server.admin, server.keys["root"].key)
        with pytest.raises(shoal.Forbidden, match="allow_pickle"):
            client.create_backend("mine", lambda _: 1)
        client.deploy("mine", {"kind": "file", "path": str(tmp_path / "model.py"), "object": "caller"}, {})
        handle = client.get_handle("double")
        assert handle.remote(number=21).result() == 42
        with pytest.raises(shoal.InvalidArgument, match="no pickles"):
            handle.remote(number=Bomb(tmp_path / "bomb"))
        client._open_link().plain = False
        with pytest.raises(shoal.Forbidden, match="pickled"):
            handle.remote(number=Bomb(tmp_path / "bomb")).result()
        assert not (tmp_path / "bomb").exists()


def test_changes_are_in_the_audit_log_and_keys_are_nowhere(tmp_path: Path) -> None:
    with serving(tmp_path, "audit: {file: audit.log}\nlog: {level: debug}\n") as server:
        client = serve.connect(server.admin, server.keys["ci"].key)
        client.update_backend_config("double", {"max_batch_size": 4, "env": {"SECRET": "canary-in-env"}})
        shown = json.dumps([client.get_backend_config("double"), client.list_backends(), client.status()])
        assert '"SECRET": "***"' in shown
        assert "canary" not in shown
        ask(server.http, "/double?number=4", headers=server.header("alice"))
        ask(server.http, "/double?number=4", headers={"Authorization": "Bearer canary-made-up"})
        line = json.loads((tmp_path / "audit.log").read_text())
        said = (line["change"], line["name"], line["who"], line["by"], line["result"], line["keys"])
        assert said == ("update backend", "double", "ci", "key", "done", ["env", "max_batch_size"])
    everything = server.process.said + (tmp_path / "audit.log").read_text()
    for secret in ["canary", *(key.key for key in server.keys.values())]:
        assert secret not in everything


INSIDE = """
import os

def inside(request):
    status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
    fds = {int(fd): os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
           if os.path.islink(f"/proc/self/fd/{fd}")}
    return {"uid": os.getuid(), "groups": os.getgroups(), "env": dict(os.environ), "fds": fds,
            "no_new_privs": status["NoNewPrivs"].strip()}
"""


@contextmanager
def inside(folder: Path, config: str, **env: str) -> Iterator[dict[str, Any]]:
    """What a worker finds, in a server with this config and environment."""
    folder.chmod(0o755)
    (folder / "model.py").write_text(INSIDE)
    (folder / "shoal.yaml").write_text(
        f'{config}\nhttp: {{address: "127.0.0.1:0"}}\nadmin: {{address: "unix:admin.sock"}}\n'
        'backends: {inside: {python: "model.py:inside", config: {env: {OWN: mine}}}}\n'
        "endpoints: {inside: {route: /inside, backend: inside}}\n"
    )
    with Process([SHOAL, "serve", folder / "shoal.yaml", "--json"], env=env) as process:
        until(lambda: process.lines or process.status is not None, "the server to be ready")
        assert process.lines, process.said
        ready = json.loads(process.lines[0])
        assert ready["ready"], ready
        yield ask(ready["http_address"], "/inside").json()


@pytest.fixture
def public(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that other users can read."""
    with tempfile.TemporaryDirectory(prefix="shoal-test-") as folder:
        yield Path(folder)


def test_a_worker_gets_no_secrets_of_the_servers(public: Path) -> None:
    secrets = dict.fromkeys(
        ("SHOAL_TOKEN", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "DATABASE_URL"), "canary"
    )
    given = {**secrets, "PASSED": "yes", "OMP_NUM_THREADS": "1"}
    with inside(public, "python: {pass_env: [PASSED]}", **given) as found:
        env = found["env"]
        assert "canary" not in env.values(), env
        assert (env["PASSED"], env["OMP_NUM_THREADS"], env["OWN"]) == ("yes", "1", "mine")
        assert "PATH" in env
        # Its streams, its socket, the pipe of claims and its shared memory; listing them takes one more.
        assert set(found["fds"]) <= {"0", "1", "2", "3", "4", "5", "6"}, found["fds"]
        assert found["no_new_privs"] == "1"


@pytest.fixture
def for_nobody(public: Path) -> str:
    """Config for workers that run as nobody, with a Python that nobody can run."""
    if os.geteuid() != 0:
        pytest.skip("only root can")
    for python in (sys.executable, "/usr/bin/python3"):
        check = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        try:
            found = subprocess.run(check, user="nobody", env={}, check=False, capture_output=True)
        except OSError:
            continue
        if found.returncode == 0:
            shutil.copytree(Path(cloudpickle.__file__).parent, public / "lib" / "cloudpickle")
            return f"python: {{user: nobody, interpreter: {python}, sys_path: [lib]}}"
    pytest.skip("there is no Python that nobody can run")


def test_workers_run_as_another_user(public: Path, for_nobody: str) -> None:
    nobody = pwd.getpwnam("nobody")
    with inside(public, for_nobody) as found:
        assert (found["uid"], found["groups"], found["env"]["HOME"]) == (nobody.pw_uid, [], nobody.pw_dir)


def test_a_pickled_model_runs_as_another_user(public: Path, for_nobody: str) -> None:
    def whoami(_: Any) -> int:
        return os.getuid()

    with inside(public, for_nobody):
        client = serve.connect(f"unix:{public}/admin.sock")
        artifact = client._call("POST", at("artifacts"), pickle_target(whoami, (), {}))
        source = {"kind": "pickle", "digest": artifact["digest"]}
        client._call("PUT", at("backends", "whoami"), {"python": source, "sys_path": [f"{public}/lib"]})
        client.create_endpoint("whoami", backend="whoami")
        assert client.get_handle("whoami").remote().result() == pwd.getpwnam("nobody").pw_uid
