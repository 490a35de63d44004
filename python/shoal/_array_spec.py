"""Which arrays a model's function takes: what its author declares, and what the server is told of it."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

Pad: TypeAlias = "Literal['longest'] | tuple[int, ...] | None"

DTYPES = {
    "bool": "|b1",
    "int8": "|i1",
    "int16": "<i2",
    "int32": "<i4",
    "int64": "<i8",
    "uint8": "|u1",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
    "float16": "<f2",
    "float32": "<f4",
    "float64": "<f8",
}
"""The datatypes that travel as arrays, and their typestr."""

_PYTHON = {bool: "bool", int: "int64", float: "float64"}
_ABSTRACT = frozenset(
    ("Any", "generic", "number", "integer", "signedinteger", "unsignedinteger", "inexact", "floating")
)
_MASK, _LENGTHS = "_mask", "_lengths"
_P = inspect.Parameter


class Array:
    """What an array parameter of a model takes.

    dtype is a name such as "float32", a type such as numpy.float32, or None: then integers arrive as int64,
    other numbers as float64. shape is that of one item, without the batch's axis: sizes, or None for any.
    pad lets items of different lengths share a batch: their first axis is filled up with pad_value, to the
    longest of the batch (pad="longest") or to the smallest of some lengths (pad=[64, 128]). A function that
    also has a parameter NAME_mask or NAME_lengths gets there which elements are real: bool [batch, length],
    int64 [batch]. Raises ValueError for what cannot be.
    """

    __slots__ = ("dtype", "shape", "pad", "pad_value")

    def __init__(
        self,
        dtype: Any = None,
        *,
        shape: Sequence[int | None] | None = None,
        pad: Literal["longest"] | Sequence[int] | None = None,
        pad_value: float = 0,
    ) -> None:
        self.dtype = None if dtype is None else dtype_name(dtype)
        self.shape = None if shape is None else tuple(shape)
        self.pad: Pad = pad if pad is None or pad == "longest" else _buckets(pad)
        self.pad_value = pad_value
        if pad is None and pad_value != 0:
            raise ValueError("a pad_value without pad has no meaning")
        for size in self.shape or ():
            if size is not None and (not isinstance(size, int) or size < 1):
                raise ValueError(f"shape {self.shape}: sizes are at least 1, or None for any")
        if pad is not None and self.shape is not None and self.shape[:1] != (None,):
            raise ValueError(f"shape {self.shape}: the first size of a padded array must be None")

    def __repr__(self) -> str:
        return f"Array({self.dtype!r}, shape={self.shape}, pad={self.pad!r}, pad_value={self.pad_value})"


def _buckets(pad: Any) -> tuple[int, ...]:
    lengths = () if isinstance(pad, str) else tuple(pad)
    if (
        not lengths
        or any(type(n) is not int or n < 1 for n in lengths)
        or list(lengths) != sorted(set(lengths))
    ):
        raise ValueError(f"pad must be 'longest' or a list of growing lengths, not {pad!r}")
    return lengths


def dtype_name(dtype: Any) -> str:
    """The name of a datatype however it is given. Raises ValueError for one that does not travel."""
    name = _PYTHON.get(dtype) if isinstance(dtype, type) else None
    name = name or getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    for known, typestr in DTYPES.items():
        if name in (known, typestr, typestr[1:]):
            return known
    near = difflib.get_close_matches(name, DTYPES, 1)
    raise ValueError(
        f"dtype {name!r} is not one of {', '.join(DTYPES)}" + (f"; did you mean {near[0]!r}?" if near else "")
    )


class Input:
    """One array parameter of one function."""

    __slots__ = ("name", "array", "optional", "mask", "lengths")

    def __init__(self, name: str, array: Array, optional: bool, mask: bool, lengths: bool) -> None:
        self.name = name
        self.array = array
        self.optional = optional
        self.mask = mask
        self.lengths = lengths

    def as_json(self) -> dict[str, Any]:
        """The Input object of the protocol."""
        array = self.array
        given: dict[str, Any] = {"name": self.name}
        if array.dtype is not None:
            given["dtype"] = array.dtype
        if array.shape is not None:
            given["shape"] = [-1 if size is None else size for size in array.shape]
        if array.pad is not None:
            given["pad"] = array.pad
            given["pad_value"] = (
                array.pad_value if math.isfinite(array.pad_value) else str(float(array.pad_value))
            )
        for flag in ("optional", "mask", "lengths"):
            if getattr(self, flag):
                given[flag] = True
        return given


class Signature:
    """The arrays that one function takes; requests: and the list of requests before them."""

    __slots__ = ("inputs", "requests")

    def __init__(self, inputs: Sequence[Input], requests: bool) -> None:
        self.inputs = tuple(inputs)
        self.requests = requests

    def as_json(self) -> dict[str, Any]:
        """One method's entry in READY."""
        return {"inputs": [i.as_json() for i in self.inputs], "requests": self.requests}


def read_signature(
    call: Callable[..., Any], label: str, declared: Any, annotated: dict[str, Array] | None
) -> Signature | None:
    """What arrays a batched function takes; None when it takes none. label names it in errors.

    declared is what accept_batch(arrays=) was given, annotated what annotated_arrays found if it could be
    asked before. Raises ValueError, TypeError for what cannot be.
    """
    if declared is None or declared is True:
        given: dict[str, Array] = {}
    elif isinstance(declared, Mapping):
        given = {name: spec if isinstance(spec, Array) else Array(spec) for name, spec in declared.items()}
    else:
        raise TypeError(f"{label}: arrays must be True or a dict of the parameters, not {declared!r}")
    if annotated is None:
        annotated = annotated_arrays(call if inspect.isroutine(call) else type(call).__call__)
    given = {**annotated, **given}
    if not given and declared is not True:
        return None
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    return _Reader(label, parameters, given, declared).read()


class _Reader:
    """Sorts a function's parameters: requests, arrays, and what comes along with padded ones."""

    def __init__(
        self, label: str, parameters: list[inspect.Parameter], given: dict[str, Array], declared: Any
    ) -> None:
        self._label = label
        self._parameters = parameters
        self._names = {p.name for p in parameters}
        self._given = given
        self._everything = declared is True
        self._declared = declared if isinstance(declared, Mapping) else {}

    def read(self) -> Signature:
        for name in self._given:
            if name not in self._names:
                near = difflib.get_close_matches(name, self._names, 1)
                raise ValueError(
                    f"{self._label} has no parameter {name!r}"
                    + (f"; did you mean {near[0]!r}?" if near else "")
                )
        requests = self._takes_requests()
        inputs = [self._input(p) for p in self._parameters[requests:] if not self._comes_along(p.name)]
        if not inputs:
            raise ValueError(f"{self._label} is to take arrays, but has no parameter for one")
        return Signature(inputs, requests)

    def _takes_requests(self) -> bool:
        """A first parameter that nobody said was an array stays the list of requests."""
        if self._everything or not self._parameters:
            return False
        first = self._parameters[0]
        return first.kind in (_P.POSITIONAL_ONLY, _P.POSITIONAL_OR_KEYWORD) and first.name not in self._given

    def _comes_along(self, name: str) -> bool:
        for end in (_MASK, _LENGTHS):
            if name.endswith(end) and name not in self._declared:  # though it may be annotated
                array = self._given.get(name.removesuffix(end))
                return array is not None and array.pad is not None
        return False

    def _input(self, p: inspect.Parameter) -> Input:
        if p.kind not in (_P.POSITIONAL_OR_KEYWORD, _P.KEYWORD_ONLY):
            raise ValueError(
                f"{self._label}: {p} cannot be an array; give each array a parameter with a name"
            )
        array = self._given.get(p.name) or Array()
        padded = array.pad is not None
        return Input(
            p.name,
            array,
            optional=p.default is not _P.empty,
            mask=padded and p.name + _MASK in self._names,
            lengths=padded and p.name + _LENGTHS in self._names,
        )


def annotated_arrays(function: Any) -> dict[str, Array]:
    """The parameters whose annotation is an array of NumPy, or Annotated with an Array.

    Only what looks like one is evaluated, which for nearly every function is nothing. Raises NameError and
    whatever else evaluating an annotation raises.
    """
    texts = {
        name: annotation
        for name, annotation in _annotations(function).items()
        if name != "return" and _may_be_array(annotation)
    }
    if not texts:
        return {}
    import types
    import typing

    holder = types.SimpleNamespace(__annotations__=texts)
    names = {**_usual_names(), **getattr(function, "__globals__", {})}
    hints = typing.get_type_hints(holder, names, names, include_extras=True)
    found = {name: _array_of(hint, typing) for name, hint in hints.items()}
    return {name: array for name, array in found.items() if array is not None}


def _annotations(function: Any) -> dict[str, Any]:
    try:
        return getattr(function, "__annotations__", None) or {}
    except NameError:  # from Python 3.14 on they are evaluated here, and one names what is not defined
        library = importlib.import_module("annotationlib")
        texts: dict[str, Any] = library.get_annotations(function, format=library.Format.STRING)
        return texts


def _may_be_array(annotation: Any) -> bool:
    text = annotation if isinstance(annotation, str) else repr(annotation)
    return "ndarray" in text or "NDArray" in text or "Array(" in text


def _usual_names() -> dict[str, Any]:
    """What annotations call things: a function that came as a pickle has lost what only they use."""
    import typing

    import numpy
    import numpy.typing

    return {
        "np": numpy,
        "numpy": numpy,
        "npt": numpy.typing,
        "NDArray": numpy.typing.NDArray,
        "ndarray": numpy.ndarray,
        "Annotated": typing.Annotated,
        "Array": Array,
    }


def _array_of(hint: Any, typing: Any) -> Array | None:
    for extra in getattr(hint, "__metadata__", ()):
        if isinstance(extra, Array):
            return extra
    hint = getattr(hint, "__origin__", hint) if hasattr(hint, "__metadata__") else hint
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hasattr(hint, "__value__") and origin is None:  # a name that a `type` statement gave
        return _array_of(hint.__value__, typing)
    if hasattr(origin, "__value__"):  # such as NDArray[float32], in newer versions of NumPy
        array = _array_of(origin.__value__, typing)
        return array and (_array_of_scalar(arguments) or array)
    if _is_ndarray(origin or hint):  # arguments are a shape and numpy.dtype[float32]
        return next((_array_of_scalar(typing.get_args(a)) for a in arguments[1:]), None) or Array()
    if type(None) in arguments:  # ndarray | None
        return next((found for a in arguments if (found := _array_of(a, typing)) is not None), None)
    return None


def _array_of_scalar(arguments: Sequence[Any]) -> Array | None:
    """An array of the first that is a datatype: not Any, a TypeVar or an abstract type. Raises ValueError."""
    for scalar in arguments:
        if isinstance(scalar, type) and scalar.__name__ not in _ABSTRACT:
            return Array(scalar)
    return None


def _is_ndarray(hint: Any) -> bool:
    return getattr(hint, "__module__", "") == "numpy" and getattr(hint, "__name__", "") == "ndarray"
