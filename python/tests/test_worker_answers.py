"""What becomes of the answers and errors of a model, in a real worker process."""

from __future__ import annotations

import collections
import dataclasses
import os
import signal
import textwrap
import threading
import time
from http import HTTPStatus

import numpy as np
import pytest

import shoal
from shoal import serve
from worker_server import RemoteError, Response


def returns(value):
    """A batched model that returns value, whatever it is asked."""

    @serve.accept_batch
    def model(requests):
        return value

    return model


def test_json_answers_of_every_kind(worker):
    @dataclasses.dataclass
    class Point:
        x: int
        tags: list

    values = [None, True, 3, -2.5, [1, {"a": "ä"}], (1, 2), {"k": None}, 10**30]
    numpys = [np.int64(4), np.float32(0.5), np.bool_(True), np.arange(3), np.ones((2, 2)), {"a": np.int8(1)}]
    got = worker(returns([*values, *numpys, Point(1, [np.int8(2)])])).web(*["/"] * 15)
    assert got[:8] == [None, True, 3, -2.5, [1, {"a": "ä"}], [1, 2], {"k": None}, 10**30]
    assert got[8:] == [4, 0.5, True, [0, 1, 2], [[1.0, 1.0], [1.0, 1.0]], {"a": 1}, {"x": 1, "tags": [2]}]


def test_text_bytes_and_responses(worker):
    def model(request):
        from werkzeug.wrappers import Response as WerkzeugResponse

        return {
            "text": "grün",
            "bytes": b"\x00\xff",
            "view": memoryview(b"abcd")[::2],
            "array": bytearray(b"x"),
            "json": shoal.Response({"a": 1}, status=201, headers={"X-A": "1"}),
            "plain": shoal.Response("hi"),
            "png": shoal.Response(b"png", content_type="image/png"),
            "werkzeug": WerkzeugResponse("teapot", status=418),
        }[request.args["kind"]]

    kinds = ["text", "bytes", "view", "array", "json", "plain", "png", "werkzeug"]
    got = worker(model).web(*[f"/?kind={kind}" for kind in kinds])
    assert got[:4] == ["grün", b"\x00\xff", b"ac", b"x"]
    one, plain, png, werkzeug = got[4:]
    assert isinstance(one, Response)
    assert (one.status, one.body) == (201, b'{"a": 1}')
    assert one.headers == {"X-A": "1", "Content-Type": "application/json"}
    assert plain.headers["Content-Type"].startswith("text/plain")
    assert (png.headers["Content-Type"], png.body) == ("image/png", b"png")
    assert (werkzeug.status, werkzeug.body) == (418, b"teapot")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"status": 99}, ValueError, "a status is a whole number from 200 to 599, not 99"),
        ({"status": 101}, ValueError, "not 101"),
        ({"status": 600}, ValueError, "not 600"),
        ({"status": "x"}, TypeError, "not 'x' of type str"),
        ({"status": 200.0}, TypeError, "not 200.0 of type float"),
        ({"headers": {"X-A": "a\r\nX-B: b"}}, ValueError, "the header X-A must not hold line breaks"),
        ({"headers": [("X A", "a")]}, ValueError, "'X A' is not the name of a header"),
        ({"content_type": "text/html\n"}, ValueError, "the header Content-Type must not"),
    ],
)
def test_a_response_that_no_client_could_be_given(arguments, error, words):
    with pytest.raises(error, match=words):
        shoal.Response("hi", **arguments)


def test_statuses_of_other_types_are_numbers():
    assert [type(shoal.Response(status=s).status) for s in (HTTPStatus.CREATED, np.int64(201))] == [int, int]


@pytest.mark.parametrize(
    "bad",
    [float("nan"), float("-inf"), [float("nan")], np.float64("nan"), {1, 2}, object(), "\ud800", 1j],
    ids=["nan", "-inf", "[nan]", "numpy nan", "set", "object", "surrogate", "complex"],
)
def test_an_answer_that_cannot_be_encoded_is_an_error_for_that_item_alone(worker, bad):
    first, middle, last = worker(returns([1, bad, 3])).web("/", "/", "/")
    assert (first, last) == (1, 3)
    assert isinstance(middle, RemoteError)
    assert middle.error["type"] in ("ValueError", "TypeError", "UnicodeEncodeError")


def test_exceptions_as_items(worker):
    answers = [1, ValueError("only me"), shoal.Error("busy", status=429, headers={"Retry-After": "1"})]
    server = worker(returns(answers))
    one, own, busy = server.web("/", "/", "/")
    assert one == 1
    assert (own.error["type"], own.error["message"], own.error["status"]) == ("ValueError", "only me", 500)
    assert own.pickled == b""
    assert (busy.error["type"], busy.error["status"]) == ("Error", 429)
    assert busy.error["headers"] == {"Retry-After": "1"}
    _, own, busy = server.api({}, {}, {})
    assert isinstance(own.exception, ValueError)
    assert isinstance(busy.exception, shoal.Error)
    assert busy.exception.status == 429


@pytest.mark.parametrize(
    "result",
    [(1, 2), np.array([1, 2]), collections.deque([1, 2]), range(1, 3), np.array([1.0, 2.0], dtype="f4")],
    ids=["tuple", "array", "deque", "range", "float32"],
)
def test_ordered_sequences_are_answers(worker, result):
    server = worker(returns(result))
    assert server.web("/", "/") == [1, 2]
    assert list(server.api({}, {})) == [1, 2]


def test_a_generator_is_listed(worker):
    @serve.accept_batch
    def model(requests):
        for i, _ in enumerate(requests):
            yield i

    assert worker(model).web("/", "/") == [0, 1]


@pytest.mark.parametrize(
    "result", [{"a": 1}, {1}, "ab", b"ab", None, 7, np.array(1)], ids=lambda r: type(r).__name__
)
def test_anything_else_is_a_type_error_that_names_backend_and_type(worker, result):
    server = worker(returns(result))
    with pytest.raises(RemoteError, match=type(result).__name__) as caught:
        server.web("/")
    assert caught.value.error["type"] == "TypeError"
    assert "'adder:v1'" in caught.value.error["message"]
    with pytest.raises(RemoteError):  # and the worker lives
        server.web("/")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_count_goes_out_as_it_is(worker, count):
    assert worker(returns(list(range(count)))).web("/", "/") == list(range(count))


def test_arrays_for_handles_keep_their_types(worker):
    one, two = worker(returns(np.array([1, 2], dtype="i2"))).api({}, {})
    assert type(one) is np.int16
    assert (one, two) == (1, 2)


def test_big_arrays_travel_both_ways(worker):
    def model(request, *, array=None):
        array += 1  # writable here
        return {"sum": float(array.sum()), "array": array}

    array = np.arange(500_000.0)
    (got,) = worker(model).api({"array": array.copy()})
    assert (got["array"] == array + 1).all()
    assert got["sum"] == (array + 1).sum()
    got["array"][0] = 0  # and there


def test_an_answer_that_cannot_be_pickled(worker):
    @serve.accept_batch
    def model(requests):
        return [1, threading.Lock(), lambda x: x * 2]

    one, bad, function = worker(model).api({}, {}, {})
    assert one == 1
    assert bad.error["type"] == "TypeError"
    assert "lock" in bad.error["message"]
    assert function(4) == 8


def test_an_exception_of_the_batch_has_the_models_traceback_alone(worker):
    @serve.accept_batch
    def model(requests):
        def inner():
            raise KeyError("deep")

        inner()

    server = worker(model)
    with pytest.raises(RemoteError) as caught:
        server.api({}, {})
    error = caught.value
    assert isinstance(error.exception, KeyError)
    assert (error.error["type"], error.error["message"]) == ("KeyError", "'deep'")
    lines = error.error["traceback"].splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "in model" in lines[1]
    assert "in inner" in error.error["traceback"]
    assert "_compute.py" not in error.error["traceback"]
    assert "in the model's process" in str(error.exception.__cause__)
    with pytest.raises(RemoteError) as caught:
        server.web("/")
    assert caught.value.pickled == b""


def test_an_exception_that_cannot_travel_becomes_a_model_error(worker):
    class Odd(Exception):
        def __init__(self, a, b):
            super().__init__(f"{a} {b}")

    def model(request):
        raise Odd(1, 2)

    (bad,) = worker(model).api({})
    assert isinstance(bad.exception, shoal.ModelError)
    assert bad.exception.type.endswith("Odd")
    assert bad.exception.message == "1 2"
    assert "in model" in bad.exception.traceback


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_base_exceptions_do_not_end_the_worker(worker, kind):
    @serve.accept_batch
    def model(requests, *, good=None):
        if not good:
            raise kind("stop")
        return [1]

    server = worker(model)
    with pytest.raises(RemoteError) as caught:
        server.api({})
    assert caught.value.error["type"] == kind.__name__
    assert isinstance(caught.value.exception, shoal.ModelError)  # it must not end the caller either
    assert server.api({"good": 1}) == [1]


def test_errors_with_a_broken_str(worker):
    class Broken(Exception):
        def __str__(self):
            raise RuntimeError

    def model(request):
        raise Broken

    server = worker(model)
    assert "could not be shown" in server.web("/")[0].error["message"]


class TestLoading:
    def test_an_init_that_raises(self, worker):
        class Model:
            def __init__(self, path):
                raise OSError(f"no weights at {path}")

            def __call__(self, request):
                return 1

        server = worker(Model, "/nowhere")
        assert server.failed["type"] == "OSError"
        assert server.failed["message"] == "no weights at /nowhere"
        assert "in __init__" in server.failed["traceback"]
        assert "_load.py" not in server.failed["traceback"]
        assert server.process.wait(20) == 1

    def test_an_init_that_exits(self, worker):
        class Model:
            def __init__(self):
                raise SystemExit(3)

            def __call__(self, request):
                return 1

        assert worker(Model).failed["type"] == "SystemExit"

    def test_batches_need_the_mark(self, worker):
        server = worker(lambda request: 1, max_batch_size=2)
        assert server.failed["type"] == "ValueError"
        assert "accept_batch" in server.failed["message"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("model = 5", "{path}: model is of type int; a backend is a function or a class"),
            ("import json as model", "{path}: model is of type module; a backend is"),
            (
                "class model: pass",
                "{path}: model is a class without a method that a query could be given to: define",
            ),
            (
                "class model:\n def _f(self): pass\n x = property(print)",
                "{path}: model is a class without a method that a query could be given to: define",
            ),
            ("@accept_batch\ndef model(): return []", "{path}: model() is marked with @serve.accept_batch"),
            (
                "class model:\n @accept_batch\n def __call__(self): return []",
                "as in (self, requests), or a list for each keyword, as in (self, *, number)",
            ),
            ("@accept_batch\nclass model:\n def __call__(self): return []", "as in (self, requests), or"),
            (
                "class model:\n @accept_batch\n def other(self): return []",
                "{path}: model.other() is marked with",
            ),
            (
                "class model:\n @staticmethod\n @accept_batch\n def other(): return []",
                "it takes a list of requests, as in (requests), or",
            ),
        ],
    )
    def test_what_no_query_can_be_given_to(self, worker, tmp_path, text, message):
        path = tmp_path / "app.py"
        path.write_text(f"from shoal.serve import accept_batch\n{text}")
        server = worker(source={"kind": "file", "path": str(path), "object": "model"}, max_batch_size=4)
        assert server.failed["type"] == "TypeError"
        assert message.format(path=path) in server.failed["message"]

    def test_what_was_deployed_from_python_is_named_without_a_file(self, worker):
        class Empty:
            pass

        assert "Empty is a class without a method" in worker(Empty).failed["message"]

    def test_a_class_without_call_answers_queries_that_name_a_method(self, worker):
        class Model:
            def double(self, request, *, n=0):
                return 2 * n

            def _hidden(self, request):
                raise AssertionError

        server = worker(Model)
        assert server.ready["source"] == "class"
        assert server.api({"n": 4}, method="double") == [8]
        with pytest.raises(
            RemoteError, match="no method '__call__'; a query may name one of double"
        ) as caught:
            server.web("/")
        assert caught.value.error["status"] == 400

    def test_a_batched_function_of_keywords_alone_is_one(self, worker):
        @serve.accept_batch
        def model(*, n):
            return n

        assert worker(model).api({"n": 4}, {"n": 5}) == [4, 5]

    def test_a_batched_function_behind_a_plain_decorator_is_one(self, worker):
        def inner(*args):
            return list(args[0])

        assert len(worker(serve.accept_batch(inner)).web("/", "/")) == 2

    def test_a_function_without_parameters_that_takes_single_queries_is_one(self, worker):
        assert worker(lambda: 3).web("/", "/") == [3, 3]

    def test_another_protocol(self, worker):
        assert "protocol 1" in worker(lambda request: 1, protocol=1).failed["message"]

    def test_a_file(self, worker, tmp_path):
        path = tmp_path / "my_app.py"
        path.write_text(
            textwrap.dedent("""
            import helper_of_app
            assert __name__ == "my_app"

            class Adder:
                def __init__(self, step, *, base=0):
                    self.add = step + base
                def __call__(self, request, *, number=None):
                    return Answer(number + self.add + helper_of_app.ZERO)

            class Answer:
                def __init__(self, value):
                    self.value = value
            """)
        )
        (tmp_path / "helper_of_app.py").write_text("ZERO = 0")
        source = {"kind": "file", "path": str(path), "object": "Adder", "init_args": [2]}
        server = worker(source=source | {"init_kwargs": {"base": 10}})
        assert server.ready["source"] == "class"
        (payload,) = server.json_api({"kwargs": {"number": 1}})
        assert payload.error["type"] == "TypeError"
        assert "Answer has no form in JSON" in payload.error["message"]

    def test_a_file_without_that_object(self, worker, tmp_path):
        (tmp_path / "app.py").write_text("x = 1")
        source = {"kind": "file", "path": str(tmp_path / "app.py"), "object": "Adder"}
        assert "defines no 'Adder'" in worker(source=source).failed["message"]

    def test_a_file_that_does_not_compile(self, worker, tmp_path):
        (tmp_path / "app.py").write_text("x = = 1")
        source = {"kind": "file", "path": str(tmp_path / "app.py"), "object": "Adder"}
        failed = worker(source=source).failed
        assert failed["type"] == "SyntaxError"
        assert "x = = 1" in failed["traceback"]

    def test_sys_path_and_cwd(self, worker, tmp_path):
        (tmp_path / "only_here.py").write_text("VALUE = 5")

        def model(request):
            import only_here

            return [only_here.VALUE, os.getcwd()]

        server = worker(model, sys_path=[str(tmp_path)], cwd=str(tmp_path))
        assert server.web("/") == [[5, str(tmp_path)]]


class TestLife:
    def test_output_goes_out_line_by_line(self, worker):
        def model(request):
            import sys

            print("to stdout")
            print("to stderr", file=sys.stderr)
            return 1

        server = worker(model)
        server.web("/")
        assert server.process.stdout.readline() == "to stdout\n"
        assert server.process.stderr.readline() == "to stderr\n"

    def test_sigint_is_the_servers_business(self, worker):
        server = worker(lambda request: 1)
        assert server.ready
        server.process.send_signal(signal.SIGINT)
        assert server.web("/") == [1]

    def test_sigterm_ends_it(self, worker):
        server = worker(lambda request: 1)
        assert server.ready
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == -signal.SIGTERM

    def test_it_finishes_what_it_computes_when_the_server_closes_its_half(self, worker):
        server = worker(lambda request: 7, concurrency=3)
        batch = server.send(1, [(b"GET /\nid\n", b"")])
        server.sock.shutdown(1)
        assert server.receive(batch) == [7]
        assert server.process.wait(20) == 0

    def test_it_does_not_outlive_its_server(self, worker):
        def model(request):
            print("computing")
            time.sleep(600)

        server = worker(model)
        server.send(1, [(b"GET /\nid\n", b"")])
        assert server.process.stdout.readline() == "computing\n"
        server.sock.close()
        assert server.process.wait(20) == 1

    def test_a_thread_that_a_model_left_behind_does_not_keep_it(self, worker):
        class Model:
            def __init__(self):
                threading.Thread(target=time.sleep, args=(600,)).start()

            def __call__(self, request):
                return 1

        server = worker(Model)
        assert server.web("/") == [1]
        server.sock.close()
        assert server.process.wait(20) == 1

    def test_children_of_a_model_do_not_hold_the_connection(self, worker):
        def model(request):
            import subprocess

            return subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL).pid

        server = worker(model)
        (child,) = server.web("/")
        os.kill(server.process.pid, signal.SIGKILL)
        try:
            assert server.reader.read() is None  # end of file, although the child lives
        finally:
            os.kill(child, signal.SIGKILL)
