"""What W2's model permits on this machine: the same function called in a loop, without any server.

`python3 bench/loop.py` prints queries a second at batch 32. A sleep of 5 ms lasts longer than that by what
the machine needs to wake a process, so that 6,400 a second are out of reach for every server.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "peers"))
import models

BATCH = 32
ROUNDS = 5
SECONDS = 1.0


def rate(model: models.Model) -> float:
    """Queries a second of a model that is called again and again with a full batch."""
    queries, inputs = 0, list(range(BATCH))
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < SECONDS:
        queries += len(model(inputs))
    return queries / elapsed


def main() -> None:
    """Print the median of some rounds."""
    rates = [rate(models.sleep) for _ in range(ROUNDS)]
    print(f"{statistics.median(rates):,.0f} queries/s, the median of {ROUNDS} rounds of {SECONDS:.0f} s")


if __name__ == "__main__":
    main()
