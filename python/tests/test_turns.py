"""Who reads the answers: those who wait, one at a time, or the thread in the background."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import struct
import threading
import time

import pytest

import shoal
from shoal import _wire
from shoal._inbox import Inbox


@pytest.fixture
def handle(client):
    return client.get_handle("adder")


@pytest.fixture
def held(handle, link_server):
    """Makes refs whose queries the server holds; returns each with the query's id."""
    link_server.answer = lambda query: link_server.WITHHELD

    def make():
        ref = handle.remote()
        return ref, link_server.queries.get(timeout=20).id

    return make


class Waiting(threading.Thread):
    """A thread that waits for refs; got is what came of it."""

    def __init__(self, *refs, timeout=20.0):
        super().__init__(daemon=True)
        self.refs = refs
        self.timeout = timeout
        self.got = None
        self.start()

    def run(self):
        try:
            self.got = shoal.get(list(self.refs), timeout=self.timeout)
        except Exception as exc:
            self.got = exc


def until(true):
    give_up = time.monotonic() + 20
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.001)


def test_answers_come_in_while_nobody_waits(held, link_server):
    for _ in range(3):
        ref, query = held()
        link_server.send(query, "answer")
        until(ref.done)
        assert ref.result() == "answer"


def test_they_also_come_in_right_after_somebody_waited(handle, held, link_server):
    for _ in range(3):
        ref, query = held()
        other, other_query = held()
        link_server.send(query, 1)
        assert ref.result(20) == 1
        link_server.send(other_query, 2)
        until(other.done)


def test_whoever_gives_up_lets_the_next_one_read(held, link_server):
    (never, _), (ref, query), (last, last_query) = held(), held(), held()
    turns = never._source._turns
    first = Waiting(never, timeout=2)  # time for the others to be in line
    until(turns._turn.locked)
    second = Waiting(ref)
    until(lambda: len(turns._line) == 1)
    third = Waiting(last)
    until(lambda: len(turns._line) == 2)
    first.join(20)
    assert isinstance(first.got, TimeoutError)
    link_server.send(query, 2)
    second.join(20)
    link_server.send(last_query, 3)
    third.join(20)
    assert (second.got, third.got) == ([2], [3])
    assert not turns._line


def test_one_reads_for_all_who_wait(held, link_server):
    pairs = [held() for _ in range(40)]
    threads = [Waiting(pairs[i][0], pairs[-1 - i][0]) for i in range(20)]
    random.Random(1).shuffle(pairs)
    for ref, query in pairs:
        link_server.send(query, ref._id)
    for i, thread in enumerate(threads):
        thread.join(20)
        assert thread.got == [ref._id for ref in thread.refs], i


def test_an_await_is_answered_beside_a_thread_that_waits(held, link_server):
    (slow, slow_query), (ref, query) = held(), held()
    thread = Waiting(slow)
    until(slow._source._turns._turn.locked)

    async def main():
        async def wrap():
            return await ref

        task = asyncio.ensure_future(wrap())
        await asyncio.sleep(0)
        link_server.send(query, "awaited")
        return await asyncio.wait_for(task, 20)

    assert asyncio.run(main()) == "awaited"
    link_server.send(slow_query, "slow")
    thread.join(20)
    assert thread.got == ["slow"]


def test_an_interrupted_wait_loses_nothing(held, link_server):
    ref, query = held()
    turns, main = ref._source._turns, threading.main_thread().ident

    def interrupt():
        until(turns._turn.locked)
        signal.pthread_kill(main, signal.SIGINT)

    timer = threading.Thread(target=interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        ref.result(20)
    timer.join()
    link_server.send(query, "there")
    assert ref.result(20) == "there"


def test_a_connection_that_ends_tells_all_who_wait(held, link_server):
    threads = [Waiting(held()[0]) for _ in range(5)]
    link_server.links[-1].shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(20)
        assert isinstance(thread.got, shoal.Unavailable)


def frame(body):
    return struct.pack("<I", len(body)) + body


def test_an_inbox_gives_every_frame_however_it_is_cut():
    rng = random.Random(2)
    ours, theirs = socket.socketpair()
    inbox, got = Inbox(), []
    sizes = [1, 2, 5, 300, 70_000, (256 << 10) - 4, (256 << 10) - 3, 256 << 10, 1_000_000, 3]
    sent = [bytes([i]) + rng.randbytes(size - 1) for i, size in enumerate(sizes * 3)]
    stream = b"".join(map(frame, sent))
    with ours, theirs:
        at = 0
        while at < len(stream):
            step = rng.choice((1, 3, 100, 5000, 100_000))
            at += theirs.send(stream[at : at + step])
            while True:
                try:
                    assert inbox.fill(ours)
                except BlockingIOError:
                    break
                got += inbox.frames()
        assert got == sent
        theirs.sendall(frame(b"half")[:-1])
        theirs.close()
        assert inbox.fill(ours)
        assert inbox.frames() == []
        with pytest.raises(_wire.ProtocolError, match="middle"):
            inbox.fill(ours)


@pytest.mark.parametrize("length", [0, _wire.LIMIT + 1])
def test_an_inbox_refuses_impossible_lengths(length):
    with pytest.raises(_wire.ProtocolError, match=str(length)):
        Inbox(struct.pack("<I", length) + b"x").frames()
