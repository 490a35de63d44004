"""Server addresses: "unix:/path/to/socket", "http://host:port" or "https://host:port"."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from ._errors import InvalidArgument, Unavailable

CONNECT_TIMEOUT = 10.0


class Address(NamedTuple):
    """Where a server's admin API listens: a Unix socket's path, or host and port."""

    path: str
    host: str
    port: int
    secure: bool = False
    """Whether to speak TLS."""

    def __str__(self) -> str:
        scheme = "https" if self.secure else "http"
        return f"unix:{self.path}" if self.path else f"{scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """What an HTTP Host header says for this address."""
        if self.path:
            return "localhost"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def open(self) -> socket.socket:
        """A connected stream socket. Raises OSError."""
        if not self.path:
            sock = socket.create_connection((self.host, self.port), CONNECT_TIMEOUT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return wrap(sock, self.host) if self.secure else sock
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(CONNECT_TIMEOUT)
            sock.connect(self.path)
        except BaseException:
            sock.close()
            raise
        return sock


def parse(text: str) -> Address:
    """Read an address. Raises InvalidArgument."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if path:
            return Address(path, "", 0)
    elif text.startswith(("http://", "https://")):
        parts = urlsplit(text)
        try:
            port = parts.port
        except ValueError:
            port = None
        if parts.hostname and port and parts.path in ("", "/"):
            return Address("", parts.hostname, port, parts.scheme == "https")
    raise InvalidArgument(
        f"{text!r} is not an address: write unix:/path/to/socket, http://host:port or https://host:port"
    )


def wrap(sock: socket.socket, host: str) -> socket.socket:
    """Speak TLS on a connected socket. Raises OSError, of which ssl's errors are some.

    $SHOAL_CA vouches for the server, else the system's certificates do; $SHOAL_CERT and $SHOAL_KEY are this
    client's own.
    """
    import ssl  # only here: it takes longer to import than all the rest

    try:
        context = ssl.create_default_context(cafile=os.environ.get("SHOAL_CA"))
        certificate = os.environ.get("SHOAL_CERT")
        if certificate:
            context.load_cert_chain(certificate, os.environ.get("SHOAL_KEY"))
        return context.wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise


def runtime_folder() -> Path:
    """Where this user's servers put their sockets, unless they are told otherwise."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "shoal" if runtime else Path(tempfile.gettempdir()) / f"shoal-{os.getuid()}"


def check_private(folder: Path) -> None:
    """Raise Unavailable when others could put a socket or a file of theirs into folder.

    What a server answers is unpickled, so that a stranger's server could run code here.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022 or found.st_uid != os.getuid():
        raise Unavailable(
            f"{folder} must be a directory of yours that only you can write to; "
            "give the server's address, or set XDG_RUNTIME_DIR to another place"
        )


def find() -> str:
    """The address of the one server of this user that runs. Raises Unavailable, InvalidArgument."""
    folder = runtime_folder()
    sockets = sorted(folder.glob("admin*.sock"))
    if sockets:
        check_private(folder)
    alive = [f"unix:{path}" for path in sockets if _answers(Address(str(path), "", 0))]
    if not alive:
        raise Unavailable("no shoal server of yours runs on this machine; start one, or give its address")
    if len(alive) > 1:
        raise InvalidArgument(f"several servers run; give the address of one: {', '.join(alive)}")
    return alive[0]


def _answers(address: Address) -> bool:
    try:
        address.open().close()
    except OSError:
        return False
    return True


class Connection(HTTPConnection):
    """One HTTP connection to an Address."""

    def __init__(self, address: Address, timeout: float | None) -> None:
        super().__init__(address.authority, timeout=timeout)
        self._address = address

    def connect(self) -> None:
        """Open the socket."""
        self.sock = self._address.open()
        self.sock.settimeout(self.timeout)
