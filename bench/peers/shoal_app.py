"""Shoal: one worker with a batched function."""

from __future__ import annotations

import os

import models

from shoal import Request, serve

name = os.environ["SHOAL_BENCH_MODEL"]
model = models.load(name)


@serve.accept_batch
def predict(requests: list[Request]) -> list[int]:
    """Compute one batch of JSON queries, or of raw bytes."""
    if name == "total":
        return model([request.data for request in requests])
    return model([request.json["x"] for request in requests])
