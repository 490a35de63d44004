"""What /openapi.json says of the HTTP front, and schemathesis, which asks by it whatever it can think of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import ask, backend, deploy

from shoal import serve

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance"


def deploy_several(client: serve.Client) -> None:
    @serve.accept_batch(
        arrays={"x": serve.Array("float32", shape=(None, 2)), "flag": serve.Array("bool", shape=())}
    )
    def rows(x: Any, flag: Any) -> Any:
        return x.sum(axis=(1, 2)) * flag

    def size(request: Any) -> int:
        return len(request.data)

    @serve.accept_batch
    def texts(requests: list[Any]) -> list[str]:
        return [request.args.get("word", "none") for request in requests]

    deploy(client, "rows", rows, methods=["POST"])
    deploy(client, "size", size, methods=["POST", "PUT", "PATCH"])
    client.create_backend("texts", texts)
    example = {"query": {"word": "hello"}}
    client.create_endpoint(
        "texts", backend="texts", route="/texts", methods=["GET", "DELETE"], example=example
    )


def test_the_document_knows_routes_and_arrays(client: serve.Client) -> None:
    deploy_several(client)
    document = ask(client, "/openapi.json").json()
    assert set(document["paths"]) >= {"/rows", "/size", "/texts", "/readyz", "/openapi.json"}
    named = document["paths"]["/rows"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert named["required"] == ["x", "flag"]
    lists = named["properties"]["x"]["anyOf"][0]
    assert lists["items"]["minItems"] == lists["items"]["maxItems"] == 2
    assert set(document["paths"]["/texts"]) == {"get", "delete"}
    parameters = document["paths"]["/texts"]["get"]["parameters"]
    assert [p["example"] for p in parameters if p.get("name") == "word"] == ["hello"]


def test_schemathesis_finds_no_failure_and_no_undocumented_status(
    client: serve.Client, tmp_path: Path
) -> None:
    deploy_several(client)
    command: list[str | Path] = [
        Path(sys.executable).parent / "schemathesis", "run", f"http://{client.http_address}/openapi.json",
        "--checks", CHECKS, "--seed", "1", "--max-examples", "15", "--phases", "examples,coverage,fuzzing",
        "--generation-database", "none", "--no-color", "--request-timeout", "30",
        "--suppress-health-check", "all",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert backend(client, "rows")["stats"]["answered"] > 0, done.stdout[-2000:]
    assert backend(client, "rows")["restarts"] == 0
