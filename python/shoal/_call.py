"""How a model's function is called: which arguments it gets, and what it must return.

A batched callable is called once with lists, any other once a query; a query whose arguments cannot be right
hurts itself alone. Plan.columns has the rules for keywords that some or all queries omit.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Set
from typing import Any, Final

from ._accept import accepts_batch, declared_arrays, is_marked, known_annotations, public_methods
from ._array_spec import Signature, read_signature
from ._errors import InvalidArgument

_P = inspect.Parameter

NO_KWARGS: Final[dict[str, Any]] = {}


class Plan:
    """One callable of a model, looked at once: what its signature takes.

    names are the keywords it takes beside the requests, required those of them without a default; open says
    that it takes any keyword. arrays is None for a function that takes lists.
    """

    __slots__ = (
        "call",
        "label",
        "batched",
        "is_async",
        "takes_request",
        "names",
        "required",
        "open",
        "arrays",
    )

    def __init__(self, call: Callable[..., Any], label: str, batched: bool, arrays: Any = None) -> None:
        """Arrays is what accept_batch(arrays=) was given for it. Raises ValueError, TypeError."""
        self.call = call
        self.label = label
        self.batched = batched
        self.is_async = _is_async(call)
        self.takes_request = True
        self.open = False
        self.names: frozenset[str] = frozenset()
        self.required: tuple[str, ...] = ()
        self._read_signature(call)
        self.arrays = read_signature(call, label, arrays, known_annotations(call)) if batched else None

    def _read_signature(self, call: Callable[..., Any]) -> None:
        try:
            parameters = list(inspect.signature(call).parameters.values())
        except (TypeError, ValueError):  # built-in code without a signature: let it judge by itself
            self.open = True
            return
        positional = [p for p in parameters if p.kind in (_P.POSITIONAL_ONLY, _P.POSITIONAL_OR_KEYWORD)]
        self.takes_request = bool(positional) or any(p.kind is _P.VAR_POSITIONAL for p in parameters)
        self.open = any(p.kind is _P.VAR_KEYWORD for p in parameters)
        by_keyword = [p for p in positional[1:] if p.kind is _P.POSITIONAL_OR_KEYWORD]
        by_keyword += [p for p in parameters if p.kind is _P.KEYWORD_ONLY]
        self.names = frozenset(p.name for p in by_keyword)
        self.required = tuple(p.name for p in by_keyword if p.default is _P.empty)
        if "timeout" in self.names:
            print(
                f"{self.label} has a parameter 'timeout', which handle.remote takes for the query's own "
                "deadline: only the items of handle.map reach it; better give it another name",
                file=sys.stderr,
                flush=True,
            )

    def unknown(self, kwargs: Mapping[str, Any]) -> TypeError | None:
        """The error of one query whose keywords the function does not take; None when it takes them all."""
        if self.open:
            return None
        wrong = next((name for name in kwargs if name not in self.names), None)
        if wrong is None:
            return None
        near = difflib.get_close_matches(wrong, self.names, 1)
        if near:
            hint = f"; did you mean {near[0]!r}?"
        elif self.names:
            hint = f"; it takes {', '.join(sorted(self.names))}"
        else:
            hint = "; it takes none"
        return TypeError(f"{self.label} got an unexpected keyword argument {wrong!r}{hint}")

    def columns(self, rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        """The keyword arguments of a batched call: for each keyword a list with one entry a query.

        An omitted keyword is None in its query's place. One that no query gave is left to the function's
        own default or, where it has none, is a list of None.
        """
        given = dict.fromkeys(name for row in rows for name in row) if self.open else set[str]().union(*rows)
        columns = {name: [row.get(name) for row in rows] for name in given}
        for name in self.required:
            if name not in columns:
                columns[name] = [None] * len(rows)
        return columns

    def web_columns(self, size: int) -> dict[str, list[Any]]:
        """The keyword arguments of a batched call for web queries, which give none."""
        return {name: [None] * size for name in self.required} if self.required else NO_KWARGS

    def web_row(self) -> dict[str, Any]:
        """The keyword arguments of a call with one web query."""
        return dict.fromkeys(self.required) if self.required else NO_KWARGS


class Target:
    """A loaded model: a function, or an instance of a class."""

    def __init__(self, backend: str, model: Any, marked: Any) -> None:
        """Backend names it in errors; marked is what the user deployed, the class for an instance."""
        self.backend = backend
        self.isolates = True  # of calls that fail, the queries are computed again in parts
        self.model = model
        self.is_class = model is not marked
        self.accepts_batch = accepts_batch(marked)
        self._all_batched = is_marked(marked)
        self._all_arrays = declared_arrays(marked)
        self._plans: dict[str, Plan] = {}
        self._signatures: dict[str, Signature] | None = None

    def plan(self, method: str) -> Plan:
        """The plan of a method; "" is __call__, or the function itself. Raises InvalidArgument."""
        plan = self._plans.get(method)
        if plan is None:
            plan = self._plans[method] = self._look_at(method)
        return plan

    def _look_at(self, method: str) -> Plan:
        if not self.is_class:
            if method not in ("", "__call__"):
                raise InvalidArgument(f"backend {self.backend!r} is a function: it has no method {method!r}")
            return Plan(self.model, self._label(self.model), self.accepts_batch, declared_arrays(self.model))
        name = method or "__call__"
        cls = type(self.model)
        found, owner = find_method(cls, name)
        if found is None:
            raise InvalidArgument(
                f"backend {self.backend!r}: class {cls.__name__} has no method {name!r}"
                + _instead(cls, method)
            )
        if not _offers(cls, name, found, owner):
            raise InvalidArgument(
                f"backend {self.backend!r}: class {cls.__name__} does not offer {name!r}, which it has "
                f"from {owner.__module__}.{owner.__qualname__}; define it in {cls.__name__}, or mark it "
                "with @serve.accept_batch"
            )
        call = getattr(self.model, name)
        arrays = declared_arrays(call) or (self._all_arrays if name == "__call__" else None)
        return Plan(call, self._label(call), self._all_batched or is_marked(call), arrays)

    @property
    def takes_arrays(self) -> bool:
        """Whether any method takes arrays."""
        return bool(self.signatures())

    def signatures(self) -> dict[str, Signature]:
        """What the methods take that take arrays. Raises ValueError, TypeError for what cannot be."""
        if self._signatures is not None:
            return self._signatures
        plans: dict[str, Plan] = {}
        for name in public_methods(type(self.model)) if self.is_class else ["__call__"]:
            found = getattr(type(self.model), name, None)
            if self.is_class and not offers(type(self.model), name):
                continue
            if callable(found) and (self._all_batched or is_marked(found)):
                plans["" if name == "__call__" else name] = self.plan("" if name == "__call__" else name)
        self._signatures = {name: plan.arrays for name, plan in plans.items() if plan.arrays is not None}
        return self._signatures

    def _label(self, call: Any) -> str:
        name = getattr(call, "__qualname__", type(call).__qualname__).replace("<locals>.", "")
        return f"{name}() of backend {self.backend!r}"


def check_callable(found: Any, name: str) -> None:
    """Raise TypeError for what no query could be given to, however it came to be deployed under name."""
    if not callable(found):
        raise TypeError(
            f"{name} is of type {type(found).__name__}; a backend is a function or a class, or "
            "another object that can be called"
        )
    if not inspect.isclass(found):
        if is_marked(found):
            _check_takes_batch(found, name, is_method=False)
        return
    offered = [method for method in public_methods(found) if offers(found, method)]
    if not offered:
        raise TypeError(
            f"{name} is a class without a method that a query could be given to: define "
            "__call__(self, request), or @serve.accept_batch __call__(self, requests)"
        )
    for method in offered:
        call = getattr(found, method)
        if is_marked(call) or (method == "__call__" and is_marked(found)):
            takes_self = inspect.isfunction(inspect.getattr_static(found, method))
            _check_takes_batch(call, f"{name}.{method}", is_method=takes_self)


def _check_takes_batch(call: Any, name: str, is_method: bool) -> None:
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):  # as Plan: let it judge by itself
        return
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):  # as decorators have it
        return
    if len(parameters) <= is_method:
        me = "self, " * is_method
        raise TypeError(
            f"{name}() is marked with @serve.accept_batch and takes nothing, so that it could not see its "
            f"batch: it takes a list of requests, as in ({me}requests), or a list for each keyword, as in "
            f"({me}*, number)"
        )


def find_method(cls: type, name: str) -> tuple[Any, type]:
    """The method that a class has under a name, and whose it is; None for what no query may name.

    Names come from strangers. An instance's attributes, nested classes and properties are no methods, and
    what begins with an underscore is not part of what a model offers.
    """
    if name.startswith("_") and name != "__call__":
        return None, cls
    for owner in cls.__mro__:
        if name in vars(owner):
            found = vars(owner)[name]
            return (found if _is_method(found) or name == "__call__" else None), owner
    return None, cls


def _instead(cls: type, method: str) -> str:
    """What a query that named no method may name, of a class without __call__."""
    if method not in ("", "__call__"):
        return ""
    names = ", ".join(name for name in public_methods(cls) if offers(cls, name))
    return f"; a query may name one of {names}, with method_name= or the header X-Serve-Call-Method"


# Kinds of methods that cannot be called as a class has them.
_WRAPPED: Final = (staticmethod, classmethod, functools.partialmethod, functools.singledispatchmethod)


def _is_method(found: Any) -> bool:
    # isroutine takes all that has __get__ for one, also what computes an attribute when it is looked at.
    return inspect.isroutine(found) and (callable(found) or isinstance(found, _WRAPPED))


def offers(cls: type, name: str) -> bool:
    """Whether queries may call the method that a class has under a name."""
    found, owner = find_method(cls, name)
    return found is not None and _offers(cls, name, found, owner)


def _offers(cls: type, name: str, found: Any, owner: type) -> bool:
    # A base class of another package brings methods that were not meant for callers: dict.clear,
    # Thread.start, Module.half. Those of the model's own package, and marked ones, were.
    return name == "__call__" or is_marked(found) or _package(owner) == _package(cls)


def _package(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def as_answers(result: Any, backend: str, api: bool) -> list[Any] | tuple[Any, ...]:
    """What a batched call returned, as a sequence of answers. Raises TypeError for what has no order."""
    if type(result) is list or type(result) is tuple:
        return result
    if not api and getattr(result, "ndim", 0) == 1 and hasattr(result, "tolist"):
        # An array for web callers: all its numbers at once. Handles get the items as they are.
        numbers: list[Any] = result.tolist()
        return numbers
    unordered = isinstance(result, (str, bytes, bytearray, memoryview, Mapping, Set))
    frame = hasattr(result, "iloc") and hasattr(result, "columns")  # iterating a DataFrame yields its columns
    if not unordered and not frame:
        try:
            return list(result)
        except TypeError:
            if hasattr(result, "__iter__") and getattr(result, "shape", None) != ():
                raise  # raised by the model's own iterator
    raise TypeError(
        f"backend {backend!r} must return a list (or another ordered sequence) with one answer for each "
        f"query of the batch; it returned {type(result).__name__}"
    )


def _is_async(call: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004
