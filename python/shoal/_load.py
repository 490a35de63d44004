"""Loading a model in the worker, as the INIT frame says."""

from __future__ import annotations

import importlib.util
import inspect
import os
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ._accept import accepts_batch
from ._call import Target, check_callable
from ._needs import need


def load_target(init: dict[str, Any]) -> Target:
    """The model that an INIT body describes. Raises whatever its import or __init__ raises, or ValueError
    or TypeError for what cannot be a backend."""
    _prepare(init)
    func_or_class, args, kwargs = _fetch(init["source"])
    backend = str(init["backend"])
    check_callable(func_or_class, _name_of(func_or_class, init["source"]))
    if int(init.get("max_batch_size") or 1) > 1 and not accepts_batch(func_or_class):
        raise ValueError(
            f"backend {backend!r} has max_batch_size {init['max_batch_size']}, but what it runs takes one "
            "query at a time: mark it with @serve.accept_batch, or leave max_batch_size at 1"
        )
    if inspect.isclass(func_or_class):
        return Target(backend, func_or_class(*args, **kwargs), func_or_class)
    if args or kwargs:
        raise ValueError(f"backend {backend!r} is a function: it takes no init arguments")
    return Target(backend, func_or_class, func_or_class)


def _name_of(found: Any, source: dict[str, Any]) -> str:
    """How errors name what was loaded: with its file, where it has one."""
    if source["kind"] == "file":
        return f"{source['path']}: {source['object']}"
    return str(getattr(found, "__qualname__", type(found).__name__))


def _prepare(init: dict[str, Any]) -> None:
    if init.get("cwd"):
        os.chdir(init["cwd"])
    known = set(sys.path)
    sys.path[:0] = [entry for entry in init.get("sys_path") or () if entry not in known]


def _fetch(source: dict[str, Any]) -> tuple[Any, list[Any], dict[str, Any]]:
    """The function or class, and the arguments for the class."""
    if source["kind"] == "pickle":
        return _unpickle(Path(source["path"]))
    if source["kind"] == "file":
        module = _import_file(Path(source["path"]).resolve())
        name = source["object"]
        found: Any = module
        for part in name.split("."):
            if not hasattr(found, part):
                raise AttributeError(f"{source['path']} defines no {name!r}")
            found = getattr(found, part)
        return found, list(source.get("init_args") or ()), dict(source.get("init_kwargs") or {})
    raise ValueError(f"a source of kind {source['kind']!r} is not known to this worker")


def _unpickle(path: Path) -> tuple[Any, list[Any], dict[str, Any]]:
    with path.open("rb") as blob:
        try:
            found: tuple[Any, list[Any], dict[str, Any]] = pickle.load(blob)
            return found
        except ModuleNotFoundError as exc:
            if exc.name == "cloudpickle":
                need("cloudpickle", "to load models that were deployed from Python")
            raise


def _import_file(path: Path) -> ModuleType:
    """Import a file under its own name, so that what it defines can be pickled by reference."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    name = path.stem
    if not name.isidentifier() or name in sys.modules or name in sys.stdlib_module_names:
        name = "shoal_model_" + "".join(c if c.isalnum() else "_" for c in path.stem)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
