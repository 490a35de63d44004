"""`@serve.accept_batch`: says that a callable takes lists, and keeps its default config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

from ._array_spec import Array, annotated_arrays

_MARK = "_shoal_accept_batch"
_ARRAYS = "_shoal_arrays"
_ANNOTATED = "_shoal_annotated"

C = TypeVar("C", bound=Callable[..., Any])


@overload
def accept_batch(target: C, /) -> C: ...
@overload
def accept_batch(*, arrays: bool | Mapping[str, Any] | None = None, **config: Any) -> Callable[[C], C]: ...
def accept_batch(target: Any = None, /, *, arrays: Any = None, **config: Any) -> Any:
    """Mark a function, a class, or a method such as __call__ as taking a whole batch at once.

    It is then called with a list of requests, and with a list for each keyword; it must return one answer
    for each, in order. Used as ``@accept_batch`` or ``@accept_batch(max_batch_size=32)``; such values are
    the defaults of create_backend's config.

    With ``arrays=True`` each parameter is a NumPy array of shape [batch, …] instead, and there is no list of
    requests. With ``arrays={"x": "float32", "y": serve.Array(pad="longest")}``, or with parameters annotated
    as numpy.ndarray, numpy.typing.NDArray[…] or Annotated[…, serve.Array(…)], a first parameter that is not
    among them stays the list of requests, and the rest are arrays. The arrays are the function's own: it may
    write into them. It returns an array of shape [batch, …], a dict of such, or one answer for each query.
    """

    def mark(inner: C) -> C:
        setattr(inner, _MARK, config)
        if arrays:
            setattr(inner, _ARRAYS, arrays)
        try:  # now, because a pickle of the function loses names that only annotations use
            if not isinstance(inner, type):
                setattr(inner, _ANNOTATED, annotated_arrays(inner))
        except Exception:  # a name that is defined later: asked again when the model is loaded
            pass
        return inner

    return mark if target is None else mark(target)


def is_marked(target: Any) -> bool:
    """Whether this very function, method or class carries the mark."""
    return getattr(target, _MARK, None) is not None


def declared_arrays(target: Any) -> Any:
    """What accept_batch(arrays=) was given on this very function, method or class; None for nothing."""
    return getattr(target, _ARRAYS, None)


def known_annotations(target: Any) -> dict[str, Array] | None:
    """The arrays among the annotations of a marked function; None where they are not known yet."""
    return getattr(target, _ANNOTATED, None)


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
        is_marked(getattr(target, name, None)) for name in public_methods(target)
    )


def public_methods(cls: type) -> list[str]:
    """The names that a class offers to callers."""
    return [name for name in dir(cls) if name == "__call__" or not name.startswith("_")]
