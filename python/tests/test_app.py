"""`python -m shoal._app`, against a fake server."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


@pytest.fixture
def app(link_server, tmp_path):
    """Runs a file's text; returns the finished process."""

    def run(text, name="", **env):
        path = tmp_path / "my_app.py"
        path.write_text(textwrap.dedent(text))
        link_server.calls.clear()
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parent.parent),
            "SHOAL_SERVER": link_server.address,
            **env,
        }
        command = [sys.executable, "-m", "shoal._app", f"{path}{name}"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50)

    return run


def puts(link_server):
    return [call for call in link_server.calls if call[0] == "PUT"]


def test_marked_functions_and_classes_are_deployed(app, link_server, tmp_path):
    done = app("""
        from shoal import serve
        from shoal.serve import accept_batch as other_name

        @serve.accept_batch(max_batch_size=16)
        def adder(requests): return requests

        class Digits:
            @serve.accept_batch
            def __call__(self, requests): return requests

        alias = adder
        def helper(x): return x
        @serve.accept_batch
        def _private(requests): return requests
        if __name__ == "__main__":
            print("ran as a program")
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran as a program\n", "")
    path = str(tmp_path / "my_app.py")
    adder, adder_endpoint, digits, digits_endpoint = puts(link_server)
    assert adder[1] == "/v1/backends/adder?replace=true"
    assert adder[2]["python"] == {"kind": "file", "path": path, "object": "adder"}
    assert adder[2]["config"] == {"max_batch_size": 16}
    assert str(tmp_path) in adder[2]["sys_path"]
    assert adder_endpoint[1:] == (
        "/v1/endpoints/adder",
        {"backend": "adder", "route": "/adder", "methods": ["GET", "POST"]},
    )
    assert digits[2]["python"]["object"] == "Digits"
    assert digits_endpoint[2]["route"] == "/Digits"


def test_a_file_that_deploys_itself_is_left_alone(app, link_server):
    done = app("""
        from shoal import serve
        @serve.accept_batch
        def adder(requests): return ["mine"] * len(requests)
        serve.init()
        serve.create_backend("adder:v1", adder)
        serve.shutdown()
    """)
    assert (done.returncode, done.stderr) == (0, "")
    assert [call[1] for call in puts(link_server)] == ["/v1/backends/adder%3Av1?replace=false"]
    (blob,) = (call[2] for call in link_server.calls if call[1] == "/v1/artifacts")
    function, _, _ = pickle.loads(blob)  # by value: this process has no such module
    assert function([1, 2]) == ["mine", "mine"]


def test_one_name(app, link_server):
    text = "def model(request): return 1\ndef other(request): return 2\n"
    assert app(text, ":model").returncode == 0
    assert puts(link_server)[0][2]["python"]["object"] == "model"
    done = app(text, ":nothing")
    assert done.returncode == 2
    assert "'nothing'" in done.stderr


def test_a_file_in_a_folder_with_a_colon(app, link_server, tmp_path):
    odd = tmp_path / "a:b.py:c"
    odd.mkdir()
    (odd / "m.py").write_text("from shoal import serve\n@serve.accept_batch\ndef f(r): return r\n")
    environment = {**os.environ, "SHOAL_SERVER": link_server.address}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    for argument in (f"{odd}/m.py", f"{odd}/m.py:f"):
        link_server.calls.clear()
        command = [sys.executable, "-m", "shoal._app", argument]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50)
        assert (done.returncode, done.stderr) == (0, "")
        source = puts(link_server)[0][2]["python"]
        assert source == {"kind": "file", "path": f"{odd}/m.py", "object": "f"}


def test_a_file_sees_its_own_arguments(app, tmp_path):
    assert app("import sys; print(sys.argv)").stdout == f"['{tmp_path}/my_app.py']\n"


def test_nothing_to_serve(app):
    done = app("x = 1")
    assert done.returncode == 2
    assert "accept_batch" in done.stderr
    assert "my_app.py:NAME" in done.stderr


def test_errors_of_the_file(app, link_server):
    done = app("def f():\n    return 1 / 0\nf()\n")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith("Traceback")
    assert "ZeroDivisionError" in done.stderr
    assert "_app.py" not in done.stderr.replace("my_app.py", "")
    assert app("raise SystemExit(7)").returncode == 7
    assert "SyntaxError" in app("x = = 1").stderr
    problem = {"code": "LoadFailed", "detail": "cannot load", "traceback": "Traceback: the model's"}
    link_server.replies["PUT /v1/backends/f"] = (422, problem)
    done = app("from shoal import serve\n@serve.accept_batch\ndef f(r): return r\n")
    assert done.returncode == 1
    assert "Traceback: the model's" in done.stderr


def test_usage(app, tmp_path):
    assert "SHOAL_SERVER" in app("x = 1", SHOAL_SERVER="").stderr
    assert "no file" in app("x = 1", "x").stderr
