"""`shoal verify` and `verify_one_in`: models whose answers depend on the batch are found, others are not."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from harness import SHOAL, ask, backend, deploy, run, until

from shoal import InvalidArgument, serve


def verify(client: serve.Client, endpoint: str, *arguments: str) -> tuple[int | None, dict[str, Any]]:
    done = run([SHOAL, "verify", endpoint, "--json", "--server", client.address, *arguments], patience=120)
    assert done.output.startswith("{"), done.said
    (report,) = json.loads(done.output)["reports"]
    return done.status, report


@pytest.fixture
def items(tmp_path: Path) -> Path:
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps({"kwargs": {"x": i / 7}}) + "\n" for i in range(11)))
    return path


def test_a_model_that_computes_each_item_for_itself_is_the_same_in_any_company(
    client: serve.Client, items: Path
) -> None:
    @serve.accept_batch
    def model(requests: list[Any], *, x: Any) -> list[Any]:
        return [None if value is None else {"y": value * 2, "text": str(value)} for value in x]

    client.create_backend("model", model, config={"max_batch_size": 8})
    client.create_endpoint("model", backend="model")
    status, report = verify(client, "model", "--items", str(items))
    assert (status, report["drifted"], report["leaked"]) == (0, 0, 0), report
    assert report["items"] == 11
    companies = {(case["company"], case["size"]) for case in report["cases"]}
    assert {("alone", 1), ("batch", 2), ("batch", 4), ("batch", 8), ("broken", 8)} <= companies
    assert all(case["answers"] >= 11 or case["raised"] for case in report["cases"]), report["cases"]
    assert backend(client, "model")["stats"]["admitted"] == 0  # a replica of its own computed them


def test_drift_that_grows_with_the_batch_is_found_beyond_a_tolerance(
    client: serve.Client, items: Path
) -> None:
    @serve.accept_batch(arrays={"x": serve.Array("float64", shape=())})
    def drifts(x: Any) -> Any:
        return x + 0.001 * (len(x) - 1)

    client.create_backend("drifts", drifts, config={"max_batch_size": 4})
    client.create_endpoint("drifts", backend="drifts")
    status, report = verify(client, "drifts", "--items", str(items))
    assert status == 1
    assert report["drifted"] > 0
    assert report["leaked"] == 0
    largest = {case["size"]: case["largest"] for case in report["cases"] if case["company"] == "batch"}
    assert largest[2] == pytest.approx(0.001)
    assert largest[4] == pytest.approx(0.003)
    assert verify(client, "drifts", "--items", str(items), "--tolerance", "0.01")[0] == 0


def test_answers_that_are_another_items_are_leaks(client: serve.Client, items: Path) -> None:
    @serve.accept_batch
    def shifts(requests: list[Any], *, x: Any) -> list[Any]:
        return [*x[1:], x[0]]

    client.create_backend("shifts", shifts, config={"max_batch_size": 4})
    client.create_endpoint("shifts", backend="shifts")
    status, report = verify(client, "shifts", "--items", str(items))
    assert status == 1
    assert report["leaked"] > 0
    assert report["drifts"][0]["leak"] >= 0


def test_the_example_is_what_is_verified_without_items_and_a_table_is_for_people(
    client: serve.Client,
) -> None:
    @serve.accept_batch
    def web(requests: list[Any]) -> list[str]:
        return [request.args.get("word", "") for request in requests]

    client.create_backend("web", web, config={"max_batch_size": 4})
    client.create_endpoint("web", backend="web", route="/web", example={"query": {"word": "hello"}})
    done = run([SHOAL, "verify", "web", "--server", client.address])
    assert done.status == 0, done.said
    assert "web: 1 items in" in done.output
    assert "0 answers differed" in done.output
    assert "beside a broken one" in done.output
    client.create_endpoint("bare", backend="web", route="/bare")
    refused = run([SHOAL, "verify", "bare", "--server", client.address])
    assert refused.status == 1
    assert "there are no items to verify with" in refused.said


def test_python_verifies_as_the_command_does(client: serve.Client) -> None:
    @serve.accept_batch
    def counts(requests: list[Any], *, x: Any) -> list[Any]:
        return [None if value is None else [value, len(x)] for value in x]

    deploy(client, "counts", counts, max_batch_size=4)
    items = [{"kwargs": {"x": i}} for i in range(5)]
    (report,) = client.verify("counts", *items)
    assert (report["backend"], report["items"]) == ("counts", 5)
    assert report["drifted"] > 0
    assert report["drifts"][0]["what"] == "1: 1, and 2"
    (report,) = client.verify("counts", *items, ignore=["1"], seed=7)
    assert report["drifted"] == 0, report
    with pytest.raises(InvalidArgument, match="no items to verify with"):
        client.verify("counts")
    with pytest.raises(InvalidArgument, match="tolerance must not be negative"):
        client.verify("counts", *items, tolerance=-1)


def verified(client: serve.Client, name: str, least: int) -> dict[str, Any]:
    """What came of live queries, once so many were computed again."""

    def counts() -> dict[str, Any]:
        found: dict[str, Any] = backend(client, name).get("verified", {})
        return found if found.get("same", 0) + found.get("different", 0) >= least else {}

    return until(counts, f"{least} live queries to be verified")


LIVE: dict[str, Any] = {"max_batch_size": 4, "batch_wait_timeout": "5s", "verify_one_in": 1}


def in_one_batch(client: serve.Client, path: str) -> list[Any]:
    """The answers to four queries, which fill a batch."""
    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(lambda i: ask(client, f"{path}?x={i}").json(), range(4)))


def test_live_queries_whose_answers_depend_on_the_batch_are_found(client: serve.Client) -> None:
    @serve.accept_batch
    def sums(requests: list[Any]) -> list[dict[str, float]]:
        return [{"y": float(request.args["x"]) + 0.001 * len(requests)} for request in requests]

    deploy(client, "sums", sums, **LIVE)
    in_one_batch(client, "/sums")
    found = verified(client, "sums", 4)
    assert (found["same"], found["different"]) == (0, 4), found
    assert found["largest_difference"] == pytest.approx(0.003)
    assert found["samples"][0].startswith("y: "), found
    metrics = ask(client, "/metrics").text
    assert 'shoal_verified_total{backend="sums",result="different"} 4' in metrics
    status = run([SHOAL, "status", "--server", client.address])
    assert "4 queries computed again alone, 4 differ" in status.output


def test_a_tolerance_and_a_right_model_leave_nothing_to_find(client: serve.Client) -> None:
    @serve.accept_batch
    def doubles(requests: list[Any]) -> list[dict[str, float]]:
        return [{"y": float(request.args["x"]) * 2, "n": len(requests)} for request in requests]

    deploy(client, "doubles", doubles, verify_compare={"ignore": ["n"]}, **LIVE)
    assert [answer["y"] for answer in in_one_batch(client, "/doubles")] == [0, 2, 4, 6]
    found = verified(client, "doubles", 4)
    assert (found["same"], found["different"], found["failed"]) == (4, 0, 0), found
    client.update_backend_config("doubles", {"verify_compare": {"tolerance": 0.5}})
    in_one_batch(client, "/doubles")
    assert verified(client, "doubles", 8)["different"] == 4  # now n counts: 4 and 1
    client.update_backend_config("doubles", {"verify_one_in": 0})
    in_one_batch(client, "/doubles")
    stats = backend(client, "doubles")["stats"]
    assert stats["admitted"] == 12 + 8, "the last four were computed once"


def test_live_queries_of_arrays_and_of_handles_are_verified(client: serve.Client) -> None:
    @serve.accept_batch(arrays={"x": serve.Array("float64", shape=())})
    def centred(x: Any) -> Any:
        return x - x.mean()  # over the batch, which is none of its business

    deploy(client, "centred", centred, **LIVE)
    refs = [client.get_handle("centred").remote(x=float(i)) for i in range(4)]
    assert [ref.result() for ref in refs] == [-1.5, -0.5, 0.5, 1.5]
    assert in_one_batch(client, "/centred") == [-1.5, -0.5, 0.5, 1.5]
    assert verified(client, "centred", 8)["different"] == 8

    @serve.accept_batch
    def plain(requests: list[Any], *, x: Any) -> list[Any]:
        return [{"y": value, "as": "pickle"} for value in x]

    deploy(client, "plain", plain, **LIVE)
    refs = [client.get_handle("plain").remote(x=(i, "tuple")) for i in range(4)]
    assert refs[3].result() == {"y": (3, "tuple"), "as": "pickle"}
    found = verified(client, "plain", 4)
    assert (found["same"], found["different"]) == (4, 0), found


def test_side_effects_are_not_repeated_by_a_verification(client: serve.Client) -> None:
    with pytest.raises(InvalidArgument, match="must not happen with on_batch_error"):
        deploy(client, "bad", len, verify_one_in=10, on_batch_error="fail")
