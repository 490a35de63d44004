"""Replicas that come and go with the load, and workers with limits: only a guilty query may fail."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from harness import Loads, ask, backend, deploy, until

from shoal import WorkerDied, serve


class Slow:
    """Takes its time."""

    @serve.accept_batch
    def __call__(self, requests: list[Any], *, number: Any = None) -> list[list[Any]]:
        if serve.context.web:
            number = [int(request.args["number"]) for request in requests]
        time.sleep(0.1)
        return [["slow", n] for n in number]


def replicas(client: serve.Client, name: str) -> int:
    return len(backend(client, name)["replicas"])


def gauge(client: serve.Client, metric: str) -> float:
    lines = ask(client, "/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(metric + "{")).split()[1])


def test_replicas_come_with_the_load_and_go_without_it(client: serve.Client) -> None:
    deploy(
        client, "m", Slow, max_batch_size=1, max_replicas=3, scale_up_queue_time="50ms", scale_down_delay="1s"
    )
    assert replicas(client, "m") == 1
    with Loads(client, "m") as load:
        until(lambda: replicas(client, "m") == 3, "three replicas")
        assert gauge(client, "shoal_replicas_wanted") == 3
        load.more(10)
    assert load.errors == []
    until(lambda: replicas(client, "m") == 1, "one replica")
    assert gauge(client, "shoal_replicas_wanted") == 1


def test_an_idle_backend_has_no_worker_and_holds_the_first_queries(
    client: serve.Client, pool: ThreadPoolExecutor
) -> None:
    deploy(client, "m", Slow, idle_timeout="500ms")
    until(lambda: backend(client, "m")["state"] == "idle", "the backend to be idle")
    assert replicas(client, "m") == 0
    assert gauge(client, "shoal_replicas_wanted") == 0
    assert ask(client, "/readyz").status_code == 200
    handle = client.get_handle("m")
    refs = [handle.remote(number=n) for n in range(10)]
    web = [pool.submit(ask, client, f"/m?number={n}") for n in range(10)]
    assert [ref.result(30)[1] for ref in refs] == list(range(10))
    assert [query.result().json()[1] for query in web] == list(range(10))
    assert backend(client, "m")["scale_events"]["wake"] >= 1


class Greedy:
    """Takes as many MiB of memory as it is asked to, and touches them."""

    @serve.accept_batch
    def __call__(self, requests: list[Any], *, mib: Any) -> list[int]:
        held = [bytearray(b"x" * (n << 20)) for n in mib]
        return [len(block) for block in held]


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_query_that_takes_too_much_memory_fails_alone(client: serve.Client, replicas: int) -> None:
    deploy(client, "m", Greedy, max_batch_size=8, num_replicas=replicas, memory_limit="512MiB")
    handle = client.get_handle("m")
    sizes = [1, 1, 4096, 1, 1, 1, 4096, 1]
    refs = [handle.remote(mib=n) for n in sizes]
    for ref, size in zip(refs, sizes, strict=True):
        if size > 512:
            with pytest.raises(MemoryError):
                ref.result(30)
        else:
            assert ref.result(30) == size << 20


class Sharing:
    """Takes memory that is not its heap: rlimits do not count it, a cgroup does."""

    @serve.accept_batch
    def __call__(self, requests: list[Any], *, mib: Any) -> list[bool]:
        import mmap
        from pathlib import Path

        for size in (n << 20 for n in mib if n):
            with mmap.mmap(-1, size, mmap.MAP_SHARED) as taken:
                for page in range(0, size, mmap.PAGESIZE):
                    taken[page] = 1
        confined = "/shoal-" in Path("/proc/self/cgroup").read_text()
        return [confined] * len(requests)


def test_a_query_that_takes_too_much_of_any_memory_fails_alone(client: serve.Client) -> None:
    deploy(client, "m", Sharing, max_batch_size=8, memory_limit="128MiB")
    handle = client.get_handle("m")
    if not handle.remote(mib=0).result(60):
        pytest.skip("the system does not let the server make cgroups")
    sizes = [1, 1, 1024, 1, 1]
    refs = [handle.remote(mib=n) for n in sizes]
    for ref, size in zip(refs, sizes, strict=True):
        if size > 128:
            with pytest.raises(WorkerDied, match=r"more than memory_limit \(128 MiB\)"):
                ref.result(60)
        else:
            assert ref.result(60)
