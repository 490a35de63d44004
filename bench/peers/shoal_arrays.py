"""Shoal: one worker with a batched function that takes arrays, which the server puts together."""

from __future__ import annotations

import os
from typing import Any

import models

from shoal import serve

# What a query's x is: a number of JSON, or the raw bytes of a tensor.
INPUTS: dict[str, Any] = {
    "adder": serve.Array("int64", shape=[]),
    "sleeper": serve.Array("int64", shape=[]),
    "total": serve.Array("float32", shape=[262_144]),
}

name = os.environ["SHOAL_BENCH_MODEL"]
model = models.load_rows(name)


@serve.accept_batch(arrays={"x": INPUTS[name]})
def predict(*, x: Any) -> Any:
    """Compute one batch: x is an array of shape [batch], or [batch, 262144]."""
    return model(x)
