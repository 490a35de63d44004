"""Every kind of bad input: what its caller is told, over HTTP and in Python, and that nobody else notices."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from harness import ask, backend, deploy, problem, unanswered, until
from models import Gate, Journal

import shoal
from shoal import serve

Model = Callable[..., Any]


@pytest.fixture
def adder(gate: Gate, journal: Journal) -> Model:
    """A model that waits at the gate, keeps a journal of its batches, and dislikes 13 and 14."""

    @serve.accept_batch
    def adder(requests: list[Any], *, number: Any = None) -> list[int]:
        if serve.context.web:
            number = [int(request.args["number"]) for request in requests]
        journal.add(number)
        gate.wait()
        if 13 in number:
            raise ValueError("13 is bad luck")
        if 14 in number:
            return [n + 1 for n in number if n != 14]
        return [n + 1 for n in number]

    return adder


def behind_gate(
    client: serve.Client, pool: ThreadPoolExecutor, gate: Gate, journal: Journal, numbers: list[int]
) -> list[Any]:
    """Ask number 0 and, while that is computed, the numbers, which wait together. The responses to these."""
    before = len(journal.entries())
    with gate.closed():
        first = pool.submit(ask, client, "/adder?number=0")
        until(lambda: len(journal.entries()) > before, "the first query to be computed")
        rest = []
        for n in numbers:  # one after the other, so that they wait in this order
            rest.append(pool.submit(ask, client, f"/adder?number={n}"))
            until(lambda: unanswered(client, "adder") == 1 + len(rest), "the query to wait")
    assert first.result().text == "1"
    return [query.result() for query in rest]


def test_an_unknown_route_is_404_and_says_where_the_routes_are(client: serve.Client) -> None:
    details = problem(ask(client, "/nowhere"), 404, "EndpointNotFound")
    assert "/nowhere" in details["detail"]
    assert "/-/routes" in details["detail"]


def test_a_wrong_method_is_405_with_allow(client: serve.Client, adder: Model) -> None:
    deploy(client, "adder", adder, methods=["GET", "PUT"])
    response = ask(client, "/adder?number=1", "DELETE")
    problem(response, 405, "MethodNotAllowed")
    assert {method.strip() for method in response.headers["Allow"].split(",")} >= {"GET", "PUT"}
    assert ask(client, "/adder?number=1").text == "2"


def test_malformed_json_is_400_with_the_offset(client: serve.Client) -> None:
    def length(request: Any) -> int:
        return len(request.json)

    deploy(client, "length", length)
    response = ask(
        client, "/length", "POST", data=b'{"a": 1,, }', headers={"Content-Type": "application/json"}
    )
    details = problem(response, 400, "InvalidArgument")
    assert details["offset"] == 8
    assert ask(client, "/length", "POST", json={"a": 1}).text == "1"


def test_a_missing_parameter_is_400_for_its_own_query_alone(client: serve.Client) -> None:
    def number(request: Any) -> int:
        return int(request.args["number"])

    deploy(client, "number", number)
    assert ask(client, "/number?nummer=1").status_code == 400
    assert ask(client, "/number?number=1").text == "1"


def test_a_body_that_is_too_large_is_413(client: serve.Client) -> None:
    def length(request: Any) -> int:
        return len(request.data)

    deploy(client, "length", length)
    host, _, port = client.http_address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.putrequest("POST", "/length")
    connection.putheader("Content-Length", str(1 << 30))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert b'"TooLarge"' in response.read()
    connection.close()
    assert ask(client, "/length", "POST", data=bytes(1 << 20)).text == str(1 << 20)


def test_a_chunked_body_that_is_too_large_is_413(client: serve.Client) -> None:
    def length(request: Any) -> int:
        return len(request.data)

    deploy(client, "length", length)
    host, _, port = client.http_address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.putrequest("POST", "/length")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    try:
        for _ in range(64):
            connection.send(chunk)
    except OSError:
        pass  # the server has heard enough
    response = connection.getresponse()
    assert response.status == 413
    connection.close()


def test_a_full_queue_is_503_with_retry_after(
    client: serve.Client, adder: Model, pool: ThreadPoolExecutor, gate: Gate, journal: Journal
) -> None:
    deploy(client, "adder", adder, max_queued=2)
    handle = client.get_handle("adder")
    with gate.closed():
        first = pool.submit(ask, client, "/adder?number=0")
        until(journal.entries, "the first query to be computed")
        waiting = [pool.submit(ask, client, f"/adder?number={n}") for n in (1, 2)]
        until(lambda: backend(client, "adder")["queued"] == 2, "two queries to wait")
        response = ask(client, "/adder?number=3")
        details = problem(response, 503, "QueueFull")
        assert int(response.headers["Retry-After"]) >= 1
        assert "max_queued" in details["detail"]
        with pytest.raises(shoal.QueueFull, match="max_queued"):
            handle.remote(number=3).result(30)
    assert [query.result().text for query in (first, *waiting)] == ["1", "2", "3"]
    assert handle.remote(number=4).result(30) == 5
    assert backend(client, "adder")["stats"]["refused"] == 2


def test_bytes_that_wait_are_limited_too(
    client: serve.Client, pool: ThreadPoolExecutor, gate: Gate, journal: Journal
) -> None:
    @serve.accept_batch
    def length(requests: list[Any]) -> list[int]:
        journal.add(len(requests))
        gate.wait()
        return [len(request.data) for request in requests]

    deploy(client, "length", length, max_queued_bytes=100_000)
    handle = client.get_handle("length")
    with gate.closed():
        first = pool.submit(ask, client, "/length", "POST", data=bytes(60_000))
        until(journal.entries, "the first query to be computed")
        second = pool.submit(ask, client, "/length", "POST", data=bytes(60_000))
        until(lambda: backend(client, "length")["queued"] == 1, "a query to wait")
        response = ask(client, "/length", "POST", data=bytes(60_000))
        details = problem(response, 503, "QueueFull")
        assert "max_queued_bytes" in details["detail"]
        with pytest.raises(shoal.QueueFull, match="max_queued_bytes"):
            handle.remote(bytes(60_000)).result(30)
        small = handle.remote(bytes(100))
        until(lambda: backend(client, "length")["queued"] == 2, "a small query to find its place")
    assert [first.result().text, second.result().text, small.result(30)] == ["60000", "60000", 100]


def test_a_model_error_is_500_with_type_and_message_for_its_query_and_nobody_else(
    client: serve.Client, adder: Model, pool: ThreadPoolExecutor, gate: Gate, journal: Journal
) -> None:
    deploy(client, "adder", adder, max_batch_size=3)
    responses = behind_gate(client, pool, gate, journal, [13, 20, 21, 22, 23])
    assert [response.text for response in responses[1:]] == ["21", "22", "23", "24"]
    details = problem(responses[0], 500, "ValueError")
    assert "13 is bad luck" in details["detail"]
    assert "traceback" not in details
    assert "test_bad_input.py" not in responses[0].text
    assert "reason=retry" in responses[1].headers["Server-Timing"]
    assert "attempts=2" in responses[1].headers["Server-Timing"]
    assert "attempts" not in responses[4].headers["Server-Timing"]
    assert journal.entries() == [[0], [13, 20, 21], [13], [20, 21], [22, 23]]
    assert ask(client, "/adder?number=7").text == "8"


def test_with_on_batch_error_fail_a_model_error_is_that_of_its_batch_and_nobody_else(
    client: serve.Client, adder: Model, pool: ThreadPoolExecutor, gate: Gate, journal: Journal
) -> None:
    deploy(client, "adder", adder, max_batch_size=3, on_batch_error="fail")
    responses = behind_gate(client, pool, gate, journal, [13, 20, 21, 22, 23])
    assert [response.text for response in responses[3:]] == ["23", "24"]
    for response in responses[:3]:
        assert "13 is bad luck" in problem(response, 500, "ValueError")["detail"]
    assert journal.entries() == [[0], [13, 20, 21], [22, 23]]


def test_an_unknown_on_batch_error_is_refused(client: serve.Client, adder: Model) -> None:
    for wrong in ("ignore", 5):
        with pytest.raises(shoal.InvalidArgument, match='on_batch_error must be "isolate" or "fail"'):
            deploy(client, "adder", adder, on_batch_error=wrong)


def test_a_traceback_is_shown_where_the_config_says_so(client: serve.Client, adder: Model) -> None:
    deploy(client, "adder", adder, expose_traceback=True)
    details = problem(ask(client, "/adder?number=13"), 500, "ValueError")
    assert "test_bad_input.py" in details["traceback"]
    assert "13 is bad luck" in details["traceback"]


def test_a_model_error_is_raised_in_python_as_itself_with_its_traceback(
    client: serve.Client, adder: Model, gate: Gate, journal: Journal
) -> None:
    deploy(client, "adder", adder, max_batch_size=3)
    handle = client.get_handle("adder")
    with gate.closed():
        first = handle.remote(number=0)
        until(journal.entries, "the first query to be computed")
        refs = [handle.remote(number=n) for n in (20, 13, 21, 22, 23)]
        until(lambda: unanswered(client, "adder") == 6, "five queries to wait")
    assert first.result(30) == 1
    with pytest.raises(ValueError, match="13 is bad luck") as caught:
        refs.pop(1).result(30)
    assert "test_bad_input.py" in str(caught.value.__cause__)
    assert shoal.get(refs, timeout=30) == [21, 22, 23, 24]
    assert handle.remote(number=7).result(30) == 8


def test_an_exception_as_an_item_of_the_answers_fails_its_query_alone(
    client: serve.Client, gate: Gate, journal: Journal
) -> None:
    @serve.accept_batch
    def picky(requests: list[Any], *, number: Any) -> list[Any]:
        journal.add(number)
        gate.wait()
        return [shoal.Error("no odd ones", status=422) if n % 2 else n for n in number]

    deploy(client, "picky", picky)
    handle = client.get_handle("picky")
    with gate.closed():
        refs = [handle.remote(number=0)]
        until(journal.entries, "the first query to be computed")
        refs += [handle.remote(number=n) for n in range(1, 5)]
        until(lambda: backend(client, "picky")["queued"] == 4, "four queries to wait")
    assert shoal.get(refs[::2], timeout=30) == [0, 2, 4]
    for ref in refs[1::2]:
        with pytest.raises(shoal.Error, match="no odd ones"):
            ref.result(30)
    assert journal.entries() == [[0], [1, 2, 3, 4]]


def test_a_deadline_is_504_and_a_query_that_waited_for_nothing_is_never_computed(
    client: serve.Client, adder: Model, pool: ThreadPoolExecutor, gate: Gate, journal: Journal
) -> None:
    deploy(client, "adder", adder)
    handle = client.get_handle("adder")
    with gate.closed():
        first = pool.submit(ask, client, "/adder?number=0")
        until(journal.entries, "the first query to be computed")
        late = ask(client, "/adder?number=1", headers={"Shoal-Timeout": "100ms"})
        problem(late, 504, "DeadlineExceeded")
        with pytest.raises(shoal.DeadlineExceeded) as caught:
            handle.options(timeout=0.1).remote(number=2).result(30)
        assert isinstance(caught.value, TimeoutError)
    assert first.result().text == "1"
    assert ask(client, "/adder?number=3").text == "4"
    assert journal.entries() == [[0], [3]]


def test_the_timeout_of_the_config_also_ends_what_is_computed(
    client: serve.Client, adder: Model, gate: Gate
) -> None:
    deploy(client, "adder", adder, timeout="100ms")
    with gate.closed():
        problem(ask(client, "/adder?number=0"), 504, "DeadlineExceeded")
    client.update_backend_config("adder", {"timeout": "30s"})
    assert ask(client, "/adder?number=1").text == "2"


def test_a_caller_that_waits_no_longer_gives_its_seat_back(
    client: serve.Client, adder: Model, gate: Gate, journal: Journal
) -> None:
    deploy(client, "adder", adder)
    handle = client.get_handle("adder")
    with gate.closed():
        first = handle.remote(number=0)
        until(journal.entries, "the first query to be computed")
        left, stays = handle.remote(number=1), handle.remote(number=2)
        until(lambda: backend(client, "adder")["queued"] == 2, "two queries to wait")
        assert left.cancel()
        until(lambda: backend(client, "adder")["queued"] == 1, "the query to leave")
    assert shoal.get([first, stays], timeout=30) == [1, 3]
    with pytest.raises(shoal.Canceled):
        left.result()
    assert journal.entries() == [[0], [2]]


def test_a_failing_import_tells_its_traceback_and_the_running_version_serves_on(
    client: serve.Client, adder: Model, tmp_path: Path
) -> None:
    deploy(client, "adder", adder)
    broken = tmp_path / "broken.py"
    broken.write_text("import there_is_no_such_module\n\ndef adder(request):\n    return 0\n")
    source = {"kind": "file", "path": str(broken), "object": "adder"}
    with pytest.raises(shoal.LoadFailed) as caught:
        client.deploy("adder", source, {}, replace=True)
    assert "ModuleNotFoundError" in caught.value.traceback
    assert "broken.py" in caught.value.traceback
    assert "there_is_no_such_module" in str(caught.value)
    assert ask(client, "/adder?number=1").text == "2"
    assert client.get_handle("adder").remote(number=2).result(30) == 3


def test_a_failing_init_is_reported_and_leaves_no_backend(client: serve.Client) -> None:
    class Fails:
        def __init__(self, reason: str) -> None:
            raise RuntimeError(reason)

        def __call__(self, request: Any) -> int:
            return 0

    with pytest.raises(shoal.LoadFailed, match="the weights are gone") as caught:
        client.create_backend("fails", Fails, "the weights are gone", config={"num_replicas": 2})
    assert "__init__" in caught.value.traceback
    assert client.list_backends() == {}


def test_a_wrong_answer_count_names_backend_expected_and_got(
    client: serve.Client, adder: Model, pool: ThreadPoolExecutor, gate: Gate, journal: Journal
) -> None:
    deploy(client, "adder", adder, max_batch_size=3)
    responses = behind_gate(client, pool, gate, journal, [14, 20, 21, 22, 23])
    assert [response.text for response in responses[1:]] == ["21", "22", "23", "24"]
    detail = problem(responses[0], 500, "WrongAnswerCount")["detail"]
    assert "adder" in detail
    assert "returned 0 answers for a batch of 1" in detail
    assert ask(client, "/adder?number=7").text == "8"
    with pytest.raises(shoal.WrongAnswerCount, match="adder"):
        client.get_handle("adder").remote(number=14).result(30)


def whose(tag: str) -> Model:
    """A class whose every answer tells which version it is."""

    class Version:
        def __init__(self, tag: str) -> None:
            self.tag = tag

        @serve.accept_batch
        def __call__(self, requests: list[Any]) -> list[str]:
            return [self.tag] * len(requests)

    return Version


@pytest.mark.parametrize("replace", [False, True])
def test_deploys_of_one_name_at_once_end_in_one_of_them_whole(client: serve.Client, replace: bool) -> None:
    tags = ["a", "b", "c", "d"]
    outcomes: dict[str, Exception | None] = {}
    together = threading.Barrier(len(tags))

    def create(tag: str) -> None:
        together.wait()
        try:
            client.create_backend("twin", whose(tag), tag, config={"num_replicas": 2}, replace=replace)
            outcomes[tag] = None
        except shoal.Error as error:
            outcomes[tag] = error

    threads = [threading.Thread(target=create, args=(tag,)) for tag in tags]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [tag for tag in tags if outcomes[tag] is None]
    lost = [error for error in outcomes.values() if error is not None]
    assert len(won) >= 1
    assert all(isinstance(error, shoal.AlreadyExists) for error in lost), outcomes
    if not replace:
        assert len(won) == 1
    client.create_endpoint("twin", backend="twin")
    handle = client.get_handle("twin")
    answers = set(shoal.get([handle.remote() for _ in range(50)], timeout=30))
    assert len(answers) == 1
    assert answers <= set(won)
    assert len(backend(client, "twin")["replicas"]) == 2


def test_what_does_not_exist_and_what_exists_already_has_typed_errors(
    client: serve.Client, adder: Model
) -> None:
    with pytest.raises(shoal.EndpointNotFound):
        client.get_handle("nobody")
    with pytest.raises(shoal.BackendNotFound):
        client.create_endpoint("adder", backend="nobody")
    deploy(client, "adder", adder)
    with pytest.raises(shoal.AlreadyExists):
        client.create_backend("adder", adder)
    with pytest.raises(shoal.AlreadyExists):
        client.create_endpoint("other", backend="adder", route="/adder")
    with pytest.raises(shoal.BackendNotFound):
        client.set_traffic("adder", {"nobody": 1.0})
    with pytest.raises(shoal.InvalidArgument):
        client.set_traffic("adder", {"adder": 0.5})
    with pytest.raises(shoal.InUse) as caught:
        client.delete_backend("adder")
    assert isinstance(caught.value, ValueError)
    client.delete_backend("nobody")
    handle = client.get_handle("adder")
    client.delete_endpoint("adder")
    with pytest.raises(shoal.EndpointNotFound):
        handle.remote(number=1).result(30)
    assert ask(client, "/adder?number=1").status_code == 404


def test_config_errors_name_the_key_and_the_nearest_right_one(client: serve.Client, adder: Model) -> None:
    with pytest.raises(shoal.InvalidArgument, match=r"max_batchsize.*max_batch_size"):
        client.create_backend("adder", adder, config={"max_batchsize": 4})
    deploy(client, "adder", adder)
    with pytest.raises(shoal.InvalidArgument, match=r"num_replica\b.*num_replicas"):
        client.update_backend_config("adder", {"num_replica": 4})
    with pytest.raises(shoal.InvalidArgument, match="max_batch_size"):
        client.update_backend_config("adder", {"max_batch_size": 0})

    def single(request: Any) -> int:
        return 0

    with pytest.raises(shoal.InvalidArgument, match="accept_batch"):
        client.create_backend("single", single, config={"max_batch_size": 4})
    assert ask(client, "/adder?number=1").text == "2"


def test_a_keyword_that_the_model_does_not_take_hurts_its_own_query_alone(
    client: serve.Client, adder: Model, gate: Gate, journal: Journal
) -> None:
    deploy(client, "adder", adder)
    handle = client.get_handle("adder")
    with gate.closed():
        first = handle.remote(number=0)
        until(journal.entries, "the first query to be computed")
        refs = [handle.remote(number=1), handle.remote(nubmer=2), handle.remote(number=3)]
        until(lambda: backend(client, "adder")["queued"] == 3, "three queries to wait")
    assert shoal.get([first, refs[0], refs[2]], timeout=30) == [1, 2, 4]
    with pytest.raises(TypeError, match=r"nubmer.*number"):
        refs[1].result(30)
    assert journal.entries() == [[0], [1, 3]]


def test_a_model_that_exits_fails_its_batch_and_not_the_server(client: serve.Client) -> None:
    @serve.accept_batch
    def leaves(requests: list[Any], *, leave: Any) -> list[int]:
        if any(leave):
            raise SystemExit(3)
        return [1] * len(requests)

    deploy(client, "leaves", leaves)
    handle = client.get_handle("leaves")
    with pytest.raises(shoal.ModelError, match="SystemExit"):
        handle.remote(leave=True).result(30)
    assert handle.remote(leave=False).result(30) == 1
