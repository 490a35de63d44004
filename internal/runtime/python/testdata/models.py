"""Models for the tests of the Go side."""

import asyncio
import ctypes
import mmap
import os
import resource
import signal
import subprocess
import sys
import threading
import time

from shoal import serve

gate = threading.Event()


@serve.accept_batch
def adder(requests, *, number=None):
    if serve.context.web:
        number = [int(r.args["number"]) for r in requests]
    return [{"sum": n + 1, "batch": len(requests), "web": serve.context.web} for n in number]


def single(request, *, number):
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number * 2


class Greeter:
    def __init__(self, greeting, *, mark="!"):
        self.greeting, self.mark = greeting, mark

    @serve.accept_batch
    def __call__(self, requests, *, name):
        return [f"{self.greeting}, {n}{self.mark}" for n in name]

    @serve.accept_batch
    def shout(self, requests, *, name):
        return [n.upper() for n in name]


@serve.accept_batch
def echo(requests):
    return [r.data for r in requests]


@serve.accept_batch
def describe(requests):
    return [
        {
            "method": r.method,
            "path": r.path,
            "id": r.id,
            "header": r.headers.get("X-Thing"),
            "host": r.headers.get("host"),
            "json": r.json,
        }
        for r in requests
    ]


@serve.accept_batch
def wrong_count(requests):
    return [1] * (len(requests) + 1)


@serve.accept_batch
def raises(requests):
    raise RuntimeError("no luck")


@serve.accept_batch
def talks(requests):
    print("to stdout", flush=True)
    print("to stderr", file=sys.stderr, flush=True)
    return [os.environ.get("GREETING", "")] * len(requests)


@serve.accept_batch
def dies(requests, *, how=None):
    if serve.context.web:
        return ["alive"] * len(requests)
    if how[0] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(3)


@serve.accept_batch
def hangs(requests):
    time.sleep(3600)
    return requests


@serve.accept_batch
def meet(requests):
    """Answers only when two batches are computed at the same time."""
    return [meeting.wait(timeout=30) >= 0 for _ in requests]


meeting = threading.Barrier(2)


@serve.accept_batch
def increment(requests):
    return [r.json + 1 for r in requests]


@serve.accept_batch
def wait_for(requests, *, fifo=None):
    """Answers with the worker's pid once somebody has written to each fifo."""
    for path in fifo or ():
        if path:
            with open(path) as f:
                f.read()
    return [os.getpid()] * len(requests)


@serve.accept_batch
def stubborn(requests, *, how=None):
    """Hangs where it is told to, by kind; "ignore" does not listen to SIGTERM either."""
    if how is not None and how[0] == "ignore":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while how is not None and how[0] in ("hang", "ignore"):
        time.sleep(0.05)
    return [os.getpid()] * len(requests)


@serve.accept_batch
def poison(requests, *, how=None):
    """Answers with the worker's pid, unless one query says what is to happen."""
    for wish in how or ():
        if wish == "raise":
            raise ValueError("bad query")
        if wish == "memory":
            bytes(1 << 46)
        elif wish == "limit":  # what a model does that the system gives no more memory
            resource.setrlimit(resource.RLIMIT_AS, (1 << 20, resource.RLIM_INFINITY))
            try:
                bytearray(64 << 20)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        elif wish == "exit":
            os._exit(3)
        elif wish == "abort":
            os.abort()
        elif wish == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif wish == "segfault":
            ctypes.string_at(0)
    return [os.getpid()] * len(requests)


@serve.accept_batch
async def blocks_its_loop(requests, *, block=None):
    """Answers; when asked to, it leaves something behind that holds the event loop up for good."""
    if block is not None and block[0]:
        asyncio.get_running_loop().call_later(0.05, time.sleep, 3600)
    return [os.getpid()] * len(requests)


def touch_shared(mib):
    """Takes memory that RLIMIT_DATA does not count."""
    taken = mmap.mmap(-1, mib << 20, mmap.MAP_SHARED)
    for page in range(0, mib << 20, mmap.PAGESIZE):
        taken[page] = 1
    return taken


@serve.accept_batch
def greedy(requests, *, mib=None, shared=None, child=None, spin=None, files=None, busy=None):
    """Takes memory, processor time or files, and answers with its pid, or how its child ended."""
    if shared is not None:
        taken = touch_shared(shared[0])
    if child is not None:
        here = os.path.dirname(__file__)
        code = f"import sys; sys.path.append({here!r}); import models; models.touch_shared({child[0]})"
        return [subprocess.run([sys.executable, "-c", code]).returncode] * len(requests)
    if mib is not None:
        taken = bytearray(mib[0] << 20)
        del taken
    while spin is not None:
        pass
    until = time.process_time() + (busy[0] if busy else 0)
    while time.process_time() < until:
        pass
    if files is not None:
        taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(files[0])]
    return [os.getpid()] * len(requests)


@serve.accept_batch
def endless(requests, *, started=None):
    """Computes until nobody waits for it, and writes down that it noticed."""
    for path in started or ():
        if path:
            with open(path, "w") as f:
                while not serve.context.cancelled:
                    time.sleep(0.001)
                f.write("cancelled")
    return [serve.context.cancelled] * len(requests)


@serve.accept_batch
async def endless_async(requests, *, started=None):
    for path in started or ():
        if path:
            with open(path, "w") as f:
                while not serve.context.cancelled:
                    await asyncio.sleep(0.001)
                f.write("cancelled")
    return [serve.context.cancelled] * len(requests)


class Hoarder:
    """Needs more memory than it may have."""

    def __init__(self):
        self.taken = touch_shared(1024)

    def __call__(self, request):
        return len(self.taken)
