"""serve.context.cancelled, in a real worker process."""

from __future__ import annotations

import asyncio
import os
import struct
import time

import pytest

from shoal import serve
from shoal._cancels import Cancels

WEB = [(b"GET /\nid\n", b"")]


@pytest.fixture(params=["plain", "async"])
def endless(request):
    """A model that computes until it is cancelled."""

    @serve.accept_batch
    def plain(requests):
        while not serve.context.cancelled:
            time.sleep(0.001)
        return [serve.context.cancelled] * len(requests)

    @serve.accept_batch
    async def asynchronous(requests):
        while not serve.context.cancelled:
            await asyncio.sleep(0.001)
        return [serve.context.cancelled] * len(requests)

    return plain if request.param == "plain" else asynchronous


def test_outside_of_a_worker_nothing_is_cancelled():
    assert serve.context.cancelled is False


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_model_learns_that_its_batch_was_cancelled(worker, endless, concurrency):
    server = worker(endless, concurrency=concurrency)
    for _ in range(2):
        batch = server.send(1, WEB)
        server.cancel(batch)
        assert server.receive(batch) == [True]


def test_batches_that_overlap_are_cancelled_one_by_one(worker, endless):
    server = worker(endless, concurrency=2)
    first, second = server.send(1, WEB), server.send(1, WEB)
    server.cancel(second)
    assert server.receive_any() == (second, [True])
    server.cancel(first)
    assert server.receive_any() == (first, [True])


def test_a_batch_is_not_cancelled_with_those_before_it(worker):
    def model(request):
        return serve.context.cancelled

    server = worker(model)
    assert server.web("/") == [False]
    server.cancel(*range(server.next_id + 1000, server.next_id + 4000), server.next_id)
    assert server.web("/") == [False]
    server.cancel(server.next_id + 1)
    assert server.web("/") == [True]


def test_a_worker_that_is_told_often_forgets_the_oldest():
    read, write = os.pipe()
    os.set_blocking(read, False)
    cancels = Cancels(read)
    for first in range(0, 20_000, 1000):
        os.write(write, struct.pack("<1000Q", *range(first, first + 1000)))
        assert cancels.has(first + 999)
    assert not cancels.has(0)
    os.close(write)
    assert not cancels.has(1)
    os.close(read)
