"""`@serve.accept_batch`: says that a callable takes lists, and keeps its default config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

_MARK = "_shoal_accept_batch"

C = TypeVar("C", bound=Callable[..., Any])


@overload
def accept_batch(target: C, /) -> C: ...
@overload
def accept_batch(**config: Any) -> Callable[[C], C]: ...
def accept_batch(target: Any = None, /, **config: Any) -> Any:
    """Mark a function, a class, or a method such as __call__ as taking a whole batch at once.

    It is then called with a list of requests, and with a list for each keyword; it must return one answer
    for each, in order. Used as ``@accept_batch`` or ``@accept_batch(max_batch_size=32)``; such values are
    the defaults of create_backend's config.
    """
    if target is not None:
        setattr(target, _MARK, config)
        return target

    def mark(inner: C) -> C:
        setattr(inner, _MARK, config)
        return inner

    return mark


def is_marked(target: Any) -> bool:
    """Whether this very function, method or class carries the mark."""
    return getattr(target, _MARK, None) is not None


def default_config(target: Any) -> dict[str, Any]:
    """The config given to accept_batch on target or, for a class, on its __call__."""
    config: dict[str, Any] = {}
    if isinstance(target, type):
        config.update(getattr(target.__call__, _MARK, None) or {})
    config.update(getattr(target, _MARK, None) or {})
    return config


def accepts_batch(target: Any) -> bool:
    """Whether target, or any public method of it where it is a class, takes whole batches."""
    if is_marked(target):
        return True
    return isinstance(target, type) and any(
        is_marked(getattr(target, name, None))
        for name in dir(target)
        if name == "__call__" or not name.startswith("_")
    )
