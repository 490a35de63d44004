"""Mosec: one worker of one stage. Mosec reads its own flags (--address, --port, …) from the command line."""

from __future__ import annotations

import os
from typing import Any

import models
from mosec import Server, Worker

MAX_BATCH_SIZE = int(os.environ["SHOAL_BENCH_MAX_BATCH_SIZE"])
# In whole milliseconds; 0 leaves it to the flag --wait.
MAX_WAIT_TIME = int(os.environ.get("SHOAL_BENCH_MOSEC_WAIT_MS", "0"))


class Model(Worker):
    """Serves the model that $SHOAL_BENCH_MODEL names; Mosec decodes and encodes JSON around it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = models.load(os.environ["SHOAL_BENCH_MODEL"])

    def forward(self, data: list[dict[str, Any]]) -> list[int]:
        """Compute one batch."""
        return self.model([item["x"] for item in data])


class Raw(Model):
    """Takes raw bytes instead of JSON."""

    def deserialize(self, data: bytes) -> bytes:
        """Leave the body as it is."""
        return data

    def forward(self, data: list[bytes]) -> list[int]:
        """Compute one batch."""
        return self.model(data)


if __name__ == "__main__":
    server = Server()
    worker = Raw if os.environ["SHOAL_BENCH_MODEL"] == "total" else Model
    server.append_worker(worker, num=1, max_batch_size=MAX_BATCH_SIZE, max_wait_time=MAX_WAIT_TIME)
    server.run()
