"""The command line: serving a file or a config, and asking a running server."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from harness import EXAMPLES, SHOAL, Process, ask, free_port, load_json, run, until

from shoal import serve

MODEL = """
from shoal import serve

print("the model is loading")

@serve.accept_batch
def adder(requests, *, number=None):
    if serve.context.web:
        number = [int(request.args["number"]) for request in requests]
    print("a batch of", len(number))
    return [n + 1 for n in number]

class Scaler:
    def __init__(self, factor=2, *, offset=0):
        self.factor, self.offset = factor, offset

    def __call__(self, request, *, number=None):
        if serve.context.web:
            number = int(request.args["number"])
        if number < 0:
            raise ValueError("only natural numbers")
        return self.factor * number + self.offset

def single(request):
    return "one at a time"
"""


class Server(Process):
    """`shoal serve` with an HTTP address and an admin socket of its own; ready when it is made."""

    def __init__(self, folder: Path, *arguments: str | Path, cwd: Path | None = None) -> None:
        self.http = f"127.0.0.1:{free_port()}"
        self.admin = f"unix:{folder / 'admin.sock'}"
        command: list[str | Path] = [SHOAL, "serve", "--http", self.http, "--admin", self.admin]
        super().__init__([*command, *arguments], cwd=cwd or folder)
        until(self._ready, "the server to be ready")

    def _ready(self) -> bool:
        assert self.status is None, self.said
        try:
            ready: bool = requests.get(f"http://{self.http}/readyz", timeout=10).ok
        except OSError:
            return False
        return ready and "serving" in self.said

    def cli(self, *arguments: str, json_output: bool = True) -> Any:
        """Run `shoal` with these arguments against this server, and read its JSON."""
        done = run([SHOAL, "--server", self.admin, *(["--json"] if json_output else []), *arguments])
        assert done.status == 0, done.said
        return load_json(done.output) if json_output else done.output

    def fails(self, *arguments: str) -> tuple[int | None, str]:
        done = run([SHOAL, "--server", self.admin, *arguments])
        return done.status, done.said


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with Server(folder, "model.py:adder", "--max-batch-size", "4") as server:
        yield server


def test_a_function_of_a_file_is_served_at_its_name(server: Server) -> None:
    assert ask(server.http, "/adder?number=41").text == "42"
    status = server.cli("status")
    assert [endpoint["route"] for endpoint in status["endpoints"]] == ["/adder"]
    assert status["backends"][0]["config"]["max_batch_size"] == 4
    assert status["http_address"] == server.http
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.said


def test_a_class_and_a_single_function_of_a_file_are_served(folder: Path) -> None:
    with Server(folder, "model.py:Scaler", "--route", "/scale", "--num-replicas", "2") as server:
        assert ask(server.http, "/scale?number=21").text == "42"
        assert len(server.cli("status")["backends"][0]["replicas"]) == 2
    with Server(folder, "model.py:single") as server:
        assert ask(server.http, "/single").text == "one at a time"


def test_a_file_that_deploys_is_run_and_one_that_does_not_serves_what_takes_batches(folder: Path) -> None:
    (folder / "app.py").write_text(
        "from shoal import serve\n"
        "import model\n"
        "serve.init()\n"
        "serve.create_backend('scaler:v1', model.Scaler, 3, offset=1)\n"
        "serve.create_endpoint('scaler', backend='scaler:v1', route='/scaler')\n"
    )
    with Server(folder, "app.py") as server:
        assert ask(server.http, "/scaler?number=2").text == "7"
        assert [b["name"] for b in server.cli("status")["backends"]] == ["scaler:v1"]
    with Server(folder, "model.py") as server:
        assert ask(server.http, "/adder?number=1").text == "2"
        assert [b["name"] for b in server.cli("status")["backends"]] == ["adder"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["model.py:adddr"], 1, ["adddr"]),
        (["absent.py:adder"], 1, ["absent.py"]),
        (["model.py:"], 2, ["model.py:"]),
        (["model.txt"], 2, ["model.txt"]),
        (["broken.py:model"], 1, ["ModuleNotFoundError", "there_is_no_such_module", "broken.py"]),
        (["broken.py"], 1, ["ModuleNotFoundError", "there_is_no_such_module", "broken.py"]),
        (["model.py:single", "--max-batch-size", "4"], 1, ["accept_batch"]),
        (["odd.py:number"], 1, ["odd.py: number is of type int", "a function or a class"]),
        (
            ["odd.py:Empty"],
            1,
            ["odd.py: Empty is a class without a method", "define __call__(self, request)"],
        ),
        (["odd.py:blind"], 1, ["odd.py: blind() is marked with @serve.accept_batch and takes nothing"]),
        (["model.py:adder", "--max-batch-size", "0"], 1, ["max_batch_size"]),
        (["model.py:adder", "--no-such-flag"], 2, ["--no-such-flag", "--help"]),
        (["--http", "300.300.300.300:80"], 1, ["300.300.300.300"]),
    ],
)
def test_what_cannot_be_served_says_why(
    folder: Path, arguments: list[str], status: int, words: list[str]
) -> None:
    (folder / "broken.py").write_text("import there_is_no_such_module\n\ndef model(request): ...\n")
    (folder / "odd.py").write_text(
        "from shoal import serve\n\nnumber = 5\n\nclass Empty: ...\n\n"
        "@serve.accept_batch\ndef blind(): return []\n"
    )
    where = [] if "--http" in arguments else ["--http", "127.0.0.1:0"]
    done = run([SHOAL, "serve", "--admin", f"unix:{folder}/a.sock", *where, *arguments], cwd=folder)
    assert done.status == status, done.said
    for word in words:
        assert word in done.said


GOOD = """
log:
  level: info
backends:
  adder:v1:
    python: model.py:adder
    config: {max_batch_size: 4, timeout: 5s}
  scaler:
    python:
      file: model.py
      object: Scaler
      init_args: [3]
      init_kwargs: {offset: 1}
endpoints:
  adder:
    route: /adder
    methods: [GET]
    traffic: {"adder:v1": 1}
    example:
      query: {number: 1}
  scaler:
    route: /scale
    backend: scaler
"""


def test_a_config_file_is_served_as_it_says_from_any_directory(folder: Path) -> None:
    (folder / "shoal.yaml").write_text(GOOD)
    with Server(folder, folder / "shoal.yaml", cwd=Path("/")) as server:
        assert ask(server.http, "/adder?number=41").text == "42"
        assert ask(server.http, "/scale?number=2").text == "7"
        assert ask(server.http, "/adder?number=1", "POST").status_code == 405
        configs = {b["name"]: b["config"] for b in server.cli("status")["backends"]}
        assert configs["adder:v1"]["max_batch_size"] == 4
        assert configs["adder:v1"]["timeout"] == "5s"


def whole_answer(address: str, request: bytes) -> bytes:
    """What a server says to these bytes, until it closes the connection."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(4096), b""))


def test_the_limits_of_a_config_file_hold(folder: Path) -> None:
    limits = "http: {max_body: 1KiB, max_header: 4KiB, read_header_timeout: 200ms, read_timeout: 1s}\n"
    (folder / "shoal.yaml").write_text(limits + GOOD.replace("methods: [GET]", "methods: [GET, POST]"))
    with Server(folder, "shoal.yaml") as server:
        assert ask(server.http, "/adder?number=1", "POST", data=bytes(1025)).status_code == 413
        assert ask(server.http, "/adder?number=1", "POST", data=bytes(1024)).text == "2"
        assert ask(server.http, "/adder?number=1", headers={"X-Large": "x" * 65536}).status_code == 431
        slow_header = b"GET /adder HTTP/1.1\r\nHost:"
        slow_body = b"POST /adder HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1"
        assert whole_answer(server.http, slow_header)[:12] in (b"", b"HTTP/1.1 408")
        assert whole_answer(server.http, slow_body)[:12] == b"HTTP/1.1 408"
        assert ask(server.http, "/adder?number=1").text == "2"


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        ("max_batch_size: 4", "max_batchsize: 4", ["7:14", "max_batchsize", "max_batch_size"]),
        ("max_batch_size: 4", "max_batch_size: four", ["7:30", "max_batch_size"]),
        ("timeout: 5s", "timeout: 5 parsecs", ["7:42", "parsecs"]),
        ("    route: /scale\n", "    rout: /scale\n", ["22:5", "rout", "route"]),
        ("route: /scale", "route: scale", ["22:12", "scale"]),
        ("    backend: scaler\n", "    backend: scalar\n", ["23:14", "scalar"]),
        ("backends:\n", "backends: [\n", ["shoal.yaml:"]),
        ("route: /scale", "route: /adder", ["/adder"]),
    ],
)
def test_an_error_in_a_config_file_is_said_with_its_place(
    folder: Path, right: str, wrong: str, words: list[str]
) -> None:
    assert GOOD.count(right) == 1
    (folder / "shoal.yaml").write_text(GOOD.replace(right, wrong))
    done = run(
        [SHOAL, "serve", "--http", "127.0.0.1:0", "--admin", f"unix:{folder}/a.sock", "shoal.yaml"],
        cwd=folder,
    )
    assert done.status not in (0, None)
    for word in words:
        assert word in done.said, done.said


def test_all_errors_of_a_config_file_are_said_at_once(folder: Path) -> None:
    text = GOOD.replace("max_batch_size: 4", "max_batchsize: 4").replace("route: /scale", "route: scale")
    (folder / "shoal.yaml").write_text(text)
    done = run([SHOAL, "serve", "shoal.yaml"], cwd=folder)
    assert done.status not in (0, None)
    assert "7:14" in done.said
    assert "22:12" in done.said


def test_query_asks_an_endpoint(server: Server) -> None:
    assert server.cli("query", "adder", "number=41") == 42
    assert server.cli("query", "adder", "number=41", json_output=False).strip() == "42"
    status, said = server.fails("query", "nobody", "number=1")
    assert status == 1
    assert "nobody" in said
    status, said = server.fails("query", "adder", "nubmer=1")
    assert status == 1
    assert "nubmer" in said


def test_logs_show_what_models_print(server: Server) -> None:
    ask(server.http, "/adder?number=1")

    def lines() -> list[dict[str, Any]]:
        done = run([SHOAL, "--server", server.admin, "--json", "logs"])
        assert done.status == 0, done.said
        return [json.loads(line) for line in done.output.splitlines()]

    found = until(lambda: [line for line in lines() if line["line"] == "a batch of 1"], "the model's words")
    assert found[0]["backend"] == "adder"
    assert found[0]["stream"] == "stdout"
    assert any(line["line"] == "the model is loading" for line in lines())
    assert "a batch of 1" in run([SHOAL, "--server", server.admin, "logs"]).output


def test_a_program_can_deploy_to_a_running_server_and_leave(server: Server, folder: Path) -> None:
    program = folder / "program.py"
    program.write_text(
        "from shoal import serve\n"
        "serve.init()\n"
        "serve.create_backend('twice', lambda request: 2 * int(request.args['n']))\n"
        "serve.create_endpoint('twice', backend='twice', route='/twice')\n"
    )
    done = run([sys.executable, program], env={"SHOAL_SERVER": server.admin})
    assert done.status == 0, done.said
    assert ask(server.http, "/twice?n=21").text == "42"
    client = serve.connect(server.admin)
    assert sorted(client.list_endpoints()) == ["adder", "twice"]
    client.shutdown()
    assert ask(server.http, "/twice?n=4").text == "8"


def test_status_is_for_people_too_and_has_no_colour_off_a_terminal(server: Server) -> None:
    text = server.cli("status", json_output=False)
    assert "adder" in text
    assert "\x1b[" not in text
    assert "\x1b[" not in server.said


def test_help_teaches_and_mistakes_lead_to_it() -> None:
    for arguments in (
        [],
        ["--help"],
        ["serve", "--help"],
        ["status", "--help"],
        ["query", "--help"],
        ["logs", "--help"],
    ):
        done = run([SHOAL, *arguments])
        assert done.status == 0
        assert "shoal " in done.output
    assert "shoal serve adder.py:adder" in run([SHOAL, "--help"]).output
    mistake = run([SHOAL, "sevre"])
    assert mistake.status == 2
    assert "serve" in mistake.said


def test_version_is_told() -> None:
    assert run([SHOAL, "version"]).output.strip()
    assert load_json(run([SHOAL, "version", "--json"]).output)["version"]


def test_completions_are_there() -> None:
    for shell in ("bash", "zsh", "fish"):
        done = run([SHOAL, "completion", shell])
        assert done.status == 0
        assert len(done.output) > 200


def test_commands_without_a_server_say_how_to_get_one(tmp_path: Path) -> None:
    done = run([SHOAL, "status"], env={"XDG_RUNTIME_DIR": str(tmp_path)})
    assert done.status == 1
    assert "shoal serve" in done.said
    gone = run([SHOAL, "--server", f"unix:{tmp_path}/gone.sock", "status"])
    assert gone.status == 1
    assert "gone.sock" in gone.said


def test_the_config_schema_is_printed_and_accepts_the_example() -> None:
    schema = load_json(run([SHOAL, "config", "schema"]).output)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert "backends" in schema["properties"]
    checked = run([SHOAL, "config", "check", EXAMPLES / "adder" / "shoal.yaml"])
    assert checked.status == 0, checked.said
