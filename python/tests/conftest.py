from __future__ import annotations

import pytest

from link_server import LinkServer
from worker_server import WorkerServer


@pytest.fixture
def worker(tmp_path):
    """Starts workers: worker(func_or_class, *init_args, concurrency=2, ...); they end with the test."""
    started = []

    def start(*args, **kwargs):
        server = WorkerServer(*args, tmp_path=tmp_path, **kwargs)
        started.append(server)
        return server.__enter__()

    yield start
    for server in started:
        server.__exit__()


@pytest.fixture
def link_server(tmp_path):
    """A fake server on a Unix socket; see LinkServer."""
    with LinkServer(tmp_path / "admin.sock") as server:
        yield server


@pytest.fixture
def client(link_server, monkeypatch):
    """A client of link_server, also the current one of the module serve."""
    from shoal import serve

    monkeypatch.delenv("SHOAL_SERVER", raising=False)
    client = serve.connect(link_server.address)
    yield client
    serve.shutdown()
    client.shutdown()
