"""Ray Serve: one replica with @serve.batch, which runs until it is told to stop."""

from __future__ import annotations

import os
import signal
from typing import Any

import models
import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig
from starlette.requests import Request

MAX_BATCH_SIZE = int(os.environ["SHOAL_BENCH_MAX_BATCH_SIZE"])
LOGGING = LoggingConfig(log_level="WARNING", enable_access_log=False)


@serve.deployment(num_replicas=1, max_ongoing_requests=1024, logging_config=LOGGING)
class Model:
    """Serves the model that $SHOAL_BENCH_MODEL names."""

    def __init__(self) -> None:
        name = os.environ["SHOAL_BENCH_MODEL"]
        self.model = models.load(name)
        self.raw = name == "total"

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=0)
    async def compute(self, xs: list[Any]) -> list[int]:
        """Compute one batch, on the event loop: handing it to a thread was slower (see README.md)."""
        return self.model(xs)

    async def __call__(self, request: Request) -> int:
        """Answer one query."""
        x = await request.body() if self.raw else (await request.json())["x"]
        answer: int = await self.compute(x)
        return answer


def main() -> None:
    """Start a Ray of its own and serve the model until SIGTERM or SIGINT."""
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=os.environ["SHOAL_BENCH_RAY_FOLDER"],
    )
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=int(os.environ["SHOAL_BENCH_PORT"])))
    serve.run(Model.bind(), logging_config=LOGGING)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    # Not serve.shutdown(): it waits half a minute for connections to drain.
    ray.shutdown()


if __name__ == "__main__":
    main()
