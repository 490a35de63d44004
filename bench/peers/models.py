"""The models that every peer serves, so that all of them compute the same thing at the same cost.

A query is a JSON object {"x": …}, or the raw bytes of a tensor, its answer a JSON number. Each model takes the list
of a batch's x and returns the list of answers, and counts batches and queries in a small shared file: peers that
do not tell their batch sizes are measured in the same way as those that do.
"""

from __future__ import annotations

import mmap
import os
import pickle
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Model = Callable[[Any], Any]

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


def total(bodies: list[bytes]) -> list[int]:
    """The sum of each 1 MB tensor: raw bytes are laid side by side in one array, then summed."""
    rows = np.stack([np.frombuffer(body, np.float32) for body in bodies])
    answers: list[int] = sum_rows(rows).tolist()
    return answers


def digits() -> Model:
    """The network that digits_model.py trained."""
    network = pickle.loads(Path(os.environ["SHOAL_BENCH_DIGITS"]).read_bytes())

    def predict(images: list[list[int]]) -> list[int]:
        answers: list[int] = network.predict(np.asarray(images, dtype=np.float64)).tolist()
        return answers

    return predict


def add_one_to_rows(xs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """W1, on an array of the batch."""
    return xs + 1


def sleep_for_rows(xs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """W2, on an array of the batch."""
    time.sleep(SLEEP_SECONDS)
    return xs + 1


def sum_rows(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The sum of each tensor, on an array of the batch."""
    return rows.sum(axis=1).astype(int)


# The models for servers that put the array together themselves.
ROW_MODELS: dict[str, Model] = {"adder": add_one_to_rows, "sleeper": sleep_for_rows, "total": sum_rows}

MODELS: dict[str, Callable[[], Model]] = {
    "adder": lambda: add_one,
    "sleeper": lambda: sleep,
    "total": lambda: total,
    "digits": digits,
}


def load(name: str) -> Model:
    """The model of that name, counting its batches where $SHOAL_BENCH_COUNTS asks for it."""
    return counting(MODELS[name]())


def load_rows(name: str) -> Model:
    """The model of that name that takes and returns an array of the batch, counting its batches."""
    return counting(ROW_MODELS[name])


def counting(model: Model) -> Model:
    """The model, counting its batches where $SHOAL_BENCH_COUNTS asks for it."""
    path = os.environ.get("SHOAL_BENCH_COUNTS")
    if not path:
        return model
    counter = Counter(path)

    def counted(xs: Any) -> Any:
        counter.add(len(xs))
        return model(xs)

    return counted
