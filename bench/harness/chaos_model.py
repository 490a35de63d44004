"""The models of bench/chaos.py, and what their answers must be."""

from __future__ import annotations

import os
import random
import signal
import time
import zlib
from typing import Any

from shoal import serve


def digest(n: int) -> int:
    """What the model answers to a number."""
    return zlib.crc32(str(n).encode())


class Chaos:
    """Answers [version, n, digest of n], and does what bad queries want."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.lie = float(os.environ.get("CHAOS_LIE", "0"))

    @serve.accept_batch
    def __call__(self, requests: list[Any], *, n: Any = None, kind: Any = None) -> list[Any]:
        """Compute a batch."""
        if serve.context.web:
            n = [int(request.args["n"]) for request in requests]
            kind = [request.args["kind"] for request in requests]
        time.sleep(0.002)
        if "raise" in kind:
            raise RuntimeError("a query of the batch raised")
        if "kill" in kind:
            os.kill(os.getpid(), signal.SIGKILL)
        return [
            ValueError(f"no {i}")
            if what == "item"
            else [self.version, i, digest(i) + (random.random() < self.lie)]
            for i, what in zip(n, kind, strict=True)
        ]


@serve.accept_batch(arrays=True)
def rows(x: Any) -> Any:
    """Compute on arrays."""
    return 3 * x + 1
