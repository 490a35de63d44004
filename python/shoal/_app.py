"""`python -m shoal._app FILE.py[:NAME]`: deploys what a file defines, for `shoal serve FILE.py`.

The file is run as a program, against the server at $SHOAL_SERVER. A file that creates backends itself is left
alone. Otherwise everything in it that is marked with @serve.accept_batch (or just NAME, marked or not) is
deployed: backend and endpoint get its name, the route is /NAME, for GET and POST.
"""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from . import serve
from ._accept import accepts_batch, default_config
from ._answers import format_traceback
from ._client import Client
from ._config import check_batching, check_config
from ._errors import Error

_USAGE = 2  # exit status when there is nothing to deploy


def run_file(path: Path) -> ModuleType:
    """Run a file as the program; returns its module. Raises what it raises."""
    module = ModuleType("__main__")
    module.__file__ = str(path)
    sys.modules["__main__"] = module
    sys.argv = [str(path)]  # as if Python had been called with it
    sys.path.insert(0, str(path.parent))
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    return module


def deployable(module: ModuleType) -> dict[str, Any]:
    """The functions and classes that the file itself defines and marks for batches, by name."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == "__main__"
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__name__ == name
        and accepts_batch(value)
    }


def deploy(client: Client, path: Path, name: str, target: Any) -> None:
    """Create backend and endpoint for one object of the file; a backend of that name is replaced."""
    config = check_config(default_config(target))
    check_batching(name, target, config)
    client.deploy(name, {"kind": "file", "path": str(path), "object": name}, config, replace=True)
    client.create_endpoint(name, backend=name, route=f"/{name}", methods=["GET", "POST"])


def fail(message: str) -> int:
    """Say on stderr why nothing is served."""
    print(f"shoal: {message}", file=sys.stderr)
    return _USAGE


def choose(module: ModuleType, path: Path, name: str) -> dict[str, Any] | str:
    """What to deploy, by name, or the message why there is nothing."""
    if name:
        target = getattr(module, name, None)
        if callable(target):
            return {name: target}
        return f"{path} defines no function or class {name!r}"
    found = deployable(module)
    if found:
        return found
    return (
        f"{path} has nothing to serve: mark a function, or a class's __call__, with @serve.accept_batch, "
        f"or call serve.create_backend in the file, or name one: {path.name}:NAME"
    )


def split(argument: str) -> tuple[Path, str]:
    """The file and the name, if there is one, in FILE.py[:NAME]."""
    file, colon, name = argument.rpartition(".py:")
    if not colon or Path(argument).is_file():
        return Path(argument).resolve(), ""
    return Path(file + ".py").resolve(), name


def main(arguments: list[str]) -> int:
    """Run and deploy the file; returns the exit status."""
    if len(arguments) != 1:
        return fail("usage: python -m shoal._app FILE.py[:NAME]")
    if not os.environ.get("SHOAL_SERVER"):
        return fail("SHOAL_SERVER is not set: this module is for `shoal serve FILE.py`")
    path, name = split(arguments[0])
    if not path.is_file():
        return fail(f"there is no file {path}")
    try:
        client = serve.connect()
        module = run_file(path)
        if client.deployed or (serve._client is not None and serve._client.deployed):
            return 0
        chosen = choose(module, path, name)
        if isinstance(chosen, str):
            return fail(chosen)
        for key, target in chosen.items():
            deploy(client, path, key, target)
    except SystemExit:
        raise
    except Error as exc:
        print(f"shoal: {exc}", file=sys.stderr)
        return 1
    except BaseException as exc:
        # The user's own frames, without ours above them.
        sys.stderr.write(format_traceback(exc) or traceback.format_exc())
        return 1
    return 0


if __name__ == "__main__":
    from shoal._app import main as run

    sys.exit(run(sys.argv[1:]))
