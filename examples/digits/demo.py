"""`make demo`: serves a digit classifier and an adder, and sends every digit as a query of its own, twice.

First each query is computed alone (max_batch_size 1), then the server may batch up to 32 of those that wait.
Every figure that it prints was measured in that run.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from digits import Data, Digits, load_data
from tqdm import tqdm

import shoal
from shoal import serve

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "adder"))
from adder import batch_adder

BATCH = 32
HTTP_CLIENTS = 64


class Run(NamedTuple):
    """All digits, sent once: the answers, how long it took, and the server's own count of batches by size."""

    answers: np.ndarray
    seconds: float
    sizes: dict[int, int]

    @property
    def rate(self) -> float:
        return len(self.answers) / self.seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--http-port", type=int, default=8000, help="default 8000; 0 picks a free one")
    options = parser.parse_args()
    data = load_data()
    client = serve.start(http_port=options.http_port)
    try:
        deploy(client, data)
        show_adder(client)
        show_digits(client, data)
    finally:
        client.shutdown()


def deploy(client: serve.Client, data: Data) -> None:
    print(f"The server listens on http://{client.http_address}; its admin socket is {client.address}.")
    client.create_backend("adder:v1", batch_adder, config={"max_batch_size": 4})
    client.create_endpoint("adder", backend="adder:v1", route="/adder")
    start = time.perf_counter()
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # more do not pay for 8 x 8 pixels
    client.create_backend("digits:v1", Digits, config={"max_batch_size": 1, "env": one_thread})
    client.create_endpoint("digits", backend="digits:v1", route="/digits", methods=["POST"])
    took = time.perf_counter() - start
    print(f"  GET  /adder?number=41   {batch_adder.__module__}.{batch_adder.__name__}")
    print(f"  POST /digits            neural network, trained on {len(data.train)} digits, in {took:.1f} s")


def show_adder(client: serve.Client) -> None:
    handle = client.get_handle("adder")
    sums = shoal.get([handle.remote(number=n) for n in range(9)])
    batches = spell(sizes_of(client, "adder:v1"))
    print(f"\nThe adder, nine queries at once: {sums}, computed in batches of {batches}.")


def show_digits(client: serve.Client, data: Data) -> None:
    runs: dict[tuple[str, int], Run] = {}
    for limit in (1, BATCH):
        client.update_backend_config("digits:v1", {"max_batch_size": limit})
        print(f"\n{len(data.images):,} digits, each a query of its own, max_batch_size {limit}:", flush=True)
        for way, send in (("handle", through_handle), ("HTTP", over_http)):
            runs[way, limit] = measure(client, data, send, f"{way:>6}")
    show_rates(runs)
    show_accuracy(runs, data)
    for way in ("handle", "HTTP"):
        show_histogram(f"Batch sizes, {way}, max_batch_size {BATCH}", runs[way, BATCH].sizes)


def measure(client: serve.Client, data: Data, send: Any, label: str) -> Run:
    """Send all digits and wait for all answers; a few go ahead, to open connections and warm caches."""
    for _ in send(client, data.images[:8]):
        pass
    before = sizes_of(client, "digits:v1")
    start = time.perf_counter()
    answers = np.array(list(tqdm(send(client, data.images), label, len(data.images), unit="query")))
    seconds = time.perf_counter() - start
    after = sizes_of(client, "digits:v1")
    sizes = {
        size: count - before.get(size, 0) for size, count in after.items() if count > before.get(size, 0)
    }
    return Run(answers, seconds, sizes)


def through_handle(client: serve.Client, images: np.ndarray) -> Iterator[int]:
    """All queries at once, over the one connection of a handle; answers in order."""
    handle = client.get_handle("digits")
    refs = [handle.remote(image=image) for image in images]
    for ref in refs:
        yield ref.result()


def over_http(client: serve.Client, images: np.ndarray) -> Iterator[int]:
    """One POST a digit, from 64 parallel clients with a connection each; answers in order."""
    here = threading.local()

    def ask(image: np.ndarray) -> int:
        if not hasattr(here, "connection"):
            here.connection = http.client.HTTPConnection(client.http_address)
        here.connection.request(
            "POST", "/digits", json.dumps(image.tolist()), {"Content-Type": "application/json"}
        )
        response = here.connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"the server answered {response.status}: {body.decode()}")
        return int(body)

    with ThreadPoolExecutor(HTTP_CLIENTS) as clients:
        yield from clients.map(ask, images)


def sizes_of(client: serve.Client, backend: str) -> dict[int, int]:
    """How many batches of each size a backend has computed, as the server counts them."""
    found = next(b for b in client.status()["backends"] if b["name"] == backend)
    return {int(size): count for size, count in found["stats"]["batch_sizes"].items()}


def show_rates(runs: dict[tuple[str, int], Run]) -> None:
    print(f"\n{'queries/s':<22}{'one by one':>12}{f'up to {BATCH}':>12}{'ratio':>9}")
    names = {"handle": "one handle, pipelined", "HTTP": f"{HTTP_CLIENTS} HTTP clients"}
    for way, name in names.items():
        alone, batched = runs[way, 1].rate, runs[way, BATCH].rate
        print(f"{name:<22}{alone:>12,.0f}{batched:>12,.0f}{batched / alone:>8.1f}x")
    print("(The HTTP clients are threads of this one program and share the machine with the server.)")


def show_accuracy(runs: dict[tuple[str, int], Run], data: Data) -> None:
    right = runs["handle", BATCH].answers == data.labels
    held_out = right[data.held_out]
    print(f"\nAccuracy on the {len(held_out)} digits that training did not see: {held_out.mean():.2%}")
    print(f"Accuracy on all {len(right):,}, those of the training included: {right.mean():.2%}")
    first = runs["handle", 1].answers
    different = sum(int((run.answers != first).sum()) for run in runs.values())
    print(f"Answers that differ between these {len(runs)} runs: {different}.")


def show_histogram(title: str, sizes: dict[int, int]) -> None:
    total = sum(sizes.values())
    queries = sum(size * count for size, count in sizes.items())
    print(f"\n{title}: {total:,} batches, {queries / total:.1f} queries on average")
    most = max(sizes.values())
    for size, count in sorted(sizes.items()):
        print(f"  {size:>3} {'█' * max(1, round(40 * count / most))} {count:,}")


def spell(sizes: dict[int, int]) -> str:
    return ", ".join(str(size) for size, count in sorted(sizes.items()) for _ in range(count))


if __name__ == "__main__":
    main()
