"""The admin side of the SDK, against a fake server, and the checks that need none."""

from __future__ import annotations

import os
import pickle
import stat
import sys
import tempfile
import textwrap
import threading
from datetime import timedelta

import pytest

import shoal
from link_server import LinkServer
from shoal import _address, _server, serve


def single(request):
    return 1


@serve.accept_batch
def batched(requests):
    return requests


@serve.accept_batch(max_batch_size=8, timeout="5s")
class Model:
    def __init__(self, path, scale=1):
        pass

    def __call__(self, requests):
        return requests


def test_create_backend_sends_artifact_and_spec(client, link_server):
    link_server.calls.clear()
    config = {"max_batch_size": 4, "batch_wait_timeout": timedelta(milliseconds=2)}
    client.create_backend("m v1", Model, "weights", scale=2, config=config)
    (_, _, blob), (method, path, spec) = link_server.calls
    target, args, kwargs = pickle.loads(blob)
    assert (target.__name__, args, kwargs) == ("Model", ("weights",), {"scale": 2})
    assert (method, path) == ("PUT", "/v1/backends/m%20v1?replace=false")
    assert spec["python"] == {"kind": "pickle", "digest": "sha256:abc"}
    assert spec["config"] == {"max_batch_size": 4, "batch_wait_timeout": 0.002, "timeout": "5s"}
    assert spec["interpreter"] == sys.executable
    assert spec["cwd"] == os.getcwd()
    assert all(os.path.isabs(entry) for entry in spec["sys_path"])
    client.create_backend("b", single, replace=True)
    assert link_server.calls[-1][1].endswith("?replace=true")
    assert client.deployed == ["m v1", "b"]


@pytest.mark.parametrize(
    ("arguments", "config", "message"),
    [
        ((single, 1), {}, "init arguments are for classes"),
        ((single,), {"max_batch_size": 2}, "accept_batch"),
        ((batched,), {"max_batch_sise": 2}, "did you mean 'max_batch_size'"),
        ((batched,), {"max_concurrent_queries": 2}, "did you mean 'max_concurrent_batches'"),
        ((batched,), {"zzz": 2}, "the keys are max_batch_size"),
        ((batched,), [1], "must be a dict"),
        ((Model,), {}, "missing a required argument: 'path'"),
        ((Model, 1, 2, 3), {}, "too many"),
        ((3,), {}, "a function or a class"),
    ],
)
def test_mistakes_are_told_before_any_call(client, link_server, arguments, config, message):
    link_server.calls.clear()
    with pytest.raises(ValueError, match=message):
        client.create_backend("b", *arguments, config=config)
    assert link_server.calls == []


def test_more_mistakes(client):
    with pytest.raises(shoal.InvalidArgument, match="num_replicas"):
        client.create_backend("b", single, ray_actor_options={"num_cpus": 2})
    with pytest.raises(shoal.InvalidArgument, match="max_queued"):
        client.update_backend_config("b", {"max_queue": 1})
    with pytest.raises(shoal.InvalidArgument, match=r'\["GET"\]'):
        client.create_endpoint("e", backend="b", methods="GET")
    lock = threading.Lock()
    with pytest.raises(shoal.InvalidArgument, match="cannot be sent"):
        client.create_backend("b", lambda request: lock)


def test_a_function_by_value_keeps_its_file_name(client, link_server):
    scale = 2
    client.create_backend("b", lambda request: scale)
    function, _, _ = pickle.loads(next(call[2] for call in link_server.calls if call[1] == "/v1/artifacts"))
    assert function.__code__.co_filename == __file__
    assert function(None) == 2


def test_a_failed_load_shows_the_remote_traceback(client, link_server):
    problem = {
        "code": "LoadFailed",
        "detail": "backend b could not be loaded",
        "traceback": "Traceback: boom",
    }
    link_server.replies["PUT /v1/backends/b"] = (422, problem)
    with pytest.raises(shoal.LoadFailed, match="Traceback: boom") as caught:
        client.create_backend("b", single)
    assert caught.value.traceback == "Traceback: boom"
    assert caught.value.status == 422
    assert client.deployed == []


def test_the_rest_of_the_admin_calls(client, link_server):
    config = {"max_batch_size": 4}
    backend = {"name": "b", "config": config}
    endpoint = {"name": "e", "route": "/e", "methods": ["GET"], "traffic": {"b": 1}, "shadows": {}, "x": 1}
    link_server.replies |= {
        "GET /v1/backends": (200, {"backends": [backend]}),
        "GET /v1/backends/b": (200, backend),
        "PATCH /v1/backends/b/config": (200, backend),
        "GET /v1/endpoints": (200, {"endpoints": [endpoint]}),
        "DELETE /v1/backends/b": (204, None),
        "DELETE /v1/endpoints/e": (204, None),
    }
    link_server.calls.clear()
    assert serve.list_backends() == {"b": config}
    assert serve.get_backend_config("b") == config
    assert serve.update_backend_config("b", {"max_batch_size": 8}) == config
    assert serve.list_endpoints() == {
        "e": {k: endpoint[k] for k in ("route", "methods", "traffic", "shadows")}
    }
    serve.create_endpoint("e", backend="b", route="/e", methods=["GET", "POST"], example={"text": "x"})
    serve.create_endpoint("e2", backend="b")
    serve.set_traffic("e", {"b": 1.0})
    serve.shadow_traffic("e", "b", 0.5)
    serve.delete_endpoint("e")
    serve.delete_backend("b")
    assert serve.status()["version"] == "test"
    assert [call for call in link_server.calls if call[0] != "GET"] == [
        ("PATCH", "/v1/backends/b/config", {"max_batch_size": 8}),
        (
            *("PUT", "/v1/endpoints/e"),
            {"backend": "b", "route": "/e", "methods": ["GET", "POST"], "example": {"text": "x"}},
        ),
        ("PUT", "/v1/endpoints/e2", {"backend": "b", "methods": ["GET"]}),
        ("PUT", "/v1/endpoints/e/traffic", {"b": 1.0}),
        ("PUT", "/v1/endpoints/e/shadow", {"backend": "b", "proportion": 0.5}),
        ("DELETE", "/v1/endpoints/e", b""),
        ("DELETE", "/v1/backends/b", b""),
    ]


def test_typed_admin_errors(client, link_server):
    link_server.replies["GET /v1/endpoints/x"] = (404, {"code": "EndpointNotFound", "detail": "no x"})
    with pytest.raises(shoal.EndpointNotFound, match="no x"):
        client.get_handle("x")
    link_server.replies["GET /v1/backends"] = (502, "proxy says no")
    with pytest.raises(shoal.Error, match="502") as caught:
        client.list_backends()
    assert caught.value.status == 502


def test_connect(link_server, monkeypatch):
    monkeypatch.setenv("SHOAL_SERVER", link_server.address)
    monkeypatch.setenv("SHOAL_TOKEN", "secret")
    try:
        client = serve.init()
        assert client.address == link_server.address
        assert link_server.headers[-1]["authorization"] == "Bearer secret"
        assert serve.init() is client
        assert serve.start() is not client
        assert client.http_address == "127.0.0.1:1"
    finally:
        serve.shutdown()
    with pytest.raises(shoal.Unavailable, match="/nowhere"):
        serve.connect("unix:/nowhere")


def test_init_after_a_shutdown_of_the_client_begins_anew(link_server, monkeypatch):
    monkeypatch.setenv("SHOAL_SERVER", link_server.address)
    client = serve.init()
    client.shutdown()
    try:
        assert serve.init() is not client
        assert serve.status()["version"] == "test"
    finally:
        serve.shutdown()


def test_an_answer_that_is_no_answer_of_the_admin_api_is_an_error(client, link_server):
    link_server.replies["PUT /v1/backends/b"] = (307, "")  # as a proxy sends it
    with pytest.raises(shoal.Error, match="307"):
        client.create_backend("b", single)
    assert "b" not in client.deployed


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_names_that_no_path_can_hold(client, name):
    with pytest.raises(shoal.InvalidArgument, match="cannot be a name"):
        client.create_backend(name, single)
    with pytest.raises(shoal.InvalidArgument, match="cannot be a name"):
        client.get_handle(name)


def test_what_json_does_not_have_is_not_sent(client, link_server):
    link_server.calls.clear()
    for weight in (float("nan"), 1j, object()):
        with pytest.raises(shoal.InvalidArgument, match="cannot be sent"):
            client.set_traffic("adder", {"b": weight})
    assert link_server.calls == []


def test_the_http_front_is_not_the_admin_api(link_server):
    link_server.replies["GET /v1/status"] = (404, {"code": "EndpointNotFound", "detail": "no route"})
    with pytest.raises(shoal.InvalidArgument, match="admin address"):
        serve.connect(link_server.address)


@pytest.mark.parametrize("bad", ["", "unix:", "http://", "http://host", "http://h:x", "http://h:1/p", "h:1"])
def test_bad_addresses(bad):
    with pytest.raises(shoal.InvalidArgument, match="not an address"):
        _address.parse(bad)


def test_good_addresses():
    assert str(_address.parse("http://[::1]:80/")) == "http://[::1]:80"
    assert _address.parse("http://h:1")[1:] == ("h", 1, False)


def test_connect_finds_the_one_server_that_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("SHOAL_SERVER", raising=False)
    folder = tmp_path / "shoal"
    with pytest.raises(shoal.Unavailable, match="no shoal server"):
        serve.connect()
    folder.mkdir()
    (folder / "admin-old.sock").touch()
    with LinkServer(folder / "admin-81.sock") as server:
        assert serve.connect().address == server.address
        with LinkServer(folder / "admin.sock"), pytest.raises(shoal.InvalidArgument, match=r"admin-81\.sock"):
            serve.connect()
    serve.shutdown()


def test_sockets_in_a_folder_that_others_can_write_to_are_not_trusted(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("SHOAL_SERVER", raising=False)
    folder = tmp_path / "shoal"
    folder.mkdir()
    with LinkServer(folder / "admin.sock") as server:
        folder.chmod(0o777)
        with pytest.raises(shoal.Unavailable, match="only you can write to"):
            serve.connect()
        assert server.calls == []
        elsewhere = folder.rename(tmp_path / "elsewhere")
        elsewhere.chmod(0o700)
        folder.symlink_to(elsewhere)
        with pytest.raises(shoal.Unavailable, match="only you can write to"):
            serve.connect()
        assert server.calls == []


FAKE_SERVER = """
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from link_server import LinkServer
arguments = sys.argv[1:]
assert arguments[:2] == ["serve", "--embedded"], arguments
http = arguments[arguments.index("--http") + 1]
print("starting", *arguments, file=sys.stderr, flush=True)
if http.endswith(":1"):
    print("some log line", file=sys.stderr)
    print(json.dumps(dict(ready=False, error="cannot listen on port 1")))
    sys.exit(3)
if http.endswith(":2"):
    Path(os.environ["FAKE_PID"]).write_text(str(os.getpid()))
    os.kill(os.getppid(), signal.SIGINT)
    signal.pause()
if "--detached" in arguments:
    admin = "unix:" + os.environ["XDG_RUNTIME_DIR"] + "/shoal/admin-81.sock"
else:
    admin = arguments[arguments.index("--admin") + 1]
server = LinkServer(admin.removeprefix("unix:")).__enter__()
print("a line before", flush=True)
print(json.dumps(dict(ready=True, http_address=http, admin_address=admin, pid=1)), flush=True)
print("model says hello", flush=True)
if "--detached" in arguments:
    signal.pause()
sys.stdin.read()
print("stopped gracefully", flush=True)
"""


@pytest.fixture
def fake_binary(tmp_path, monkeypatch):
    path = tmp_path / "fake-shoal"
    tests = os.path.dirname(__file__)
    path.write_text(f"#!{sys.executable}\n" + textwrap.dedent(FAKE_SERVER).format(tests=tests))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("SHOAL_BINARY", str(path))
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(tests))
    monkeypatch.delenv("SHOAL_SERVER", raising=False)
    return path


class TestStart:
    def test_start_pumps_and_stops(self, fake_binary, capfd):
        client = serve.start(http_port=0)
        folder = client._process._folder
        assert client.http_address == "127.0.0.1:0"
        assert client.get_handle("adder").remote(number=1).result(20) == 2
        serve.shutdown()
        out, err = capfd.readouterr()
        assert out.splitlines() == ["a line before", "model says hello", "stopped gracefully"]
        assert err.startswith("starting serve --embedded --http 127.0.0.1:0 --admin unix:")
        assert client._process.process.returncode == 0
        assert not os.path.exists(folder)

    def test_a_server_that_does_not_come_up(self, fake_binary):
        with pytest.raises(shoal.Unavailable, match=r"^cannot listen on port 1\n(.|\n)*some log line"):
            serve.start(http_port=1)

    def test_an_interrupted_start_leaves_nothing_behind(self, fake_binary, tmp_path, monkeypatch):
        pid, temp = tmp_path / "pid", tmp_path / "t"
        temp.mkdir()
        monkeypatch.setenv("FAKE_PID", str(pid))
        monkeypatch.setattr(tempfile, "tempdir", str(temp))
        with pytest.raises(KeyboardInterrupt):
            serve.start(http_port=2)
        assert not os.path.exists(f"/proc/{pid.read_text()}")
        assert list(temp.iterdir()) == []

    def test_a_binary_that_cannot_be_run(self, fake_binary, tmp_path, monkeypatch):
        temp = tmp_path / "t"
        temp.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(temp))
        fake_binary.write_bytes(b"neither a script nor a program")
        with pytest.raises(shoal.Unavailable, match=r"fake-shoal cannot be run"):
            serve.start(http_port=0)
        assert list(temp.iterdir()) == []

    def test_no_log_is_written_where_others_can_write(self, fake_binary, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        (tmp_path / "shoal").mkdir()
        (tmp_path / "shoal").chmod(0o777)
        with pytest.raises(shoal.Unavailable, match="only you can write to"):
            serve.start(detached=True, http_port=81)
        assert list((tmp_path / "shoal").iterdir()) == []

    def test_a_detached_server_stays(self, fake_binary, tmp_path, monkeypatch):
        import subprocess

        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        code = (
            "from shoal import serve; client = serve.start(detached=True, http_port=81); "
            "print(client._process.process.pid)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
        pid = int(done.stdout)
        try:
            client = serve.connect()
            assert client.get_handle("adder").remote(number=1).result(20) == 2
            assert "model says hello" in (tmp_path / "shoal" / "server-81.log").read_text()
        finally:
            os.kill(pid, 9)
            serve.shutdown()

    def test_no_binary(self, monkeypatch, tmp_path):
        monkeypatch.delenv("SHOAL_BINARY", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(_server, "__file__", str(tmp_path / "_server.py"))
        with pytest.raises(shoal.Error, match="SHOAL_BINARY"):
            _server.find_binary()
        monkeypatch.setenv("SHOAL_BINARY", "/nowhere")
        with pytest.raises(shoal.Error, match="/nowhere"):
            _server.find_binary()

    @pytest.mark.parametrize("ending", ["pass", "raise ValueError", "os._exit(1)", "os.kill(os.getpid(), 9)"])
    def test_the_server_ends_with_the_program(self, fake_binary, tmp_path, ending):
        import subprocess

        # The output pipe closes only when the program and its server have both ended.
        code = f"import os; from shoal import serve; serve.init(http_port=0); {ending}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
        assert "model says hello" in done.stdout or ending.startswith("os.")
        if ending == "pass":
            assert done.stdout.endswith("stopped gracefully\n")
            assert done.returncode == 0
