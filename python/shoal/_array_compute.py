"""Computing a batch with a function that takes arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ._array_batch import AnyArray, ArrayBatch, encode_arrays
from ._array_stack import Group, restack, stack
from ._batch import Batch
from ._call import Plan, Target, as_answers
from ._compute import Reply, encode_error, encode_result
from ._context import enter
from ._errors import InvalidArgument, WrongAnswerCount
from ._isolate import isolate


def compute_arrays(target: Target, plan: Plan | Exception, batch: ArrayBatch) -> Reply:
    """As compute, for queries whose inputs came as arrays."""
    try:
        enter(batch, batch.size)
        # Nobody but the model holds an array while it computes, nor after that.
        result = _checked(plan).call(*batch.take_requests(), **batch.take_arrays())
        return _reply(target, batch, result)
    except BaseException as exc:  # as in compute
        return encode_error(batch, exc)


async def compute_arrays_async(target: Target, plan: Plan, batch: ArrayBatch) -> Reply:
    """As compute_arrays, for an async function."""
    try:
        enter(batch, batch.size)
        result = await _checked(plan).call(*batch.take_requests(), **batch.take_arrays())
        return _reply(target, batch, result)
    except BaseException as exc:
        return encode_error(batch, exc)


def compute_columns(target: Target, plan: Plan, batch: Batch) -> Reply:
    """As compute, for queries of handles, whose arguments are made arrays first."""
    try:
        answers = _Answers(target, plan, batch)
        for group in answers.calls():
            enter(batch, len(group[0]))
            with answers.failing(group):
                answers.add(group, plan.call(*_requests(plan, batch, group), **group[1]))
        return encode_result(batch, answers.in_order())
    except BaseException as exc:
        return encode_error(batch, exc)


async def compute_columns_async(target: Target, plan: Plan, batch: Batch) -> Reply:
    """As compute_columns, for an async function."""
    try:
        answers = _Answers(target, plan, batch)
        for group in answers.calls():
            enter(batch, len(group[0]))
            with answers.failing(group):
                answers.add(group, await plan.call(*_requests(plan, batch, group), **group[1]))
        return encode_result(batch, answers.in_order())
    except BaseException as exc:
        return encode_error(batch, exc)


def _checked(plan: Plan | Exception) -> Plan:
    if isinstance(plan, Exception):
        raise plan
    if plan.arrays is None:
        raise InvalidArgument(f"{plan.label} takes no arrays")
    return plan


def _reply(target: Target, batch: ArrayBatch, result: Any) -> Reply:
    """Arrays go as they are; what is not an array, or does not travel as one, item by item."""
    if type(result) is not np.ndarray:
        result = _as_arrays(target, result)
    if type(result) is dict or (type(result) is np.ndarray and result.ndim > 0):
        reply = encode_arrays(batch.id, result)
        if reply is not None:
            return reply
    return encode_result(batch, _items(target, result))


def _as_arrays(target: Target, result: Any) -> Any:
    """An array for what can be one without a copy, a dict of arrays for a dict; else the result itself."""
    if isinstance(result, dict):
        arrays = {str(name): np.asarray(value) for name, value in result.items()}
        lengths = {name: len(array) if array.ndim else None for name, array in arrays.items()}
        if not arrays or None in lengths.values():
            raise TypeError(
                f"backend {target.backend!r} must return arrays whose first axis is the batch; "
                f"it returned {_shapes(arrays)}"
            )
        if len(set(lengths.values())) > 1:
            raise WrongAnswerCount(
                f"backend {target.backend!r} returned different numbers of answers: {_shapes(arrays)}"
            )
        return arrays
    if hasattr(result, "__array__") and not hasattr(result, "iloc"):  # a tensor; a DataFrame is refused below
        return np.asarray(result)
    return result


def _shapes(arrays: dict[str, AnyArray]) -> str:
    return "a dict with " + (", ".join(f"{n!r} of shape {a.shape}" for n, a in arrays.items()) or "nothing")


def _items(target: Target, result: Any) -> Sequence[Any]:
    """One answer for each query. Numbers are Python's: they cost least, as JSON and as pickle."""
    if type(result) is dict:
        columns = [_items(target, value) for value in result.values()]
        return [dict(zip(result, row, strict=True)) for row in zip(*columns, strict=True)]
    if type(result) is np.ndarray and result.ndim > 0:
        items: list[Any] = result.tolist() if result.ndim == 1 else list(result)
        return items
    return as_answers(result, target.backend, api=True)


def _groups(target: Target, plan: Plan, batch: Batch) -> list[Group]:
    if not batch.api:
        raise InvalidArgument(f"{plan.label} takes arrays, and the server sent requests")
    assert plan.arrays is not None
    return stack(plan.arrays, plan.label, batch)


def _requests(plan: Plan, batch: Batch, group: Group) -> tuple[()] | tuple[list[Any]]:
    if plan.arrays is None or not plan.arrays.requests:
        return ()
    return ([batch.requests[i] for i in group[0]],)


class _Answers:
    """The calls that a batch takes, and their answers in the order of its queries."""

    def __init__(self, target: Target, plan: Plan, batch: Batch) -> None:
        self._target = target
        self._plan = plan
        self._batch = batch
        self._answers: Sequence[Any] | None = None
        self._placed: list[Any] = []
        self._suspects: list[tuple[list[int], Exception]] = []  # queries of calls that failed
        self._searching = False
        self._failed: Exception | None = None  # with what the last call of a search did

    def calls(self) -> Iterator[Group]:
        """The groups to compute; each is to be computed before the next is asked for."""
        yield from _groups(self._target, self._plan, self._batch)
        self._searching = True
        for indices, error in self._suspects:
            yield from self._search(indices, error)

    def _search(self, indices: list[int], error: Exception) -> Iterator[Group]:
        assert self._plan.arrays is not None
        search = isolate(indices, error)
        try:
            part = next(search)
            while True:
                self._failed = None
                yield restack(self._plan.arrays, self._plan.label, self._batch, part)
                part = search.send(self._failed)
        except StopIteration as end:
            self._placed += end.value.items()

    @contextmanager
    def failing(self, group: Group) -> Iterator[None]:
        """What a call raises concerns its own queries, where the batch has others."""
        try:
            yield
        except Exception as exc:
            if len(group[0]) == self._batch.size:
                raise
            if self._searching:
                self._failed = exc
            elif len(group[0]) > 1 and self._target.isolates:
                self._suspects.append((group[0], exc))
            else:
                self._placed += [(i, exc) for i in group[0]]

    def add(self, group: Group, result: Any) -> None:
        """Take what one call returned. Raises what is wrong with it."""
        answers = _items(self._target, _as_arrays(self._target, result))
        indices = group[0]
        if len(indices) == self._batch.size:
            self._answers = answers  # the server compares their number
            return
        if len(answers) != len(indices):
            raise WrongAnswerCount(
                f"backend {self._target.backend!r} returned {len(answers)} answers "
                f"for a batch of {len(indices)} queries"
            )
        self._placed += zip(indices, answers, strict=True)

    def in_order(self) -> Sequence[Any]:
        """Answers and errors, one for each query."""
        if self._answers is not None:
            return self._answers
        answers: list[Any] = [None] * self._batch.size
        for i, answer in [*self._placed, *self._batch.faults.items()]:
            answers[i] = answer
        return answers
