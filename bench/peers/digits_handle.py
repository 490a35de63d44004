"""The digits through Shoal's Python handle: `digits_handle.py ROUNDS`, queries a second as JSON.

The model of examples/digits, every digit a query of its own, all of them in flight at once; alone
(max_batch_size 1) and in batches, in turn. Each answer must be what the model says to that digit alone.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "digits"))
from digits import Digits, load_data

from shoal import serve

MAX_BATCH_SIZE = int(os.environ["SHOAL_BENCH_MAX_BATCH_SIZE"])
REPEATS = 3


def main(rounds: int) -> None:
    """Start a server, measure, print."""
    client = serve.start(http_port=0)
    try:
        rates = measure(client, rounds)
    finally:
        client.shutdown()
    print(
        json.dumps(
            {
                size: {"queries_per_second": statistics.median(all_), "rounds": all_}
                for size, all_ in rates.items()
            }
        )
    )


def measure(client: serve.Client, rounds: int) -> dict[str, list[float]]:
    """Queries a second by max_batch_size."""
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    client.create_backend("digits", Digits, config={"max_batch_size": 1, "env": one_thread})
    client.create_endpoint("digits", backend="digits")
    handle = client.get_handle("digits")
    images = [*load_data().images] * REPEATS
    alone = [ref.result() for ref in [handle.remote(image=image) for image in images]]
    rates: dict[str, list[float]] = {"1": [], str(MAX_BATCH_SIZE): []}
    for _ in range(rounds):
        for size, seen in rates.items():
            client.update_backend_config("digits", {"max_batch_size": int(size)})
            began = time.perf_counter()
            answers = [ref.result() for ref in [handle.remote(image=image) for image in images]]
            seen.append(len(images) / (time.perf_counter() - began))
            if answers != alone:
                raise SystemExit(f"with max_batch_size {size} some answers differ")
    return rates


if __name__ == "__main__":
    main(int(sys.argv[1]))
