"""Shoal: one worker with a batched function."""

from __future__ import annotations

import os

import models

from shoal import Request, serve

model = models.load(os.environ["SHOAL_BENCH_MODEL"])


@serve.accept_batch
def predict(requests: list[Request]) -> list[int]:
    """Compute one batch."""
    return model([request.json["x"] for request in requests])
