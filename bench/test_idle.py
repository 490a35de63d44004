from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from harness.environments import SetupError
from harness.idle import ask_each, connect, enough_descriptors
from harness.workloads import PLAIN, Case

EXCHANGE = PLAIN.exchange(Case(41, 42))


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """A server that gives every connection one such answer to each request, and an empty body ends it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    while connection.recv(65536):
                        if not body:
                            break
                        connection.sendall(
                            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
                        )

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_connection_that_stays_is_asked_again() -> None:
    with answering(b"42") as url, connect(url) as connection:
        for _ in range(2):
            ask_each([connection], url, EXCHANGE)


def test_a_connection_that_is_given_up_is_an_error() -> None:
    with answering(b"") as url, connect(url) as connection, pytest.raises(SetupError, match="connection 0"):
        ask_each([connection], url, EXCHANGE)


def test_more_connections_than_the_machine_permits_are_an_error() -> None:
    with pytest.raises(SetupError, match="open files"), enough_descriptors(10**9):
        pass
