"""Python objects as bytes: pickle protocol 5, with large buffers beside the pickle.

Plain pickle (in C) does nearly everything. What it cannot carry to another process, functions and classes
that live in __main__ or inside a function, goes through cloudpickle.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from ._needs import need
from ._wire import Bytes

# Below this a buffer costs less inside the pickle than its own entry beside it.
_INLINE = 4096
_PLAIN = frozenset((int, float, str, bool, type(None)))
_NONE: list[memoryview] = []


def dumps(value: Any) -> tuple[bytes, list[memoryview]]:
    """Pickle value; returns the pickle and its out-of-band buffers, in order. Raises what pickling raises."""
    buffers: list[memoryview] = []

    def keep_inside(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _INLINE:
            return True
        buffers.append(raw)
        return False

    try:
        data = pickle.dumps(value, 5, buffer_callback=keep_inside)
        # By reference into __main__ would mean another module over there.
        if b"__main__" not in data:
            return data, buffers
    except (pickle.PicklingError, AttributeError, TypeError):
        pass
    buffers.clear()
    cloudpickle = need("cloudpickle", "to send functions and classes that no module holds")
    return cloudpickle.dumps(value, 5, buffer_callback=keep_inside), buffers


def dumps_call(data: Any, kwargs: dict[str, Any]) -> tuple[bytes, list[memoryview]]:
    """As dumps, for the arguments of a query."""
    if data is None and _PLAIN.issuperset(map(type, kwargs.values())):
        return pickle.dumps((None, kwargs), 5), _NONE  # there is nothing in it that could need more
    return dumps((data, kwargs))


def loads(payload: Bytes, sizes: Sequence[int] = ()) -> Any:
    """Unpickle a payload: the pickle, then buffers of the given sizes. Buffers are not copied."""
    if not sizes:
        return pickle.loads(payload)
    view = memoryview(payload)
    end = len(view) - sum(sizes)
    if end < 0:
        raise pickle.UnpicklingError("the buffers are longer than the payload")
    data, buffers = view[:end], []
    for size in sizes:
        buffers.append(view[end : end + size])
        end += size
    return pickle.loads(data, buffers=buffers)
