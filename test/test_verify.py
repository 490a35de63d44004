"""`shoal verify`: models whose answers depend on the batch are found, those of others are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness import SHOAL, backend, run

from shoal import serve


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
