"""Imports of the dependencies that the standard library does not bring, when they are first needed.

The server can unpack this package for an interpreter that has nothing else installed; a model that never
touches a feature must not need that feature's dependency.
"""

from __future__ import annotations

import importlib
from types import ModuleType


def need(module: str, why: str) -> ModuleType:
    """Import module, or raise an ImportError that says what to install and why."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as exc:
        package = module.partition(".")[0]
        if exc.name is None or exc.name.partition(".")[0] != package:
            raise
        raise ImportError(f"shoal needs {package} {why}: pip install {package}", name=package) from None
