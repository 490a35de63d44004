"""Batches that are sent ahead, and taken back, in a real worker process."""

from __future__ import annotations

import os

import pytest

from shoal import serve
from worker_server import RemoteError


def models():
    # Made in here so that they travel to the worker by value.
    @serve.accept_batch
    def echo(requests, *, number):
        return number

    @serve.accept_batch
    async def echo_async(requests, *, number):
        return number

    return [echo, echo_async]


def items(number):
    return [(b'{"encoding": "json"}', b'{"kwargs": {"number": %d}}' % number)]


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("model", models())
def test_a_batch_sent_ahead_is_computed_once_it_was_claimed(worker, model, concurrency):
    server = worker(model, max_batch_size=4, concurrency=concurrency)
    sent = {server.send_ahead(2, items(n)): n for n in range(20)}
    answered = dict(server.receive_any() for _ in sent)
    assert answered == {batch_id: [n] for batch_id, n in sent.items()}
    with pytest.raises(BlockingIOError):
        os.read(server.unclaimed, 8)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_batch_that_was_taken_back_is_skipped(worker, concurrency):
    server = worker(models()[0], max_batch_size=4, concurrency=concurrency)
    taken_back = server.send_ahead(2, items(1), offer=False)
    kept = server.send_ahead(2, items(2))
    plain = server.send(2, items(3))
    answers = dict(server.receive_any() for _ in range(2))
    assert answers == {kept: [2], plain: [3]}
    assert taken_back not in answers
    assert server.finish()[0] == 0


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_batch_that_cannot_be_read_is_an_error_and_the_worker_lives(worker, concurrency):
    server = worker(models()[0], max_batch_size=4, concurrency=concurrency)
    for origin in (1, 2):
        server.send(origin, items(1), method="\udcff")  # the byte 0xff
        with pytest.raises(RemoteError, match="can't decode byte 0xff"):
            server.receive()
    server.send_ahead(2, items(2))
    assert server.receive() == [2]
    assert server.finish()[0] == 0
