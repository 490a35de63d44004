"""The models that every peer serves, so that all of them compute the same thing at the same cost.

A query is the JSON object {"x": n}, its answer the JSON number n + 1. Each model takes the list of a batch's
x and returns the list of answers, and counts batches and queries in a small shared file: peers that do not
tell their batch sizes are measured in the same way as those that do.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Callable

import numpy as np

Model = Callable[[list[int]], list[int]]

SLEEP_SECONDS = 0.005


class Counter:
    """Batches and queries so far, two int64 in the file that $SHOAL_BENCH_COUNTS names."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 16)
        self._batches, self._queries = struct.unpack("<qq", self._memory)

    def add(self, size: int) -> None:
        """Count one batch of that many queries."""
        self._batches += 1
        self._queries += size
        struct.pack_into("<qq", self._memory, 0, self._batches, self._queries)


def add_one(xs: list[int]) -> list[int]:
    """W1: a vectorised adder."""
    answers: list[int] = (np.array(xs) + 1).tolist()
    return answers


def sleep(xs: list[int]) -> list[int]:
    """W2: a model that takes 5 ms a batch, whatever its size."""
    time.sleep(SLEEP_SECONDS)
    return [x + 1 for x in xs]


MODELS: dict[str, Model] = {"adder": add_one, "sleeper": sleep}


def load(name: str) -> Model:
    """The model of that name, counting its batches where $SHOAL_BENCH_COUNTS asks for it."""
    model = MODELS[name]
    path = os.environ.get("SHOAL_BENCH_COUNTS")
    if not path:
        return model
    counter = Counter(path)

    def counted(xs: list[int]) -> list[int]:
        counter.add(len(xs))
        return model(xs)

    return counted
