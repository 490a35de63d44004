"""Which methods of a model a query may name, and what a client in JSON reads."""

from __future__ import annotations

import functools
import json
import pickle
import struct
import sys
import threading
from typing import Any

import pytest

from shoal import InvalidArgument, ModelError, _wire, serve
from shoal._call import Target
from shoal._link import decode_plain
from shoal._wire import ProtocolError


class Lazy:
    """Something that computes an attribute when it is first looked at, as some libraries have it."""

    def __get__(self, instance: object, owner: type) -> Any:
        raise AssertionError("a query must not have this computed")


class Base:
    """A base of the model's own package."""

    def inherited(self) -> str:
        """What models are to offer, too."""
        return "inherited"


class Model(Base, dict[str, Any], threading.Thread):
    """A model that has a lot that is not for callers."""

    limit = 3
    loss = functools.partial(print, "not a method")

    def __init__(self) -> None:
        dict.__init__(self)
        threading.Thread.__init__(self)
        self.attribute = print
        self.client = threading.Thread

    def __call__(self, request: Any) -> str:
        return "call"

    def predict(self) -> str:
        """One."""
        return "predict"

    @staticmethod
    def static() -> str:
        """One without self."""
        return "static"

    @classmethod
    def of_class(cls) -> str:
        """One of the class."""
        return "of_class"

    @functools.lru_cache  # noqa: B019 it lives as long as the process
    def remembered(self) -> str:
        """One that is no function any more."""
        return "remembered"

    clear = serve.accept_batch(lambda self, requests: requests)  # marked, and the model's own besides

    class Nested:
        """Something that can be called and is no method."""

    @property
    def looked_at(self) -> Any:
        """Something that runs when it is looked at."""
        raise AssertionError("a query must not have this computed")

    @functools.cached_property
    def looked_at_once(self) -> Any:
        """The same."""
        raise AssertionError("a query must not have this computed")

    lazy = Lazy()

    def add(self, n: int) -> int:
        """One of which there is another with fewer arguments."""
        return n

    add_one = functools.partialmethod(add, 1)

    @functools.singledispatchmethod
    def by_type(self, item: object) -> str:
        """One that chooses by the type of its argument."""
        return "by_type"

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a query must not look for {name}")

    def _private(self) -> None: ...

    __hash__ = object.__hash__  # a dict has none, and a thread wants one


OFFERED = [
    "",
    "__call__",
    "predict",
    "static",
    "of_class",
    "remembered",
    "inherited",
    "clear",
    "add_one",
    "by_type",
]


@pytest.mark.parametrize("name", OFFERED)
def test_a_models_own_methods_may_be_called(name: str) -> None:
    assert Target("m", Model(), Model).plan(name).call is not None


@pytest.mark.parametrize(
    "name",
    [
        *(
            "__init__",
            "__class__",
            "__dict__",
            "__reduce__",
            "__getattribute__",
            "__subclasshook__",
            "_private",
        ),
        *("attribute", "client", "limit", "loss", "Nested", "looked_at", "looked_at_once", "lazy", "nothing"),
        *("pop", "update", "fromkeys", "start", "run", "join", "setDaemon"),
        *(
            "predict.__globals__",
            "predict.__call__",
            "../predict",
            "predict\0",
            " predict",
            "Predict",
            "\ud800",
        ),
    ],
)
def test_nothing_else_may(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"no method|does not offer"):
        Target("m", Model(), Model).plan(name)


def test_who_asks_for_a_method_of_a_base_is_told_whose_it_is() -> None:
    with pytest.raises(InvalidArgument, match=r"'start', which it has from threading.Thread; define it in M"):
        Target("m", Model(), Model).plan("start")


def test_a_function_has_no_methods() -> None:
    for name in ("__globals__", "__code__", "append", "__class__"):
        with pytest.raises(InvalidArgument, match="no method"):
            Target("m", test_a_function_has_no_methods, test_a_function_has_no_methods).plan(name)


class Bomb:
    """What must not be unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("import sys; sys.shoal_bomb = True",)


def test_a_client_in_json_unpickles_nothing() -> None:
    bomb = pickle.dumps(Bomb())
    with pytest.raises(ProtocolError, match="pickle"):
        decode_plain(_wire.PICKLE, memoryview(b"\0\0\0\0" + bomb))
    text = json.dumps({"type": "ValueError", "message": "bad", "status": 500}).encode()
    with pytest.raises(ModelError, match="bad"):
        decode_plain(_wire.FAULT, memoryview(struct.pack("<I", len(text)) + text + bomb))
    assert not hasattr(sys, "shoal_bomb")
    assert decode_plain(_wire.JSON, memoryview(b"[1]")) == [1]
