"""Models that take arrays, for the tests of the Go side."""

import os
import signal
import time
from typing import Annotated

import numpy as np
import numpy.typing as npt

from shoal import serve


@serve.accept_batch(arrays=True)
def plus(x, y=None):
    """Adds one, or y."""
    return x + (1 if y is None else y)


@serve.accept_batch(arrays={"x": "uint8"})
def same(x):
    return x


@serve.accept_batch
def with_requests(requests, x: npt.NDArray[np.float32]):
    return [f"{r.headers.get('X-Thing')} {x.dtype} {row.sum()}" for r, row in zip(requests, x, strict=True)]


class Padded:
    @serve.accept_batch
    def __call__(self, x: Annotated[np.ndarray, serve.Array("int64", pad="longest", pad_value=-1)], x_mask, x_lengths):
        return {"sum": (x * x_mask).sum(axis=1), "length": x_lengths, "padded": np.full(len(x), x.shape[1])}

    @serve.accept_batch(arrays={"x": serve.Array("float32", shape=(None,), pad=[4, 8])})
    def shape(self, x):
        return [list(x.shape)] * len(x)


class Keeper:
    """Keeps an array now and then, and tells what became of it."""

    def __init__(self):
        self.kept = []

    @serve.accept_batch(arrays={"x": "uint8"})
    def keep(self, x):
        self.kept.append((x[:, ::2], x[:, :1].copy()))
        x += 1
        return x[:, :4]

    @serve.accept_batch(arrays={"x": "uint8"})
    def forget(self, x):
        """Answers how many kept arrays are not what they were."""
        wrong = sum(not (kept == value + 1).all() for kept, value in self.kept)
        self.kept.clear()
        return [wrong] * len(x)


@serve.accept_batch(arrays=True)
def wrong_count(x):
    return x[:-1]


@serve.accept_batch(arrays={"x": "uint8"})
def memory(x):
    """Tells about the memory that x lies in."""
    return [{"own": x.flags.owndata, "writeable": x.flags.writeable, "base": x.base is not None}] * len(x)


@serve.accept_batch(arrays={"x": "uint8"})
def dies(x):
    os.kill(os.getpid(), signal.SIGKILL)


@serve.accept_batch(arrays={"x": "uint8"})
def grow(x):
    """Answers with much more than it got."""
    return np.repeat(x, 100_000, axis=1)


@serve.accept_batch(arrays={"x": "uint8"})
def take(x):
    """Answers with the first number of each array, and looks at no other."""
    return x[:, 0]


class Stirrer:
    """Answers with x + 1, computed in place; keeps an array now and then."""

    def __init__(self):
        self.kept = []

    @serve.accept_batch(arrays={"x": "uint8"})
    def __call__(self, x):
        if x[0, 0] % 5 == 0:
            self.kept.append(x[:, ::3])
            del self.kept[:-4]
        if x[0, 0] % 3 == 0:
            time.sleep(0.002)
        x += 1
        return x
