"""TLS and client certificates, over HTTP and through handles, with certificates that change."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import requests
import trustme
from harness import PATIENCE, SHOAL, Process, run, until
from test_access import MODEL

import shoal
from shoal import serve

CONFIG = """
http: {address: "127.0.0.1:0"}
admin: {address: "https://127.0.0.1:0"}
tls: {cert: server.pem, key: server.key, client_ca: ca.pem, client_auth: optional}
auth:
  certificates:
    root: {scopes: [admin], subject: owner.example}
    alice: {scopes: [query]}
backends: {double: {python: "model.py:double"}}
endpoints: {double: {route: /double, backend: double}}
"""


def certify(ca: trustme.CA, folder: Path, file: str, *names: str) -> None:
    """A certificate and its key, for names."""
    issued = ca.issue_cert(*names)
    issued.private_key_pem.write_to_path(folder / f"{file}.key")
    (folder / f"{file}.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))


def test_https_with_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    certify(ca, tmp_path, "server", "127.0.0.1")
    certify(ca, tmp_path, "root", "owner.example")
    certify(ca, tmp_path, "alice", "alice")
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "shoal.yaml").write_text(CONFIG)
    with Process([SHOAL, "serve", tmp_path / "shoal.yaml", "--json"]) as process:
        until(lambda: process.lines or process.status is not None, "the server to be ready")
        assert process.lines, process.said
        ready = json.loads(process.lines[0])
        assert ready["ready"], ready
        url = f"https://{ready['http_address']}/double?number=4"

        def ask(who: str | None) -> requests.Response:
            cert = (str(tmp_path / f"{who}.pem"), str(tmp_path / f"{who}.key")) if who else None
            return requests.get(url, verify=str(tmp_path / "ca.pem"), cert=cert, timeout=PATIENCE)

        assert (ask("alice").status_code, ask("alice").text) == (200, "8")
        assert ask(None).status_code == 401
        assert requests.get(url.replace("https", "http"), timeout=PATIENCE).status_code == 400

        def be(who: str | None) -> None:
            monkeypatch.setenv("SHOAL_CA", str(tmp_path / "ca.pem"))
            for name, end in (("SHOAL_CERT", "pem"), ("SHOAL_KEY", "key")):
                if who:
                    monkeypatch.setenv(name, str(tmp_path / f"{who}.{end}"))
                else:
                    monkeypatch.delenv(name, raising=False)

        be("root")
        owner = serve.connect(ready["admin_address"])
        handle = owner.get_handle("double")
        assert handle.remote(number=21).result() == 42
        assert list(handle.map(range(3000), name="number")) == [2 * n for n in range(3000)]
        large = list(range(400_000))
        assert handle.remote(number=large).result() == large + large
        owner.shutdown()
        secret = {name: os.environ[name] for name in ("SHOAL_CA", "SHOAL_CERT", "SHOAL_KEY")}
        done = run([SHOAL, "status", "--server", ready["admin_address"]], env=secret)
        assert (done.status, "double" in done.output) == (0, True), done.said

        be("alice")
        guest = serve.connect(ready["admin_address"])
        assert guest.get_handle("double").remote(number=21).result() == 42
        with pytest.raises(shoal.Forbidden):
            guest.delete_endpoint("double")
        guest.shutdown()
        be(None)
        with pytest.raises(shoal.Unauthorized):
            serve.connect(ready["admin_address"])
        monkeypatch.delenv("SHOAL_CA")
        with pytest.raises(shoal.Unavailable, match="certificate"):
            serve.connect(ready["admin_address"])

        # Another certificate, without a restart.
        other = trustme.CA()
        certify(other, tmp_path, "server", "127.0.0.1")
        other.cert_pem.write_to_path(tmp_path / "other.pem")

        def renewed() -> bool:
            try:
                requests.get(url, verify=str(tmp_path / "other.pem"), timeout=PATIENCE)
            except requests.exceptions.SSLError:
                return False
            return True

        until(renewed, "the new certificate")
