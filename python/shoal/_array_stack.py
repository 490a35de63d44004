"""Making arrays of the keyword arguments of a handle's queries, which arrive one by one.

Queries share a call when their items agree in datatype and (padded) shape; those that do not form calls of
their own, and one whose arguments cannot be right hurts itself alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ._array_spec import Input, Signature
from ._batch import Batch

AnyArray: TypeAlias = npt.NDArray[Any]
Group: TypeAlias = "tuple[list[int], dict[str, AnyArray]]"

_KINDS: dict[type, str] = {int: "i", float: "f", bool: "b"}
_LARGE = 64 << 10
"""From this many bytes on an item that is padded to the longest meets only items of about its length, as in
the server: it would make every small one as large as itself."""


def stack(signature: Signature, label: str, batch: Batch) -> list[Group]:
    """The calls that a batch of a handle's queries takes: which queries, and the arrays of their arguments.

    Queries that take part in none get their error into batch.faults.
    """
    rows = batch.kwargs
    if any(request.data is not None for request in batch.requests):
        rows = [_with_data(signature, label, batch, i) for i in range(batch.size)]
    if not batch.faults:
        arrays = _stack_alike(signature, rows)
        if arrays is not None:
            return [(list(range(batch.size)), arrays)]
    groups: dict[Any, tuple[list[int], list[dict[str, AnyArray]]]] = {}
    for i, row in enumerate(rows):
        if i in batch.faults:
            continue
        try:
            items = _take_items(signature, label, row)
        except Exception as exc:
            batch.faults[i] = exc
            continue
        key = tuple((name, item.dtype, _shape_key(signature, name, item)) for name, item in items.items())
        indices, members = groups.setdefault(key, ([], []))
        indices.append(i)
        members.append(items)
    return [(indices, _join(signature, members)) for indices, members in groups.values()]


def restack(signature: Signature, label: str, batch: Batch, indices: list[int]) -> Group:
    """The call of some queries that shared one before, with new arrays: the model may have changed those."""
    rows = (_with_data(signature, label, batch, i) for i in indices)
    return indices, _join(signature, [_take_items(signature, label, row) for row in rows])


def _with_data(signature: Signature, label: str, batch: Batch, i: int) -> dict[str, Any]:
    """The arguments of query i by name: what was given without one is the first input, as in Python."""
    data, row = batch.requests[i].data, batch.kwargs[i]
    first = signature.inputs[0].name
    if data is None:
        return row
    if first in row:
        batch.faults.setdefault(i, TypeError(f"{label} got multiple values for argument {first!r}"))
    return {first: data, **row}


def _stack_alike(signature: Signature, rows: list[dict[str, Any]]) -> dict[str, AnyArray] | None:
    """The arrays of queries with the same keywords and like values; None where a closer look is needed."""
    given = rows[0]
    arrays: dict[str, AnyArray] = {}
    for spec in signature.inputs:
        name = spec.name
        if name not in given:
            if not spec.optional:
                return None
            continue
        try:
            array = _stack_column(spec, [row[name] for row in rows])
        except KeyError:
            return None
        if array is None:
            return None
        arrays[name] = array
    # All have these arguments, and no others.
    return arrays if set(map(len, rows)) == {len(arrays)} else None


def _stack_column(spec: Input, column: list[Any]) -> AnyArray | None:
    kinds = set(map(type, column))
    kind = kinds.pop()
    if kinds or spec.array.pad is not None:
        return None
    if kind in _KINDS:
        array = np.array(column)
        if array.dtype.kind != _KINDS[kind]:  # one beyond int64, which may have made all of them floats
            return None
    elif issubclass(kind, np.ndarray):
        first = column[0]
        if any(item.shape != first.shape or item.dtype != first.dtype for item in column):
            return None
        array = np.stack(column)
    elif issubclass(kind, np.generic):
        array = np.array(column)
    else:
        return None
    try:
        return _fit(spec, array, array.shape[1:])
    except (TypeError, ValueError):
        return None


def _take_items(signature: Signature, label: str, row: dict[str, Any]) -> dict[str, AnyArray]:
    """One query's items. Raises TypeError, ValueError for what its caller did wrong."""
    items: dict[str, AnyArray] = {}
    for spec in signature.inputs:
        if spec.name not in row:
            if not spec.optional:
                raise TypeError(f"{label} is missing the argument {spec.name!r}")
            continue
        try:
            item = np.asarray(row[spec.name])
            items[spec.name] = _fit(spec, item, item.shape)
        except (TypeError, ValueError) as exc:
            raise type(exc)(f"{label}: argument {spec.name!r}: {exc}") from None
    wrong = next((name for name in row if name not in items), None)
    if wrong is not None:
        known = ", ".join(i.name for i in signature.inputs)
        raise TypeError(f"{label} got an unexpected keyword argument {wrong!r}; it takes {known}")
    return items


def _fit(spec: Input, array: AnyArray, shape: tuple[int, ...]) -> AnyArray:
    """The array in the datatype that the model takes. shape is that of one item."""
    wanted = spec.array.shape
    if wanted is not None and (
        len(wanted) != len(shape) or any(w not in (None, n) for w, n in zip(wanted, shape, strict=True))
    ):
        raise ValueError(f"the shape is {shape}; the model takes {wanted}")
    pad = spec.array.pad
    if pad is not None and not shape:
        raise ValueError("a single number has no length that could be padded")
    if isinstance(pad, tuple) and shape[0] > pad[-1]:
        raise ValueError(f"its length is {shape[0]}; the model takes at most {pad[-1]}")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"it holds {array.dtype}, not numbers of one shape")
    if spec.array.dtype is None or array.dtype == spec.array.dtype:
        return array
    return _cast(array, np.dtype(spec.array.dtype))


def _cast(array: AnyArray, dtype: np.dtype[Any]) -> AnyArray:
    """The array's values in another datatype: floats are rounded. Raises TypeError, ValueError."""
    if np.can_cast(array.dtype, dtype, "safe"):
        return array.astype(dtype)
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            cast = array.astype(dtype)
        fits = np.isfinite(cast) == np.isfinite(array)
    elif array.dtype.kind in "iu" and dtype.kind in "iu":
        cast = array.astype(dtype)
        fits = (cast == array) & ((cast < 0) == (array < 0))
    else:
        raise TypeError(f"it holds {array.dtype}; the model takes {dtype}")
    if not np.all(fits):
        raise ValueError(f"{array[~fits].flat[0] if array.ndim else array} is not a value of {dtype}")
    return cast


def _shape_key(signature: Signature, name: str, item: AnyArray) -> tuple[int, ...]:
    """What of an item's shape must agree within a call."""
    pad = next(i.array.pad for i in signature.inputs if i.name == name)
    if pad is None:
        whole: tuple[int, ...] = item.shape
        return whole
    if pad == "longest" and item.nbytes >= _LARGE:
        return (len(item).bit_length(), *item.shape[1:])  # no other is twice as long
    return (_padded_length(pad, len(item)), *item.shape[1:])


def _padded_length(pad: Any, length: int) -> int:
    """0: to the longest of the batch."""
    return 0 if pad == "longest" else next(n for n in pad if n >= length)


def _join(signature: Signature, members: Sequence[dict[str, AnyArray]]) -> dict[str, AnyArray]:
    arrays: dict[str, AnyArray] = {}
    for spec in signature.inputs:
        if spec.name not in members[0]:
            continue
        column = [items[spec.name] for items in members]
        if spec.array.pad is None:
            arrays[spec.name] = np.stack(column)
        else:
            _pad(spec, column, arrays)
    return arrays


def _pad(spec: Input, column: list[AnyArray], arrays: dict[str, AnyArray]) -> None:
    lengths = [len(item) for item in column]
    length = _padded_length(spec.array.pad, max(lengths)) or max(lengths)
    shape = (len(column), length, *column[0].shape[1:])
    padded = np.full(shape, spec.array.pad_value, column[0].dtype)
    for i, item in enumerate(column):
        padded[i, : lengths[i]] = item
    arrays[spec.name] = padded
    if spec.mask:
        arrays[spec.name + "_mask"] = np.arange(length) < np.array(lengths)[:, np.newaxis]
    if spec.lengths:
        arrays[spec.name + "_lengths"] = np.array(lengths, np.int64)
