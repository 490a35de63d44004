"""What a model is called with, in a real worker process."""

from __future__ import annotations

import asyncio
import json
import threading

import numpy as np
import pytest

import shoal
from shoal import serve
from shoal._request import read_json
from worker_server import RemoteError


def errors(answers):
    return [a.error["type"] if isinstance(a, RemoteError) else a for a in answers]


def test_the_batched_adder_of_the_tutorial(worker):
    @serve.accept_batch
    def adder(requests, *, number=[]):
        assert isinstance(requests, list)
        if serve.context.web:
            number = [int(request.args["number"]) for request in requests]
        array = np.array(number)
        print("Our input array has shape:", array.shape)
        assert serve.context.batch_size == len(requests)
        return (array + 1).tolist()

    server = worker(adder, max_batch_size=4)
    assert server.ready["accepts_batch"] is True
    assert server.ready["source"] == "function"
    assert server.ready["pid"] == server.process.pid
    assert server.web("/adder?number=0", "/adder?number=41") == [1, 42]
    assert server.api({"number": 1}, {"number": 2}, {"number": 3}) == [2, 3, 4]
    status, out, err = server.finish()
    assert (status, err) == (0, "")
    assert out.splitlines() == ["Our input array has shape: (2,)", "Our input array has shape: (3,)"]


def test_an_omitted_keyword_is_none_in_its_own_place(worker):
    @serve.accept_batch
    def model(requests, *, a="default", b="default"):
        return [f"{a} {b}"] * len(requests)

    server = worker(model, max_batch_size=4)
    assert server.api({"a": 1}, {}, {"a": 3})[0] == "[1, None, 3] default"
    assert server.api({}, {})[0] == "default default"
    assert server.api({"a": 1}, {"b": 2})[0] == "[1, None] [None, 2]"


def test_a_keyword_without_a_default_is_a_list_of_none(worker):
    @serve.accept_batch
    def model(requests, *, number):
        return [(serve.context.web, number)] * len(requests)

    server = worker(model, max_batch_size=4)
    assert server.web("/", "/") == [[True, [None, None]]] * 2
    assert server.api({}, {}) == [(False, [None, None])] * 2
    assert server.api({"number": 1}, {}) == [(False, [1, None])] * 2


def test_an_unknown_keyword_hurts_its_own_query_alone(worker):
    @serve.accept_batch
    def model(requests, *, number=None):
        return [n * 10 for n in number]

    server = worker(model, max_batch_size=4)
    first, bad, last = server.api({"number": 1}, {"nubmer": 2}, {"number": 3})
    assert (first, last) == (10, 30)
    assert isinstance(bad.exception, TypeError)
    assert "unexpected keyword argument 'nubmer'" in bad.error["message"]
    assert "did you mean 'number'?" in bad.error["message"]
    assert "adder:v1" in bad.error["message"]
    assert errors(server.api({"x": 1}, {"requests": 2})) == ["TypeError", "TypeError"]


def test_excluded_queries_never_shift_answers(worker):
    @serve.accept_batch
    def model(requests, *, number=None):
        return [1, 2, 3]  # as many as the server expects, but not as many as it was asked

    answers = worker(model, max_batch_size=4).api({"number": 1}, {"oops": 2}, {"number": 3})
    assert errors(answers) == ["WrongAnswerCount", "TypeError", "WrongAnswerCount"]
    assert isinstance(answers[0].exception, shoal.WrongAnswerCount)
    assert "returned 3 answers for a batch of 2" in answers[0].error["message"]


def test_a_payload_that_cannot_be_unpickled_hurts_its_own_query_alone(worker):
    @serve.accept_batch
    def model(requests, *, number=None):
        return number

    good = b"\x80\x05N}\x86."  # (None, {})
    answers = worker(model, max_batch_size=4).api({"number": 1}, b"junk", good)
    assert answers[0] == 1
    assert answers[1].error["type"] == "_pickle.UnpicklingError"
    assert answers[2] is None


def test_var_keywords_take_anything(worker):
    @serve.accept_batch
    def model(requests, **kwargs):
        return [kwargs] * len(requests)

    server = worker(model, max_batch_size=4)
    assert server.api({"a": 1}, {"b": 2})[0] == {"a": [1, None], "b": [None, 2]}
    assert server.web("/") == [{}]


def test_a_function_without_positional_parameters(worker):
    @serve.accept_batch
    def model(*, number=None):
        return [serve.context.batch_size] * serve.context.batch_size

    server = worker(model, max_batch_size=4)
    assert server.web("/", "/") == [2, 2]
    assert server.api({"number": 1}) == [1]


def test_a_single_function_is_called_once_a_query(worker):
    def model(request, *, number=None):
        if serve.context.web:
            number = int(request.args["number"])
        if number == 13:
            raise ValueError("unlucky")
        assert serve.context.batch_size == 1
        return number + 1

    server = worker(model)
    assert server.ready["accepts_batch"] is False
    one, bad, three, missing = server.web("/?number=1", "/?number=13", "/?number=3", "/")
    assert (one, three) == (2, 4)
    assert bad.error["type"] == "ValueError"
    assert bad.error["status"] == 500
    assert missing.error["status"] == 400  # werkzeug's BadRequestKeyError
    assert missing.error["message"] == "the request has no parameter 'number'"
    answers = server.api({"number": 1}, {"number": 13}, {"x": 1}, {"number": 5})
    assert errors(answers) == [2, "ValueError", "TypeError", 6]


def test_a_single_function_without_parameters(worker):
    assert worker(lambda: "hello").web("/", "/") == ["hello", "hello"]


def test_a_class_is_made_once_and_keeps_state(worker):
    class Counter:
        """Counts."""

        def __init__(self, start, *, step=1):
            self.value, self.step = start, step

        @serve.accept_batch
        def __call__(self, requests):
            self.value += self.step * len(requests)
            return [self.value] * len(requests)

        def peek(self, request):
            return self.value

        @serve.accept_batch
        def sizes(self, requests):
            return [len(requests)] * len(requests)

        def _private(self, request):
            return "secret"

    server = worker(Counter, 10, init_kwargs={"step": 2}, max_batch_size=4)
    assert server.ready["source"] == "class"
    assert server.ready["doc"] == "Counts."
    assert server.web("/", "/") == [14, 14]
    assert server.web("/", "/", method="peek") == [14, 14]
    assert server.api({}, {}, {}, method="sizes") == [3, 3, 3]
    for method in ("_private", "__init__", "nothing", "value"):
        with pytest.raises(RemoteError, match=f"no method '{method}'") as caught:
            server.api({}, method=method)
        assert isinstance(caught.value.exception, shoal.InvalidArgument)
        assert caught.value.error["status"] == 400
    assert server.web("/") == [16]


def test_the_mark_on_a_class(worker):
    @serve.accept_batch(max_batch_size=8)
    class Model:
        def __call__(self, requests):
            return [len(requests)] * len(requests)

    server = worker(Model, max_batch_size=8)
    assert server.ready["accepts_batch"] is True
    assert server.web("/", "/") == [2, 2]


def test_a_function_has_no_methods(worker):
    server = worker(lambda request: 1)
    assert server.web("/", method="__call__") == [1]
    with pytest.raises(RemoteError, match="is a function"):
        server.web("/", method="predict")


def test_what_a_web_request_shows(worker):
    def model(request):
        return {
            "method": request.method,
            "path": request.path,
            "query": request.query_string.decode(),
            "args": request.args.to_dict(flat=False),
            "header": request.headers["x-one"],
            "all": request.headers.getlist("X-One"),
            "data": request.data.decode(),
            "json": request.json,
            "id": request.id,
            "text": request.get_data(as_text=True),
            "empty": request.form.to_dict(),
        }

    headers = [("X-One", "1"), ("X-One", "a: b"), ("Content-Type", "application/json")]
    (got,) = worker(model).web(
        "/a%20b?x=1&x=2&y=%C3%A4+b&z", body=b'{"k": [1]}', headers=headers, verb="POST"
    )
    assert got == {
        "method": "POST",
        "path": "/a b",
        "query": "x=1&x=2&y=%C3%A4+b&z",
        "args": {"x": ["1", "2"], "y": ["ä b"], "z": [""]},
        "header": "1",
        "all": ["1", "a: b"],
        "data": '{"k": [1]}',
        "json": {"k": [1]},
        "id": "id-0",
        "text": '{"k": [1]}',
        "empty": {},
    }


def test_forms(worker):
    def model(request):
        return [request.form.to_dict(), {name: f.read().decode() for name, f in request.files.items()}]

    server = worker(model)
    urlencoded = [("Content-Type", "application/x-www-form-urlencoded")]
    assert server.web("/", body=b"a=1&b=x+y", headers=urlencoded) == [[{"a": "1", "b": "x y"}, {}]]
    multipart = (
        b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
        b'--B\r\nContent-Disposition: form-data; name="f"; filename="f.txt"\r\n\r\nhello\r\n--B--\r\n'
    )
    header = [("Content-Type", "multipart/form-data; boundary=B")]
    assert server.web("/", body=multipart, headers=header) == [[{"a": "1"}, {"f": "hello"}]]


def test_a_body_that_is_not_json(worker):
    def model(request):
        return request.get_json(silent=True) if "silent" in request.args else request.json

    server = worker(model)
    (bad,) = server.web("/", body=b'{"a": ')
    assert bad.error["type"] == "BadRequest"
    assert bad.error["status"] == 400
    assert "column" in bad.error["message"]
    assert server.web("/?silent=1", body=b"{") == [None]


def test_what_a_placeholder_shows(worker):
    def model(request, *, number=None):
        try:
            as_json = request.json
        except shoal.BadRequest as exc:
            as_json = str(exc)
        return (
            *(request.method, request.headers.get("x-a"), request.args.to_dict(), number),
            *(as_json, request.form.to_dict(), request.data),
        )

    server = worker(model)
    options = {"method": "POST", "headers": {"X-A": "1"}}
    assert server.api(({"k": [1, 2]}, {"number": [3]}), options=options) == [
        ("POST", "1", {"number": [3]}, [3], {"k": [1, 2]}, {"k": [1, 2]}, {"k": [1, 2]})
    ]
    assert server.api((b"raw", {})) == [
        ("GET", None, {}, None, "the call's data is bytes, not a dict", {}, b"raw")
    ]


def test_json_encoded_api_queries(worker):
    @serve.accept_batch
    def model(requests, *, number=None):
        return [{"n": n, "data": r.data} for n, r in zip(number, requests, strict=True)]

    server = worker(model, max_batch_size=4)
    got = server.json_api({"data": [1], "kwargs": {"number": 5}}, {"kwargs": {"number": 6}})
    assert got == [{"n": 5, "data": [1]}, {"n": 6, "data": None}]


def test_objects_of_a_script_come_back_as_their_own_class(worker):
    def model(request, *, point=None):
        point.x += 1
        return point

    Point = type("Point", (), {"__module__": "__main__"})
    point = Point()
    point.x = 1
    (back,) = worker(model).api({"point": point})
    assert type(back) is Point
    assert back.x == 2


def test_two_batches_at_once(worker):
    class Meet:
        def __init__(self):
            self.barrier = threading.Barrier(2)

        def __call__(self, request):
            self.barrier.wait(20)
            return serve.context.web

    server = worker(Meet, concurrency=2)
    first = server.send(1, [(b"GET / HTTP\nid\n", b"")])
    second = server.send(2, [(b"", b"\x80\x05N}\x86.")])
    got = dict(server.receive_any() for _ in range(2))
    assert got == {first: [True], second: [False]}


def test_async_batches_overlap_up_to_the_limit(worker):
    class Model:
        def __init__(self):
            self.running = self.most = 0
            self.both = asyncio.Event()

        @serve.accept_batch
        async def __call__(self, requests, *, last=None):
            self.running += 1
            self.most = max(self.most, self.running)
            if self.running == 2:
                self.both.set()
            await asyncio.wait_for(self.both.wait(), 20)
            await asyncio.sleep(0)
            self.running -= 1
            return [(serve.context.web, self.most)] * len(requests)

    server = worker(Model, concurrency=2, max_batch_size=4)
    ids = [server.send(1, [(b"GET /\nid\n", b"")] * 2) for _ in range(4)]
    got = dict(server.receive_any() for _ in ids)
    assert got == {i: [[True, 2]] * 2 for i in ids}


def test_an_async_function_for_single_queries(worker):
    async def model(request, *, number=None):
        await asyncio.sleep(0)
        if number == 2:
            raise ValueError("two")
        return number

    assert errors(worker(model).api({"number": 1}, {"number": 2}, {"number": 3})) == [1, "ValueError", 3]


def test_timers_are_exact(worker):
    def model(request):
        with open("/proc/self/timerslack_ns") as slack:
            return int(slack.read())

    assert worker(model).web("/") == [1]


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"1",
            b" 1 ",
            b"1 2",
            b"",
            b" ",
            b"[1, 2",
            b"nope",
            b"NaN",
            b"-Infinity",
            b'{"a": 1, "a": 2}',
            b"1\x00",
        ),
        *(
            b'"\xff"',
            b'"\xed\xa0\x80"',
            b'"\\ud800"',
            b"\xef\xbb\xbf1",
            b"1e999",
            b"1" * 5000,
            b"[" * 100_000,
        ),
        *(
            '{"a": "ä"}'.encode(encoding)
            for encoding in ("utf-8", "utf-16", "utf-16-le", "utf-32-be", "latin-1")
        ),
    ],
)
def test_short_json_is_read_as_json_reads_it(body):
    def outcome(read):
        try:
            return repr(read(body))
        except (ValueError, RecursionError) as exc:
            return str(exc)

    assert outcome(read_json) == outcome(json.loads)
