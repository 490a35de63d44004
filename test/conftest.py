from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from models import Gate, Journal

from shoal import serve

# Tests start servers of their own; a server that the caller's environment names is none of their business.
for name in [key for key in os.environ if key.startswith("SHOAL_")]:
    del os.environ[name]


@pytest.fixture
def client() -> Iterator[serve.Client]:
    """A client of a server of its own, on a free port."""
    client = serve.start(http_port=0)
    yield client
    client.shutdown()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads to ask from."""
    with ThreadPoolExecutor(64) as pool:
        yield pool


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")
