"""An ARRAYS frame, taken apart, and answers that are arrays, put together."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ._array_spec import DTYPES
from ._batch import take_json_calls, take_requests
from ._shared import Region
from ._wire import (
    ALIGNMENT,
    ANSWERS,
    BATCH_HEAD,
    HAS_REQUESTS,
    MUST_CLAIM,
    RESULT_HEAD,
    U32,
    WEB,
    Bytes,
    ProtocolError,
)

AnyArray: TypeAlias = npt.NDArray[Any]
Reply: TypeAlias = "tuple[list[Bytes], int]"

_REMEMBERED = 1024  # layouts; there is one for each shape that callers think of
_SMALL = 64 << 10  # up to here copying an array costs less than handing it on
_HEAD_SIZE = BATCH_HEAD.size + U32.size

_layouts: dict[bytes, list[tuple[str, np.dtype[Any], tuple[int, ...], int]]] = {}
_heads: dict[Any, bytes] = {}
_CODES = {np.dtype(typestr): typestr for typestr in DTYPES.values()}


class ArrayBatch:
    """One batch of queries whose inputs are arrays of shape [batch, …], by the parameters' names.

    The arrays are views of the frame. requests is empty unless the method takes them.
    """

    __slots__ = ("id", "ahead", "api", "method", "size", "requests", "arrays", "_has_requests")

    def __init__(self, frame: bytearray | memoryview, region: Region | None = None) -> None:
        """Raises ProtocolError when the frame's own numbers do not fit together."""
        origin, flags, method_length, self.size, self.id = BATCH_HEAD.unpack_from(frame)
        (layout_length,) = U32.unpack_from(frame, BATCH_HEAD.size)
        start = _HEAD_SIZE + method_length
        at = start + layout_length
        self.ahead = bool(flags & MUST_CLAIM)
        self._has_requests = bool(flags & HAS_REQUESTS)
        self.method = str(frame[_HEAD_SIZE:start], "utf-8")
        self.api = origin != WEB
        layout = bytes(frame[start:at])
        self.requests, at = self._read_requests(frame, at) if self._has_requests else ([], at)
        source: Any = frame
        if type(frame) is memoryview:
            # One array under all others: who still has any of them has this one too.
            source = np.frombuffer(frame, np.uint8)
            if region is not None:
                region.root = source
        self.arrays = self._read_arrays(source, len(frame), at, layout)

    def take_arrays(self) -> dict[str, AnyArray]:
        """The arrays, which the batch then forgets."""
        arrays, self.arrays = self.arrays, {}
        return arrays

    def take_requests(self) -> tuple[()] | tuple[list[Any]]:
        """The positional arguments: the requests, where the method takes them."""
        return (self.requests,) if self._has_requests else ()

    def _read_requests(self, frame: bytearray | memoryview, at: int) -> tuple[list[Any], int]:
        lengths = np.frombuffer(frame, "<u4", 2 * self.size, at).tolist()
        at += 8 * self.size
        end = at + sum(lengths)
        # Requests read text out of it, and may outlive the batch.
        own = bytearray(frame[at:end])
        return (take_json_calls if self.api else take_requests)(own, 0, lengths), end

    def _read_arrays(self, source: Any, length: int, at: int, layout: bytes) -> dict[str, AnyArray]:
        arrays: dict[str, AnyArray] = {}
        try:
            for name, dtype, shape, nbytes in _layouts.get(layout) or _read_layout(layout):
                at = (at + ALIGNMENT - 1) & -ALIGNMENT
                arrays[name] = np.ndarray(shape, dtype, source, at)
                at += nbytes
        except (TypeError, ValueError) as exc:
            raise ProtocolError(f"the arrays of an ARRAYS frame do not fit into it: {exc}") from None
        if at != length:
            raise ProtocolError(f"an ARRAYS frame of {length} bytes, whose arrays end at {at}")
        return arrays


def _read_layout(layout: bytes) -> list[tuple[str, np.dtype[Any], tuple[int, ...], int]]:
    blocks = []
    for name, typestr, shape in json.loads(layout):
        dtype = np.dtype(typestr)
        blocks.append((name, dtype, tuple(shape), dtype.itemsize * math.prod(shape)))
    if len(_layouts) >= _REMEMBERED:
        _layouts.clear()
    _layouts[layout] = blocks
    return blocks


def encode_arrays(batch_id: int, result: Any) -> Reply | None:
    """The parts of an ANSWERS frame for what a model returned; None where it is to be answered item by item.

    A result is an array, or a dict of arrays that have their first axis in common.
    """
    if type(result) is np.ndarray:
        names: tuple[str | None, ...] = (None,)
        arrays = [result]
    else:
        names, arrays = tuple(result), list(result.values())
    codes = [_CODES.get(a.dtype) for a in arrays]
    if None in codes:
        arrays = [_native(a) for a in arrays]
        codes = [_CODES.get(a.dtype) for a in arrays]
        if None in codes:
            return None
    size = len(arrays[0])
    key = (names, *codes, *[a.shape for a in arrays])
    head = _heads.get(key) or _make_head(key, names, codes, [a.shape for a in arrays])
    parts: list[Bytes] = [b"", head]
    at = RESULT_HEAD.size - 4 + len(head)
    for array in arrays:
        gap = -at & (ALIGNMENT - 1)
        if gap:
            parts.append(bytes(gap))
        parts.append(_bytes_of(array))
        at += gap + array.nbytes
    parts[0] = RESULT_HEAD.pack(at, ANSWERS, batch_id, size)
    return parts, at + 4


def _make_head(key: Any, names: Sequence[Any], codes: Sequence[Any], shapes: Sequence[Any]) -> bytes:
    """What stands between the count and the first block: the layout and its length, filled up."""
    layout = json.dumps(list(zip(names, codes, shapes, strict=True)), separators=(",", ":")).encode()
    head = U32.pack(len(layout)) + layout
    head += bytes(-(RESULT_HEAD.size - 4 + len(head)) & (ALIGNMENT - 1))
    if len(_heads) >= _REMEMBERED:
        _heads.clear()
    _heads[key] = head
    return head


def _native(array: AnyArray) -> AnyArray:
    """The array in little-endian order."""
    return array.astype(array.dtype.newbyteorder("<")) if array.dtype.byteorder == ">" else array


def _bytes_of(array: AnyArray) -> Bytes:
    """The array's bytes in C order: a copy of a small one."""
    if array.nbytes <= _SMALL:
        small: bytes = array.tobytes()
        return small
    whole: memoryview = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return whole
