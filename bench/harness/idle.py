"""Many keep-alive connections that each have asked once and now ask nothing."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

from .environments import SetupError
from .load import ask
from .peers import Tools, shoal
from .processes import Memory, Server, free_port
from .workloads import PLAIN, WORKLOADS, Exchange

SPARE_DESCRIPTORS = 200
SETTLE_SECONDS = 2.0
ASKED_AGAIN = 100


def measure_idle(tools: Tools, connections: int) -> dict[str, float]:
    """What Shoal's server process holds without connections, and with so many idle ones.

    Raises SetupError where the machine does not permit as many, or a connection gets no answer.
    """
    adder = WORKLOADS[0]
    exchange = PLAIN.exchange(adder.first_case(tools.scratch))
    with enough_descriptors(connections):
        server = Server(shoal()(tools, adder.model, free_port()), tools.scratch / "idle.log")
        with server, ExitStack() as stack:
            server.wait_for_answer(lambda: exchange.accepts(ask(server.url, exchange)))
            before = settled(server)
            opened = [stack.enter_context(connect(server.url)) for _ in range(connections)]
            ask_each(opened, server.url, exchange)
            after = settled(server)
            # They are of no use if the server has given them up.
            ask_each(opened[:: max(connections // ASKED_AGAIN, 1)], server.url, exchange)
    return {
        "connections": connections,
        "server_mb": round(after.root / 1e6, 1),
        "before_mb": round(before.root / 1e6, 1),
        "kb_per_connection": round((after.root - before.root) / connections / 1e3, 2),
    }


def settled(server: Server) -> Memory:
    """The server's memory a little later."""
    time.sleep(SETTLE_SECONDS)
    return server.memory()


@contextmanager
def enough_descriptors(connections: int) -> Iterator[None]:
    """Let this program and the server that it starts open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_DESCRIPTORS
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SetupError(f"{connections:,} connections need {wanted:,} open files; the limit is {hard:,}")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    except (OSError, ValueError) as exc:
        raise SetupError(f"{connections:,} connections need {wanted:,} open files: {exc}") from None
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(url: str) -> socket.socket:
    """A connection of its own."""
    parts = urlsplit(url)
    try:
        return socket.create_connection((parts.hostname or "", parts.port or 80), timeout=10)
    except OSError as exc:
        raise SetupError(f"a connection could not be opened: {exc}") from None


def ask_each(connections: Sequence[socket.socket], url: str, exchange: Exchange) -> None:
    """One query and its answer on each connection, which stays open. Raises SetupError."""
    head = f"POST {urlsplit(url).path} HTTP/1.1\r\nHost: idle\r\nContent-Type: {exchange.content_type}\r\n"
    request = f"{head}Content-Length: {len(exchange.body)}\r\n\r\n".encode() + exchange.body
    wanted = f"\r\n\r\n{exchange.answer}".encode()
    for number, connection in enumerate(connections):
        seen = b""
        try:
            connection.sendall(request)
            while not seen.rstrip().endswith(wanted):
                piece = connection.recv(65536)
                if not piece or len(seen) > 65536:
                    raise SetupError(f"connection {number} got {seen[:200]!r} for an answer")
                seen += piece
        except OSError as exc:
            raise SetupError(f"connection {number} got no answer: {exc}") from None
