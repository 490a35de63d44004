"""The worker process: `python -m shoal._worker --fd N` runs one replica of one model.

It reads batches from the descriptor, computes them and writes the answers, until the server closes its end.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import io
import json
import os
import platform
import queue
import select
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from . import _context, _wire
from ._answers import error_object
from ._batch import Batch
from ._call import Plan, Target
from ._cancels import Cancels
from ._claims import Claims
from ._compute import Reply, compute, compute_async, encode_batch_error
from ._load import load_target
from ._needs import need
from ._shared import Keeper, Region, SharedMemory
from ._version import __version__
from ._wire import FrameReader, json_frame, send_parts

if TYPE_CHECKING:
    from ._array_batch import ArrayBatch

_GRACE = 5.0  # seconds that a model may still compute after its server is gone


class Worker:
    """One connection to the server and the model that answers on it."""

    def __init__(
        self,
        sock: socket.socket,
        reader: FrameReader,
        target: Target,
        concurrency: int,
        claims: Claims,
        memory: SharedMemory | None = None,
    ) -> None:
        self._sock = sock
        self._claims = claims
        self._reader = reader
        self._target = target
        self._concurrency = concurrency
        self._memory = memory
        self._keeper = Keeper()
        self._sending = threading.Lock()
        self._loop: _Loop | None = None
        # How arrays are computed; a model that takes none needs no NumPy.
        self._arrays: Any = importlib.import_module("shoal._array_compute") if target.takes_arrays else None

    def run(self) -> None:
        """Answer batches until the server closes the connection; then finish those that were begun."""
        threads = _Threads(self._concurrency) if self._concurrency > 1 else None
        while (frame := self._reader.read()) is not None:
            if frame[0] == _wire.PING:
                self._give_sign_of_life(threads)
                continue
            job = self._open(frame)
            del frame
            if job is None:
                continue
            if isinstance(job.plan, Plan) and job.plan.is_async:
                self._start_async(job)
            elif threads is not None:
                threads.start(self._answer, job)
            else:
                self._answer(job)
            del job  # while the next read waits, the model's memory is the model's
        if threads is not None:
            threads.finish()
        if self._loop is not None:
            self._loop.finish()

    def _open(self, frame: bytearray) -> Job | None:
        """What a frame asks for; None when nothing is left to do for it. Raises ProtocolError."""
        region = None
        opened: bytearray | memoryview = frame
        if frame[0] == _wire.SHARED:
            region = Region(frame, self._memory)
            # What the server took back may by now be another batch's memory.
            if region.flags & _wire.MUST_CLAIM and not self._claims.take(region.id):
                return None
            opened = region.open(frame)
        try:
            return self._job(opened, region)
        except _wire.ProtocolError:
            raise
        except Exception as exc:  # of what a caller sent; who sends the next batch shall not suffer for it
            self._refuse(opened, region, exc)
            return None

    def _job(self, frame: bytearray | memoryview, region: Region | None) -> Job:
        if frame[0] == _wire.BATCH:
            own = frame if type(frame) is bytearray else bytearray(frame)
            return Job(self._target, Batch(own), region, self._arrays)
        if frame[0] == _wire.ARRAYS and self._arrays is not None:
            return Job(self._target, self._arrays.ArrayBatch(frame, region), region, self._arrays)
        raise _wire.ProtocolError(f"a frame of kind {frame[0]} where a batch was expected")

    def _refuse(self, frame: bytearray | memoryview, region: Region | None, exc: Exception) -> None:
        """Answer a batch that cannot be read with what is wrong with it."""
        origin, flags, _, _, batch_id = _wire.BATCH_HEAD.unpack_from(frame)
        must_claim = region is None and flags & _wire.MUST_CLAIM
        if not must_claim or self._claims.take(batch_id):
            self._send(encode_batch_error(batch_id, exc, api=origin != _wire.WEB), region)

    def _is_ours(self, job: Job) -> bool:
        return not job.ahead or self._claims.take(job.batch.id)

    def _answer(self, job: Job) -> None:
        if self._is_ours(job):
            self._send(job.compute(), job.region)

    def _start_async(self, job: Job) -> None:
        if self._loop is None:
            self._loop = _Loop(self._concurrency)
        self._loop.start(self._answer_async(job))

    async def _answer_async(self, job: Job) -> None:
        if self._is_ours(job):
            self._send(await job.compute_async(), job.region)

    def _send(self, reply: Reply, region: Region | None) -> None:
        with self._sending:
            try:
                if region is None:
                    send_parts(self._sock, *reply)
                else:
                    self._sock.sendall(self._settle(reply, region))
            except (BrokenPipeError, ConnectionResetError):
                pass  # nobody is there to hear it; the reader ends the process

    def _give_sign_of_life(self, threads: _Threads | None) -> None:
        """Answer a PING from where batches are computed, or would be."""
        if self._loop is not None:
            self._loop.call(self._pong)
        elif threads is not None:
            threads.start(self._pong)
        else:
            self._pong()

    def _pong(self) -> None:
        self._send(([_wire.PREFIX.pack(1, _wire.PONG)], _wire.PREFIX.size), None)

    def _settle(self, reply: Reply, region: Region) -> bytes:
        """The frames that end a batch with a region, which is the server's again unless the model kept it."""
        parts, total = reply
        answer = region.put(parts, total) or b"".join(parts)
        parts.clear()  # they may be views of the batch's own arrays
        freed = self._keeper.freed()  # before settle: this batch's region must outlast its answer
        return b"".join((freed, self._keeper.settle(region), answer))


class Job:
    """One batch, and how it is to be computed."""

    __slots__ = ("batch", "plan", "ahead", "region", "_target", "_arrays")

    def __init__(self, target: Target, batch: Batch | ArrayBatch, region: Region | None, arrays: Any) -> None:
        """Arrays is the module that computes with them, where the target takes any."""
        self._arrays = arrays
        self.batch = batch
        self.region = region
        self.ahead = batch.ahead and region is None  # else it was claimed with its region
        self._target = target
        try:
            self.plan: Plan | Exception = target.plan(batch.method)
        except Exception as exc:
            self.plan = exc

    def compute(self) -> Reply:
        """The reply of a plain function."""
        if isinstance(self.batch, Batch):
            if isinstance(self.plan, Exception) or self.plan.arrays is None:
                return compute(self._target, self.plan, self.batch)
            reply: Reply = self._arrays.compute_columns(self._target, self.plan, self.batch)
        else:
            reply = self._arrays.compute_arrays(self._target, self.plan, self.batch)
        return reply

    async def compute_async(self) -> Reply:
        """The reply of an async function."""
        assert isinstance(self.plan, Plan)
        if isinstance(self.batch, Batch):
            if self.plan.arrays is None:
                return await compute_async(self._target, self.plan, self.batch)
            reply: Reply = await self._arrays.compute_columns_async(self._target, self.plan, self.batch)
        else:
            reply = await self._arrays.compute_arrays_async(self._target, self.plan, self.batch)
        return reply


class _Threads:
    """As many threads as batches may be computed at once, for models that are plain functions."""

    def __init__(self, count: int) -> None:
        self._work: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"batch-{i}", daemon=True) for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def start(self, *call: Any) -> None:
        self._work.put(call)

    def finish(self) -> None:
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (call := self._work.get()) is not None:
            call[0](*call[1:])


class _Loop:
    """The event loop of async models, in a thread of its own."""

    def __init__(self, concurrency: int) -> None:
        import asyncio  # only async models pay for it

        self._submit = asyncio.run_coroutine_threadsafe
        self._loop = asyncio.new_event_loop()
        self._room = asyncio.Semaphore(concurrency)
        self._running: set[Any] = set()
        threading.Thread(target=self._loop.run_forever, name="event-loop", daemon=True).start()

    def start(self, answer: Any) -> None:
        future = self._submit(self._bounded(answer), self._loop)
        self._running.add(future)
        future.add_done_callback(self._running.discard)

    def call(self, function: Any) -> None:
        """Call a plain function on the loop."""
        self._loop.call_soon_threadsafe(function)

    async def _bounded(self, answer: Any) -> None:
        async with self._room:
            await answer

    def finish(self) -> None:
        for future in list(self._running):
            future.result()


def watch_hangup(sock: socket.socket) -> None:
    """End the process _GRACE seconds after the server is gone, even in the middle of a computation."""

    def watch() -> None:
        poller = select.poll()
        poller.register(sock.fileno(), 0)  # hang-up and error are always reported
        poller.poll()
        exit_later()

    threading.Thread(target=watch, name="hangup", daemon=True).start()


def exit_later() -> None:
    """Give the process _GRACE seconds, then end it whatever it does."""
    time.sleep(_GRACE)
    os._exit(1)


def take_init(reader: FrameReader) -> dict[str, Any] | None:
    """The body of the INIT frame; None when the server left before it sent one. Raises ProtocolError."""
    frame = reader.read()
    if frame is None:
        return None
    if frame[0] != _wire.INIT:
        raise _wire.ProtocolError(f"the first frame is of kind {frame[0]}, not INIT")
    init: dict[str, Any] = json.loads(frame[1:])
    return init


def shared_memory(init: dict[str, Any]) -> SharedMemory | None:
    """What INIT says that the server shares."""
    shared = init.get("shared")
    if not shared:
        return None
    os.set_inheritable(shared["fd"], False)
    return SharedMemory(shared["fd"], shared["size"])


def load(init: dict[str, Any]) -> Target:
    """load_target, once the two sides are known to speak the same protocol."""
    if init.get("protocol") != _wire.PROTOCOL:
        raise RuntimeError(
            f"the server speaks worker protocol {init.get('protocol')}, this shoal package ({__version__}) "
            f"{_wire.PROTOCOL}: install the package that belongs to the server"
        )
    target = load_target(init)
    if target.signatures():
        need("numpy", "to give a model arrays")
    return target


def ready_body(target: Target) -> dict[str, Any]:
    """The body of the READY frame."""
    doc = type(target.model).__doc__ if target.is_class else getattr(target.model, "__doc__", None)
    return {
        "protocol": _wire.PROTOCOL,
        "pid": os.getpid(),
        "python": platform.python_version(),
        "sdk": __version__,
        "accepts_batch": target.accepts_batch,
        "source": "class" if target.is_class else "function",
        "doc": doc or "",
        "arrays": {method: taken.as_json() for method, taken in target.signatures().items()},
    }


def serve(sock: socket.socket, claims: Claims) -> int:
    """Do the worker's whole life on a connected socket; returns the exit status."""
    reader = FrameReader(sock)
    init = take_init(reader)
    if init is None:
        return 0
    watch_hangup(sock)
    try:
        target = load(init)
        target.isolates = bool(init.get("isolate", True))
    except BaseException as exc:  # a model that calls sys.exit() while it is loaded has failed to load
        sock.sendall(json_frame(_wire.FAILED, error_object(exc)))
        return 1
    sock.sendall(json_frame(_wire.READY, ready_body(target)))
    _warm_up()
    try:
        Worker(sock, reader, target, int(init.get("concurrency") or 1), claims, shared_memory(init)).run()
    except ConnectionResetError:
        pass
    return 0


def _warm_up() -> None:
    """Do between READY and the first batch what the first batch would else wait for."""
    try:
        import werkzeug.datastructures  # noqa: F401
    except ImportError:
        pass
    # What is loaded by now stays: garbage collections need not walk through it.
    gc.freeze()


def _sleep_exactly() -> None:
    """Let sleeps and timeouts of the model end when they are due, and not up to 50 us later."""
    try:
        with open("/proc/self/timerslack_ns", "w") as slack:
            slack.write("1")
    except OSError:
        pass  # another system, or one that does not allow it


def main() -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(prog="python -m shoal._worker")
    parser.add_argument("--fd", type=int, required=True, help="descriptor of the socket to the server")
    parser.add_argument("--claims", type=int, required=True, help="descriptor of the pipe of claims")
    parser.add_argument("--cancels", type=int, required=True, help="descriptor of the pipe of cancels")
    arguments = parser.parse_args()
    _sleep_exactly()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches us too; the server decides
    for fd in (arguments.fd, arguments.claims, arguments.cancels):
        os.set_inheritable(fd, False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    _context.cancels = Cancels(arguments.cancels)
    status = serve(socket.socket(fileno=arguments.fd), Claims(arguments.claims))
    # Threads and exit handlers of the model get their time, but not for ever.
    threading.Thread(target=exit_later, name="exit", daemon=True).start()
    sys.exit(status)


if __name__ == "__main__":
    # The module that other code knows as shoal._worker, not this copy of it that runs as __main__.
    from shoal._worker import main as run

    run()
