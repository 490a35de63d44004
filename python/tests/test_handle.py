"""Handles and the link, against a fake server."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import os
import pickle
import struct
import threading
from datetime import timedelta

import numpy as np
import pytest

import shoal
from link_server import fault
from shoal import _link, serve


@pytest.fixture
def handle(client):
    return client.get_handle("adder")


def test_queries_and_answers(handle, link_server):
    assert handle.remote(number=1).result() == 2
    assert shoal.get([handle.remote(number=i) for i in range(500)]) == list(range(1, 501))
    link_server.answer = lambda query: (query.data, query.kwargs)
    assert handle.remote({"a": 1}, x=2, data=3).result() == ({"a": 1}, {"x": 2, "data": 3})
    assert handle.remote().result() == (None, {})


def test_await(handle):
    async def main():
        return await asyncio.gather(*(wrap(handle.remote(number=i)) for i in range(50)))

    async def wrap(ref):
        return await ref

    assert asyncio.run(main()) == list(range(1, 51))


def test_big_arrays_go_beside_the_pickle_and_are_copied_at_once(handle, link_server):
    gate = threading.Event()
    link_server.answer = lambda query: gate.wait(20) and query.kwargs["array"]
    array = np.arange(400_000.0)
    refs = [handle.remote(array=array) for _ in range(3)]
    array[:] = 0
    gate.set()
    for got in shoal.get(refs):
        assert (got == np.arange(400_000.0)).all()
        got[0] = 1  # writable
    assert link_server.queries.get().head["buffers"] == [3_200_000]


def test_options_replace_each_other(handle, link_server):
    first = handle.options(method_name="a", shard_key="k", timeout=2, http_headers={"X": "1"})
    second = first.options(method_name="b", http_method="POST", timeout=0.5)
    third = second.options(timeout=None, http_headers=None)
    seen = []
    for each in (handle, first, second, third):
        each.remote(number=1).result()
        query = link_server.queries.get()
        seen.append((query.endpoint, query.method, query.key, query.timeout, query.head))
    assert seen == [
        ("adder", "", "", 0, {}),
        ("adder", "a", "k", 2000, {"headers": {"X": "1"}}),
        ("adder", "b", "k", 500, {"headers": {"X": "1"}, "method": "POST"}),
        ("adder", "b", "k", 0, {"method": "POST"}),
    ]
    for timeout in (0, -1, 1e9):
        with pytest.raises(shoal.InvalidArgument):
            handle.options(timeout=timeout)


def test_a_timeout_of_remote_is_the_querys_own(handle, link_server):
    slow = handle.options(timeout=2, method_name="m")
    slow.remote(1, timeout=0.5, number=1).result()
    slow.remote(1, timeout=timedelta(seconds=3), number=1).result()
    slow.remote(1, timeout=None, number=1).result()
    slow.remote(1, number=1).result()
    seen = [link_server.queries.get() for _ in range(4)]
    assert [query.timeout for query in seen] == [500, 3000, 0, 2000]
    assert {(query.method, query.data, *query.kwargs) for query in seen} == {("m", 1, "number")}
    for wrong in (0, -1, 1e9, "5", [5]):
        with pytest.raises(shoal.InvalidArgument, match="timeout is"):
            handle.remote(timeout=wrong)


def test_map_reaches_a_models_own_timeout(handle, link_server):
    link_server.answer = lambda query: (query.timeout, query.kwargs)
    for ordered in (True, False):
        assert list(handle.map([{"timeout": 5}], ordered=ordered)) == [(0, {"timeout": 5})]


def test_options_name_caller_and_priority(handle, link_server):
    first = handle.options(caller="batch job", priority=-2)
    for each in (handle, first, first.options(priority=3)):
        each.remote(number=1).result()
    seen = [(query.caller, query.priority) for query in (link_server.queries.get() for _ in range(3))]
    assert seen == [("", 0), ("batch job", -2), ("batch job", 3)]
    for wrong in ({"priority": 4}, {"priority": 1.0}, {"priority": "high"}, {"caller": "ü" * 65}):
        with pytest.raises(shoal.InvalidArgument, match=next(iter(wrong))):
            handle.options(**wrong)


def test_repr_shows_endpoint_and_traffic(handle, link_server):
    assert repr(handle) == 'Handle(endpoint="adder", traffic={"adder:v0": 1.0})'
    link_server.replies["GET /v1/endpoints/adder"] = (404, {"code": "EndpointNotFound", "detail": "gone"})
    assert repr(handle) == 'Handle(endpoint="adder")'


def test_server_errors_are_typed(handle, link_server):
    for kind, cls in shoal._errors.SERVER_ERRORS.items():
        link_server.answer = lambda query, kind=kind: fault(kind, f"{kind} it is", traceback="tb")
        with pytest.raises(cls, match=f"{kind} it is") as caught:
            handle.remote().result()
        assert caught.value.traceback == "tb"
    assert issubclass(shoal.DeadlineExceeded, TimeoutError)
    assert issubclass(shoal.InvalidArgument, ValueError)


def test_model_errors_are_the_models_own_where_that_can_be(handle, link_server):
    pickled = pickle.dumps(KeyError("x"))
    link_server.answer = lambda query: fault("KeyError", "'x'", pickled, traceback="the trace")
    with pytest.raises(KeyError) as caught:
        handle.remote().result()
    assert "the trace" in str(caught.value.__cause__)
    link_server.answer = lambda query: fault("my.Odd", "odd", b"junk", status=418, traceback="the trace")
    with pytest.raises(shoal.ModelError, match=r"my\.Odd: odd") as caught:
        handle.remote().result()
    error = caught.value
    assert (error.type, error.message, error.traceback, error.status) == ("my.Odd", "odd", "the trace", 418)
    assert pickle.loads(pickle.dumps(error)).traceback == "the trace"


def test_the_window_keeps_the_rest_here(handle, link_server):
    link_server.answer = lambda query: link_server.WITHHELD
    refs = [handle.remote(number=i) for i in range(_link.WINDOW + 500)]
    first = [link_server.queries.get(timeout=20) for _ in range(_link.WINDOW)]
    assert [query.kwargs["number"] for query in first] == list(range(_link.WINDOW))
    assert not shoal.wait(refs, timeout=0.05)[0]
    assert link_server.queries.empty()
    link_server.send(first[5].id, "five")
    assert refs[5].result(20) == "five"
    assert link_server.queries.get(timeout=20).kwargs["number"] == _link.WINDOW
    assert link_server.queries.empty()
    # A cancelled query gives its place back; one that was never sent is never sent.
    assert refs[0].cancel()
    assert refs[-1].cancel()
    assert link_server.cancelled.get(timeout=20) == first[0].id
    assert link_server.queries.get(timeout=20).kwargs["number"] == _link.WINDOW + 1
    link_server.answer = lambda query: query.kwargs["number"]
    for query in first[1:5] + first[6:]:
        link_server.send(query.id, query.kwargs["number"])
    assert shoal.get(refs[_link.WINDOW + 2 : -1], timeout=20) == list(
        range(_link.WINDOW + 2, _link.WINDOW + 499)
    )


def test_cancel(handle, link_server):
    link_server.answer = lambda query: link_server.WITHHELD
    ref = handle.remote()
    query = link_server.queries.get(timeout=20)
    assert ref.cancel()
    assert not ref.cancel()
    assert link_server.cancelled.get(timeout=20) == query.id
    with pytest.raises(shoal.Canceled):
        ref.result()
    link_server.send(query.id, "too late")
    link_server.answer = lambda query: 1
    assert handle.remote().result(20) == 1


def test_a_lost_connection_resolves_everything_and_the_next_query_reconnects(handle, link_server):
    link_server.answer = lambda query: link_server.WITHHELD
    refs = [handle.remote() for _ in range(_link.WINDOW + 10)]
    link_server.queries.get(timeout=20)
    link_server.links[-1].shutdown(2)
    for ref in refs:
        with pytest.raises(shoal.Unavailable):
            ref.result(20)
    link_server.answer = lambda query: 1
    assert handle.remote().result(20) == 1


@pytest.mark.parametrize(
    "junk",
    [
        struct.pack("<I", 0),
        b"\xff\xff\xff\xffx",
        struct.pack("<IB", 1, 99),
        struct.pack("<IBI8x", 13, 17, 1),  # an answer that is cut short
        struct.pack("<IBI12x", 17, 17, 1),
    ],
)
def test_a_server_that_breaks_the_protocol_is_lost(handle, link_server, junk):
    link_server.answer = lambda query: link_server.WITHHELD
    ref = handle.remote()
    link_server.queries.get(timeout=20)
    link_server.links[-1].sendall(junk)
    with pytest.raises(shoal.Unavailable):
        ref.result(20)


@pytest.mark.parametrize("data", [b"x" * 5000, np.zeros(5000, np.int8)], ids=["bytes", "buffer"])
def test_a_query_too_large_for_a_frame_fails_alone(handle, link_server, monkeypatch, data):
    monkeypatch.setattr(_link, "MOST", 4500)
    link_server.answer = lambda query: 1
    before, large = handle.remote(number=1), handle.remote(data)
    with pytest.raises(shoal.TooLarge, match="at most 4500"):
        large.result(20)
    assert before.result(20) == 1
    assert link_server.queries.get(timeout=20).kwargs == {"number": 1}
    assert link_server.queries.empty()


def test_goodbye_answers_what_was_accepted_and_refuses_the_rest(handle, link_server):
    link_server.answer = lambda query: link_server.WITHHELD
    refs = [handle.remote() for _ in range(_link.WINDOW + 1)]
    sent = [link_server.queries.get(timeout=20) for _ in range(_link.WINDOW)]
    link_server.send_frame(bytes([19]) + json.dumps({"reason": "bye"}).encode())
    with pytest.raises(shoal.Draining, match="bye"):
        refs[-1].result(20)
    with pytest.raises(shoal.Draining, match="bye"):
        handle.remote().result(20)
    link_server.send(sent[0].id, 1)
    assert refs[0].result(20) == 1


def test_shutdown_ends_everything(client, handle, link_server):
    link_server.answer = lambda query: link_server.WITHHELD
    ref = handle.remote()
    client.shutdown()
    with pytest.raises(shoal.Unavailable, match="shut down"):
        ref.result(20)
    for call in (handle.remote, client.list_backends, lambda: client.get_handle("adder")):
        with pytest.raises(shoal.Error, match="already been shut down"):
            call()
    client.shutdown()


def test_a_refused_link_says_why(handle, link_server):
    link_server.replies["GET /v1/link"] = (401, {"code": "Unauthorized", "detail": "wrong token"})
    with pytest.raises(shoal.Unauthorized, match="wrong token"):
        handle.remote()


def test_many_threads_share_a_handle(handle):
    got = {}

    def work(base):
        got[base] = [handle.remote(number=base + i).result(30) for i in range(100)]

    threads = [threading.Thread(target=work, args=(1000 * t,)) for t in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {1000 * t: [1000 * t + i + 1 for i in range(100)] for t in range(8)}


def test_a_forked_child_has_a_connection_of_its_own(handle, link_server):
    assert handle.remote(number=1).result() == 2
    link_server.answer = lambda query: (
        link_server.WITHHELD if query.kwargs.get("hold") else query.kwargs["number"] + 1
    )
    held = handle.remote(hold=True)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                held.result(10)
            except shoal.Unavailable:
                os.write(writer, str(handle.remote(number=41).result(20)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    assert os.read(reader, 100) == b"42"
    os.waitpid(pid, 0)
    os.close(reader)
    assert handle.remote(number=1).result(20) == 2
    assert not held.done()


class TestMap:
    def test_names_dicts_and_data(self, handle, link_server):
        assert list(handle.map(range(5), name="number")) == [1, 2, 3, 4, 5]
        assert list(handle.map([{"number": 1}, {"number": 5}])) == [2, 6]
        link_server.answer = lambda query: query.data
        assert list(handle.map(["a", b"b", [1]])) == ["a", b"b", [1]]
        assert list(handle.map([])) == []

    def test_order(self, handle, link_server):
        n = 5000
        assert list(handle.map(range(n), name="number")) == list(range(1, n + 1))
        assert sorted(handle.map(range(n), name="number", ordered=False)) == list(range(1, n + 1))

    @pytest.mark.parametrize("ordered", [True, False])
    def test_endless_items_are_read_only_as_far_as_needed(self, handle, ordered):
        counter = itertools.count()
        answers = handle.map(counter, name="number", ordered=ordered)
        assert len(list(itertools.islice(answers, 10))) == 10
        answers.close()
        assert next(counter) < 10_000

    @pytest.mark.parametrize("ordered", [True, False])
    def test_a_full_queue_is_tried_again(self, handle, link_server, ordered):
        refused = set()

        def answer(query):
            number = query.kwargs["number"]
            if number % 3 == 0 and number not in refused:
                refused.add(number)
                return fault("QueueFull", status=503)
            return number

        link_server.answer = answer
        assert sorted(handle.map(range(10), name="number", ordered=ordered)) == list(range(10))
        assert refused == {0, 3, 6, 9}

    def test_an_error_is_raised_in_its_turn(self, handle, link_server):
        link_server.answer = lambda query: fault("Boom") if query.kwargs["number"] == 2 else 1
        answers = handle.map(range(5), name="number")
        assert [next(answers), next(answers)] == [1, 1]
        with pytest.raises(shoal.ModelError, match="Boom"):
            next(answers)

    def test_progress(self, handle, monkeypatch):
        err = io.StringIO()
        monkeypatch.setattr("sys.stderr", err)
        list(handle.map(range(20), name="number"))
        assert err.getvalue() == ""
        list(handle.map(range(20), name="number", progress=True))
        assert "20/20" in err.getvalue()


def test_without_a_server_there_is_a_clear_error(monkeypatch):
    serve.shutdown()
    for call in (lambda: serve.get_handle("x"), serve.list_backends, serve.status):
        with pytest.raises(shoal.Error, match=r"serve\.init\(\)"):
            call()
