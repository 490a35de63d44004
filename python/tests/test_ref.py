from __future__ import annotations

import asyncio
import sys
import threading

import pytest

import shoal
from shoal import _ref


def pending():
    return _ref.Ref(None)


def test_a_ref_that_is_done():
    ref = pending()
    assert not ref.done()
    _ref.resolve_value(ref, 5)
    assert ref.done()
    assert ref.result() == ref.result(0) == shoal.get(ref) == 5
    assert "done" in repr(ref)


def test_the_first_answer_stands():
    ref = pending()
    _ref.resolve_value(ref, 5)
    _ref.resolve_error([ref], lambda: ValueError("late"))
    assert ref.result() == 5


def test_waiting_in_many_threads():
    ref = pending()
    got = []
    threads = [threading.Thread(target=lambda: got.append(ref.result(20))) for _ in range(8)]
    for thread in threads:
        thread.start()
    _ref.resolve_value(ref, 1)
    for thread in threads:
        thread.join()
    assert got == [1] * 8


def test_timeouts_leave_the_ref_as_it_was():
    ref = pending()
    with pytest.raises(TimeoutError):
        ref.result(0.01)
    done = pending()
    _ref.resolve_value(done, 0)
    with pytest.raises(TimeoutError, match="2 of 3"):
        shoal.get([ref, done, ref], timeout=0.01)
    assert not ref._waiters
    _ref.resolve_value(ref, 1)
    assert shoal.get([ref, ref], timeout=0) == [1, 1]


def test_get_keeps_the_order_and_raises_the_first_error():
    refs = [pending() for _ in range(4)]
    for i in reversed(range(4)):
        _ref.resolve_value(refs[i], i)
    assert shoal.get(refs) == [0, 1, 2, 3]
    bad = [pending(), pending()]
    _ref.resolve_error([bad[1]], lambda: KeyError("second"))
    _ref.resolve_error([bad[0]], lambda: ValueError("first"))
    with pytest.raises(ValueError, match="first"):
        shoal.get(bad)
    assert shoal.get([]) == []


def test_wait():
    refs = [pending() for _ in range(4)]
    _ref.resolve_value(refs[2], 1)
    assert shoal.wait(refs) == ([refs[2]], [refs[0], refs[1], refs[3]])
    assert shoal.wait(refs, num_returns=2, timeout=0.01) == ([refs[2]], [refs[0], refs[1], refs[3]])
    _ref.resolve_value(refs[0], 1)
    assert shoal.wait(refs) == ([refs[0]], refs[1:])
    threading.Timer(0.01, _ref.resolve_value, (refs[3], 1)).start()
    assert shoal.wait(refs, num_returns=3) == ([refs[0], refs[2], refs[3]], [refs[1]])
    with pytest.raises(ValueError, match="num_returns"):
        shoal.wait(refs, num_returns=5)


def test_only_refs():
    with pytest.raises(TypeError, match="int"):
        shoal.get([1])
    with pytest.raises(TypeError, match="NoneType"):
        shoal.wait(None)


def test_await():
    ref, bad = pending(), pending()

    async def main():
        asyncio.get_running_loop().call_soon(_ref.resolve_value, ref, 3)
        asyncio.get_running_loop().call_soon(_ref.resolve_error, [bad], lambda: ValueError("no"))
        assert await ref == await ref == 3
        return await asyncio.gather(waiting(ref), waiting(bad), return_exceptions=True)

    async def waiting(ref):
        return await ref

    three, error = asyncio.run(main())
    assert three == 3
    assert isinstance(error, ValueError)


def test_an_await_that_is_given_up():
    ref = pending()

    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(wrap(), 0.01)

    async def wrap():
        await ref

    asyncio.run(main())
    _ref.resolve_value(ref, 1)
    assert ref.result() == 1


class TestRemote:
    def test_functions_run_in_parallel(self):
        barrier = threading.Barrier(5)

        @shoal.remote
        def meet(i):
            barrier.wait(20)
            return i

        assert shoal.get([meet.remote(i) for i in range(5)]) == list(range(5))

    def test_refs_among_the_arguments_are_resolved_first(self):
        gate = threading.Event()

        @shoal.remote
        def slow():
            gate.wait(20)
            return 2

        @shoal.remote
        def add(a, *, b):
            return a + b

        total = add.remote(slow.remote(), b=add.remote(1, b=slow.remote()))
        assert not total.done()
        gate.set()
        assert shoal.get(total) == 5

    def test_errors_arrive_also_through_arguments(self):
        @shoal.remote
        def fail():
            raise ValueError("no")

        @shoal.remote
        def ident(x):
            return x

        with pytest.raises(ValueError, match="no"):
            shoal.get(fail.remote())
        with pytest.raises(ValueError, match="no"):
            shoal.get(ident.remote(fail.remote()))

        @shoal.remote
        def leave():
            sys.exit(3)

        with pytest.raises(RuntimeError, match="SystemExit"):
            shoal.get(leave.remote())

    def test_tasks_may_wait_for_tasks_in_a_small_pool(self):
        shoal.init(num_cpus=1, ignore_reinit_error=True)
        try:

            @shoal.remote
            def depth(n):
                return 0 if n == 0 else 1 + shoal.get(depth.remote(n - 1))

            assert shoal.get(depth.remote(20)) == 20
        finally:
            shoal.init(num_cpus=32)

    def test_the_pool_keeps_its_size(self):
        shoal.init(num_cpus=2)
        lock, pair = threading.Lock(), threading.Barrier(2)
        running = most = 0

        @shoal.remote
        def work():
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            pair.wait(20)  # for another one that runs
            with lock:
                running -= 1

        try:
            shoal.get([work.remote() for _ in range(20)])
            assert most == 2
        finally:
            shoal.init(num_cpus=32)

    def test_cancel_before_it_began(self):
        shoal.init(num_cpus=1)
        began, gate, ran = threading.Event(), threading.Event(), []

        @shoal.remote
        def hold():
            began.set()
            gate.wait(20)

        @shoal.remote
        def work(*args):
            ran.append(1)

        try:
            first = hold.remote()
            began.wait(20)
            queued, dependent = work.remote(), work.remote(first)
            assert queued.cancel()
            assert dependent.cancel()
            with pytest.raises(shoal.Canceled):
                queued.result()
            gate.set()
            first.result()
            assert not first.cancel()
            shoal.get(work.remote())
            assert ran == [1]
        finally:
            shoal.init(num_cpus=32)

    def test_shutdown_drops_what_has_not_begun(self):
        shoal.init(num_cpus=1)
        began, gate = threading.Event(), threading.Event()

        @shoal.remote
        def hold():
            began.set()
            gate.wait(20)

        try:
            refs = [hold.remote(), hold.remote()]
            began.wait(20)
            shoal.shutdown()
            with pytest.raises(shoal.Canceled):
                refs[1].result(20)
            gate.set()
            refs[0].result(20)
        finally:
            shoal.init(num_cpus=32)

    def test_options_and_misuse(self):
        @shoal.remote(num_cpus=2)
        def f(x):
            "Doc."
            return x

        assert f.__doc__ == "Doc."
        assert shoal.get(f.options(num_gpus=1).remote(1)) == 1
        with pytest.raises(TypeError, match=r"f\.remote"):
            f(1)
        with pytest.raises(ValueError, match="num_returns"):
            f.options(num_returns=2)
        with pytest.raises(ValueError, match="speed"):
            shoal.remote(speed=1)
        with pytest.raises(TypeError, match="create_backend"):
            shoal.remote(type("A", (), {}))
