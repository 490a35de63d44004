"""What models of these tests need inside a worker: gates to stop at and journals to write to.

Light to import, because every worker imports it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Gate:
    """A file that models wait at while a test holds it closed. It opens by itself if the test dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def wait(self) -> None:
        """Return as soon as the gate is open."""
        with self.path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Keep the gate closed for as long as the context lasts."""
        with self.path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class Journal:
    """A file that models append to, one entry a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def add(self, entry: Any) -> None:
        """Append an entry; whole, whoever else appends."""
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(file, json.dumps(entry).encode() + b"\n")
        finally:
            os.close(file)

    def entries(self) -> list[Any]:
        """Everything that was added so far."""
        return [json.loads(line) for line in self.path.read_text().splitlines()]
