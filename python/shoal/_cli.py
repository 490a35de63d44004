"""The console script `shoal`: becomes the server's binary."""

from __future__ import annotations

import os
import sys

from ._errors import Error
from ._server import find_binary


def main() -> None:
    """Replace this process by the binary, with the same arguments. Exits with 127 when there is none."""
    try:
        binary = find_binary()
    except Error as exc:
        print(f"shoal: {exc}", file=sys.stderr)
        sys.exit(127)
    # The server starts its workers with the interpreter that this package is installed for.
    os.environ.setdefault("SHOAL_PYTHON", sys.executable)
    os.execv(binary, ["shoal", *sys.argv[1:]])
