"""What create_backend sends: a function or class, pickled, and the surroundings that its modules need."""

from __future__ import annotations

import inspect
import io
import os
import sys
from types import CodeType
from typing import Any

from ._call import check_callable
from ._errors import InvalidArgument
from ._needs import need


def check_target(target: Any, init_args: tuple[Any, ...], init_kwargs: dict[str, Any]) -> None:
    """Raise InvalidArgument when target cannot be deployed with these arguments."""
    if not callable(target):
        raise InvalidArgument(f"a backend is a function or a class, not {type(target).__name__}")
    try:
        check_callable(target, getattr(target, "__qualname__", type(target).__name__))
    except TypeError as exc:
        raise InvalidArgument(str(exc)) from None
    if (init_args or init_kwargs) and not inspect.isclass(target):
        raise InvalidArgument("init arguments are for classes; a function has no __init__ to take them")
    if inspect.isclass(target) and target.__init__ is not object.__init__:
        try:
            inspect.signature(target).bind(*init_args, **init_kwargs)
        except TypeError as exc:
            raise InvalidArgument(f"{target.__name__}.__init__: {exc}") from None
        except ValueError:  # no signature to check against
            pass


def pickle_target(target: Any, init_args: tuple[Any, ...], init_kwargs: dict[str, Any]) -> bytes:
    """The artifact of a backend: a cloudpickle of (target, init_args, init_kwargs).

    What lives in __main__ (a script, a notebook) goes by value, everything else by reference to its module.
    """
    cloudpickle = need("cloudpickle", "to deploy a function or class")
    try:
        buffer = io.BytesIO()
        _pickler(cloudpickle)(buffer, 5).dump((target, init_args, init_kwargs))
    except Exception as exc:
        name = getattr(target, "__name__", repr(target))
        raise InvalidArgument(
            f"{name} cannot be sent to a worker: {exc}. What it uses from around it travels with it; "
            "open files, connections and locks cannot: make them in a class's __init__"
        ) from exc
    return buffer.getvalue()


def _pickler(cloudpickle: Any) -> Any:
    """A pickler whose functions remember their file, so that a model's traceback shows where it happened.

    cloudpickle itself writes "<dynamic-code>" there, to make equal pickles of equal functions.
    """
    reduce_code = getattr(cloudpickle.cloudpickle, "_code_reduce", None)
    if reduce_code is None:  # a version that does it differently
        return cloudpickle.Pickler

    def with_file(code: CodeType) -> tuple[Any, tuple[Any, ...]]:
        make, arguments = reduce_code(code)
        return make, tuple(code.co_filename if a == "<dynamic-code>" else a for a in arguments)

    table = cloudpickle.Pickler.dispatch_table.new_child({CodeType: with_file})
    return type("Pickler", (cloudpickle.Pickler,), {"dispatch_table": table})


def surroundings() -> dict[str, Any]:
    """Interpreter, module path and working directory, so that the worker imports what this process would."""
    return {
        "interpreter": sys.executable,
        "sys_path": list(dict.fromkeys(os.path.abspath(entry or ".") for entry in sys.path)),
        "cwd": os.getcwd(),
    }
