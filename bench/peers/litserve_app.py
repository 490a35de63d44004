"""LitServe: one API server, one worker that batches without waiting."""

from __future__ import annotations

import os
from typing import Any

import litserve
import models

MAX_BATCH_SIZE = int(os.environ["SHOAL_BENCH_MAX_BATCH_SIZE"])


class Model(litserve.LitAPI):  # type: ignore[misc]
    """Serves the model that $SHOAL_BENCH_MODEL names; LitServe decodes and encodes JSON around it."""

    def setup(self, device: str) -> None:
        """Load the model, in the worker process."""
        self.model = models.load(os.environ["SHOAL_BENCH_MODEL"])

    def decode_request(self, request) -> Any:  # type: ignore[no-untyped-def]
        """Take a query out of its body. An annotation would make LitServe expect something else than JSON."""
        return request["x"]

    def batch(self, inputs: list[Any]) -> list[Any]:
        """Leave the batch a list, as the model takes it."""
        return inputs

    def predict(self, x: list[Any]) -> list[int]:
        """Compute one batch."""
        return self.model(x)

    def unbatch(self, output: list[int]) -> list[int]:
        """One answer for each query."""
        return output

    def encode_response(self, output: int) -> int:
        """An answer is a JSON number."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(
        Model(max_batch_size=MAX_BATCH_SIZE, batch_timeout=0),
        accelerator="cpu",
        workers_per_device=1,
        fast_queue=os.environ.get("SHOAL_BENCH_LITSERVE_FAST_QUEUE", "0") == "1",
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["SHOAL_BENCH_PORT"]),
        num_api_servers=1,
        log_level="error",
        generate_client_file=False,
    )
