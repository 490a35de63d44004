from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from harness.load import LoadError, ask, check_answers, parse_wrk, run_wrk
from harness.workloads import OPEN_INFERENCE, PLAIN, Case, Exchange

EXCHANGE = PLAIN.exchange(Case(41, 42))
EXCHANGES = [PLAIN.exchange(Case(x, x + 1)) for x in range(512)]

OUTPUT = """\
Running 1s test @ http://127.0.0.1:18102/inference
  1 threads and 64 connections
Requests/sec:  21660.41
Transfer/sec:      3.20MB
SHOAL-BENCH {"requests": 21700, "microseconds": 1001820, "p50_us": 2640, "p90_us": 5000, "p99_us": 6590, "max_us": 9100, \
"wrong": 3, "connect": 1, "read": 2, "write": 4, "timeout": 8}
"""


def test_the_line_of_post_lua_becomes_a_sample() -> None:
    sample = parse_wrk(OUTPUT)
    assert sample.rate == pytest.approx(21660.58, abs=0.01)
    assert (sample.p50_ms, sample.p90_ms, sample.p99_ms, sample.max_ms) == (2.64, 5, 6.59, 9.1)


def test_wrong_answers_and_broken_requests_are_errors() -> None:
    sample = parse_wrk(OUTPUT)
    assert (sample.wrong, sample.broken, sample.errors) == (3, 15, 18)


def test_wrk_without_figures_is_an_error_with_its_last_words() -> None:
    with pytest.raises(LoadError, match="unable to connect"):
        parse_wrk("unable to connect to 127.0.0.1:1 Connection refused\n")
    with pytest.raises(LoadError, match="no output"):
        parse_wrk("")


@contextmanager
def serving(answer: Callable[[str], tuple[int, str]]) -> Iterator[str]:
    """The address of a server that answers the body of each POST."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            status, text = answer(body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def add_one(body: str) -> tuple[int, str]:
    return 200, str(json.loads(body)["x"] + 1)


def shifted(body: str) -> tuple[int, str]:
    """Gives the queries 8 and 9 each other's answers."""
    x = json.loads(body)["x"]
    return 200, str({8: 10, 9: 9}.get(x, x + 1))


def test_ask_returns_the_answer_or_nothing() -> None:
    with serving(add_one) as url:
        assert ask(url, EXCHANGE) == "42"
    assert ask(url, EXCHANGE) is None
    with serving(lambda _: (503, "42")) as url:
        assert ask(url, EXCHANGE) is None


def test_answers_that_belong_to_other_queries_are_found() -> None:
    with serving(add_one) as url:
        assert check_answers(url, EXCHANGES, 64) == 0
    with serving(shifted) as url:
        assert check_answers(url, EXCHANGES, 64) == 2


def test_a_server_that_is_gone_answers_nothing_right() -> None:
    with serving(add_one) as url:
        pass
    assert check_answers(url, EXCHANGES, 64) == 512


def open_inference(body: str) -> tuple[int, str]:
    (x,) = json.loads(body)["inputs"][0]["data"]
    return 200, json.dumps({"id": "7", "outputs": [{"data": [x + 1]}]}, separators=(",", ":"))


def test_an_answer_may_be_a_part_of_the_body() -> None:
    exchanges = [OPEN_INFERENCE.exchange(Case(x, x + 1)) for x in range(64)]
    with serving(open_inference) as url:
        assert check_answers(url, exchanges, 8) == 0
        assert check_answers(url, [OPEN_INFERENCE.exchange(Case(4, 6))], 1) == 1


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
@pytest.mark.parametrize(
    ("answer", "exchange", "all_wrong"),
    [
        (lambda _: (200, "42\n"), EXCHANGE, False),
        (lambda _: (200, "43"), EXCHANGE, True),
        (lambda _: (202, "42"), EXCHANGE, True),
        (open_inference, OPEN_INFERENCE.exchange(Case(41, 42)), False),
        (open_inference, OPEN_INFERENCE.exchange(Case(41, 43)), True),
        (lambda body: (200, str(len(body))), Exchange(bytes(1 << 20), str(1 << 20)), False),
    ],
    ids=[
        "right with a line break",
        "wrong body",
        "another success than 200",
        "a right part",
        "a wrong part",
        "a large query",
    ],
)
def test_wrk_compares_every_answer(
    answer: Callable[[str], tuple[int, str]], exchange: Exchange, all_wrong: bool
) -> None:
    with serving(answer) as url:
        sample = run_wrk("wrk", url, 2, 1, exchange)
    assert sample.requests > 0
    assert sample.wrong == (sample.requests if all_wrong else 0)
    assert sample.broken == 0
