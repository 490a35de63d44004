"""BentoML: one service with a batchable API, whose dispatcher learns when to leave."""

from __future__ import annotations

import os
from typing import Any

import bentoml
import models

MAX_BATCH_SIZE = int(os.environ["SHOAL_BENCH_MAX_BATCH_SIZE"])


@bentoml.service(workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Model:
    """Serves the model that $SHOAL_BENCH_MODEL names; a query is a list of one, as batchable APIs want it."""

    def __init__(self) -> None:
        self.model = models.load(os.environ["SHOAL_BENCH_MODEL"])

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH_SIZE)
    def predict(self, x: list[Any]) -> list[int]:
        """Compute one batch."""
        return self.model(x)
