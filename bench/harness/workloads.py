"""What is measured: the models, their queries with the right answers, and how many connections ask at a time."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

MAX_BATCH_SIZE = 32
TENSOR_FLOATS = 262_144

# What models read at their start: the digits' trained model, and its queries with their answers.
DIGITS_MODEL = "digits.pickle"
DIGITS_CASES = "digits.json"

Value = int | list[int] | bytes


@dataclass(frozen=True)
class Case:
    """A query as the model sees it, and the answer that is its own."""

    x: Value
    y: int


@dataclass(frozen=True)
class Exchange:
    """A query as a server takes it over HTTP, and its right answer: the whole body, or a part that tells."""

    body: bytes
    answer: str
    content_type: str = "application/json"
    whole: bool = True

    def accepts(self, answer: str | None) -> bool:
        """Whether that is the right answer. Some servers end a JSON body with a line break."""
        if answer is None:
            return False
        return answer.strip() == self.answer if self.whole else self.answer in answer


@dataclass(frozen=True)
class Workload:
    """One model under load; model is its name in peers/models.py."""

    name: str
    title: str
    model: str
    connections: tuple[int, ...]
    cases: Callable[[Path], Iterator[Case]]
    ideal_batches_per_second: float | None = None
    # A program in peers/ that prepares it, once, in Shoal's environment.
    program: str = ""
    # How the answers are checked before the load: so many clients at once, each with so many queries.
    checkers: int = 64
    checks: int = 8

    def ideal_rate(self, connections: int) -> float | None:
        """The requests/s that no server can exceed, where the model's own time sets such a bound."""
        if self.ideal_batches_per_second is None:
            return None
        return min(connections, MAX_BATCH_SIZE) * self.ideal_batches_per_second

    def first_case(self, scratch: Path) -> Case:
        """The query that wrk posts."""
        return next(self.cases(scratch))

    def check_cases(self, scratch: Path) -> list[Case]:
        """Different queries, as many as are checked."""
        return list(islice(self.cases(scratch), self.checkers * self.checks))


def numbers(_: Path) -> Iterator[Case]:
    """41, which wrk posts, then all from 0."""
    yield Case(41, 42)
    for x in range(10_000):
        yield Case(x, x + 1)


def digits(scratch: Path) -> Iterator[Case]:
    """The handwritten digits, with what the model says to each of them alone (see peers/digits_model.py)."""
    for pixels, digit in json.loads((scratch / DIGITS_CASES).read_text()):
        yield Case(pixels, digit)


def tensors(_: Path) -> Iterator[Case]:
    """1 MB of float32 each, whose sum float32 holds exactly in whatever order it is taken."""
    body = bytearray(struct.pack("<4f", 0, 1, 2, 3) * (TENSOR_FLOATS // 4))
    rest = TENSOR_FLOATS // 4 * 6
    for x in range(1, 4096):
        struct.pack_into("<f", body, 0, x)
        yield Case(bytes(body), rest + x)


WORKLOADS = (
    Workload("W1", "vectorised adder, numpy `x + 1`", "adder", (1, 16, 64, 256), numbers),
    Workload(
        "W2",
        "a model that takes 5 ms a batch, whatever its size",
        "sleeper",
        (1, 16, 24, 64, 256),
        numbers,
        ideal_batches_per_second=200,
    ),
    Workload(
        "digits",
        "scikit-learn's network of examples/digits, 64 pixels in JSON",
        "digits",
        (64,),
        digits,
        program="digits_model.py",
    ),
    Workload(
        "tensors",
        "the sum of a `[262144] float32`, 1 MB of raw bytes a query",
        "total",
        (1, 16),
        tensors,
        checkers=16,
        checks=4,
    ),
)


def plain(x: Value) -> bytes:
    """A query as most servers take it: a JSON object, or raw bytes."""
    return x if isinstance(x, bytes) else json.dumps({"x": x}).encode()


@dataclass(frozen=True)
class Form:
    """How a server wants queries and gives answers."""

    encode: Callable[[Value], bytes] = plain
    answer: str = "{y}"
    whole: bool = True

    def exchange(self, case: Case) -> Exchange:
        """A case in this form."""
        kind = "application/octet-stream" if isinstance(case.x, bytes) else "application/json"
        return Exchange(self.encode(case.x), self.answer.replace("{y}", str(case.y)), kind, self.whole)


def as_list(x: Value) -> bytes:
    """A query as a batch of one."""
    return json.dumps({"x": [x]}).encode()


def as_tensor(x: Value) -> bytes:
    """A query in the Open Inference Protocol."""
    row = x if isinstance(x, list) else [x]
    shape = [1, len(row)] if isinstance(x, list) else [1]
    return json.dumps({"inputs": [{"name": "x", "shape": shape, "datatype": "INT64", "data": row}]}).encode()


PLAIN = Form()
LIST = Form(as_list, "[{y}]")
OPEN_INFERENCE = Form(as_tensor, '"data":[{y}]', whole=False)
