"""Computing one batch: BATCH frame in, parts of a RESULT or ERROR frame out."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._answers import PLAIN, Coded, encode_fault, encode_pickle, encode_plain, error_payload
from ._batch import Batch
from ._call import Plan, Target, as_answers
from ._context import enter
from ._errors import WrongAnswerCount
from ._wire import ERROR, JSON, PICKLE, REF_ID, RESULT, RESULT_HEAD, Bytes

if TYPE_CHECKING:
    from ._array_batch import ArrayBatch

_NUMBERS = frozenset((int, float))

Reply = tuple[list[Bytes], int]
"""The parts of a frame to send, and their length together."""


def compute(target: Target, plan: Plan | Exception, batch: Batch) -> Reply:
    """Call a plain function's plan for the batch. Never raises for what the model does."""
    try:
        if isinstance(plan, Exception):
            raise plan
        answers = _call_batched(target, plan, batch) if plan.batched else _call_each(plan, batch)
        return encode_result(batch, answers)
    except BaseException as exc:  # SystemExit and KeyboardInterrupt of a model end its batch, not the worker
        return encode_error(batch, exc)


async def compute_async(target: Target, plan: Plan, batch: Batch) -> Reply:
    """As compute, for an async function; the queries of one that takes single ones run concurrently."""
    try:
        if plan.batched:
            answers = await _await_batched(target, plan, batch)
        else:
            answers = await _await_each(plan, batch)
        return encode_result(batch, answers)
    except BaseException as exc:
        return encode_error(batch, exc)


def _call_batched(target: Target, plan: Plan, batch: Batch) -> Sequence[Any]:
    requests, kwargs = _lists(plan, batch)
    if batch.size and not requests:
        return _merge(target, batch, ())
    enter(batch, len(requests))
    result = plan.call(requests, **kwargs) if plan.takes_request else plan.call(**kwargs)
    return _merge(target, batch, as_answers(result, target.backend, batch.api))


async def _await_batched(target: Target, plan: Plan, batch: Batch) -> Sequence[Any]:
    requests, kwargs = _lists(plan, batch)
    if batch.size and not requests:
        return _merge(target, batch, ())
    enter(batch, len(requests))
    result = await (plan.call(requests, **kwargs) if plan.takes_request else plan.call(**kwargs))
    return _merge(target, batch, as_answers(result, target.backend, batch.api))


def _lists(plan: Plan, batch: Batch) -> tuple[list[Any], dict[str, list[Any]]]:
    """The requests that take part in a batched call, and its keyword arguments."""
    if not batch.api:
        return batch.requests, plan.web_columns(batch.size)
    rows = batch.kwargs
    # In nearly every batch all keywords are right, which one set operation a query tells.
    if batch.faults or not (plan.open or all(map(plan.names.issuperset, rows))):
        _fault_unknown(plan, batch)
    if not batch.faults:
        return batch.requests, plan.columns(rows)
    good = [i for i in range(batch.size) if i not in batch.faults]
    return [batch.requests[i] for i in good], plan.columns([rows[i] for i in good])


def _fault_unknown(plan: Plan, batch: Batch) -> None:
    for i, row in enumerate(batch.kwargs):
        if i not in batch.faults:
            error = plan.unknown(row)
            if error is not None:
                batch.faults[i] = error


def _merge(target: Target, batch: Batch, answers: Sequence[Any]) -> Sequence[Any]:
    """The answers of the whole batch, where some of its queries took no part in the call."""
    if not batch.faults:
        return answers
    expected = batch.size - len(batch.faults)
    if len(answers) != expected:
        # The server would compare with the size of the whole batch, and might be misled.
        wrong = WrongAnswerCount(
            f"backend {target.backend!r} returned {len(answers)} answers for a batch of {expected} queries"
        )
        return [batch.faults.get(i, wrong) for i in range(batch.size)]
    rest = iter(answers)
    return [batch.faults[i] if i in batch.faults else next(rest) for i in range(batch.size)]


def _arguments(plan: Plan, batch: Batch, i: int) -> dict[str, Any]:
    """The keyword arguments of query i, for a call of its own. Raises what is wrong with them."""
    if not batch.api:
        return plan.web_row()
    error = batch.faults.get(i) or plan.unknown(batch.kwargs[i])
    if error is not None:
        raise error
    return batch.kwargs[i]


def _call_each(plan: Plan, batch: Batch) -> list[Any]:
    answers: list[Any] = []
    for i, request in enumerate(batch.requests):
        try:
            kwargs = _arguments(plan, batch, i)
            enter(batch, 1)
            answers.append(plan.call(request, **kwargs) if plan.takes_request else plan.call(**kwargs))
        except BaseException as exc:
            answers.append(exc)
    return answers


async def _await_each(plan: Plan, batch: Batch) -> list[Any]:
    async def one(i: int, request: Any) -> Any:
        kwargs = _arguments(plan, batch, i)
        enter(batch, 1)
        return await (plan.call(request, **kwargs) if plan.takes_request else plan.call(**kwargs))

    import asyncio  # only async models pay for it

    calls = [asyncio.ensure_future(one(i, request)) for i, request in enumerate(batch.requests)]
    return await asyncio.gather(*calls, return_exceptions=True)


def encode_result(batch: Batch | ArrayBatch, answers: Sequence[Any]) -> Reply:
    """The parts of a RESULT frame."""
    if isinstance(batch, Batch) and batch.api:
        if PLAIN.issuperset(map(type, answers)) and True not in batch.plain:
            dumps = pickle.dumps
            return _pack_alike(batch.id, PICKLE, [b"\0\0\0\0" + dumps(answer, 5) for answer in answers])
        return _pack(batch.id, _encode_pickled(batch, answers))
    numbers = _encode_numbers(answers)
    if numbers is not None:
        return _pack_alike(batch.id, JSON, numbers)
    return _pack(batch.id, _encode_web(answers))


def _pack_alike(batch_id: int, code: int, payloads: list[bytes]) -> Reply:
    size = len(payloads)
    lengths = struct.pack(f"<{size}I", *map(len, payloads))
    data = b"".join(payloads)
    total = RESULT_HEAD.size + 5 * size + len(data)
    return [RESULT_HEAD.pack(total - 4, RESULT, batch_id, size), bytes((code,)) * size, lengths, data], total


def _pack(batch_id: int, coded: list[Coded]) -> Reply:
    parts: list[Bytes] = []
    lengths: list[int] = []
    for _, payload in coded:
        if type(payload) is list:
            lengths.append(sum(map(len, payload)))
            parts += payload
        else:
            lengths.append(len(payload))
            parts.append(payload)  # type: ignore[arg-type]
    size = len(coded)
    total = RESULT_HEAD.size + 5 * size + sum(lengths)
    head = RESULT_HEAD.pack(total - 4, RESULT, batch_id, size)
    return [head, bytes([code for code, _ in coded]), struct.pack(f"<{size}I", *lengths), *parts], total


def _encode_numbers(answers: Sequence[Any]) -> list[bytes] | None:
    """Each answer as JSON, where all are plain numbers: one repr for all of them. None where they are not."""
    if type(answers) is not list or not _NUMBERS.issuperset(map(type, answers)):
        return None
    try:
        text = repr(answers)
    except ValueError:  # an integer with more digits than Python shows
        return None
    if "n" in text or not answers:  # nan and inf are errors of their queries
        return None
    return text[1:-1].encode().split(b", ")


def _encode_web(answers: Sequence[Any]) -> list[Coded]:
    coded: list[Coded] = []
    for answer in answers:
        try:
            coded.append(encode_plain(answer))
        except Exception as exc:
            coded.append(encode_fault(exc, api=False))
    return coded


def _encode_pickled(batch: Batch, answers: Sequence[Any]) -> list[Coded]:
    coded: list[Coded] = []
    for i, answer in enumerate(answers):
        plain = i < batch.size and batch.plain[i]
        try:
            if isinstance(answer, BaseException):
                coded.append(encode_fault(answer, api=not plain))
            elif plain:
                coded.append(encode_plain(answer))
            else:
                coded.append(encode_pickle(answer))
        except Exception as exc:
            coded.append(encode_fault(exc, api=not plain))
    return coded


def encode_error(batch: Batch | ArrayBatch, error: BaseException) -> Reply:
    """The parts of an ERROR frame."""
    return encode_batch_error(batch.id, error, batch.api)


def encode_batch_error(batch_id: int, error: BaseException, api: bool) -> Reply:
    """As encode_error, for a batch of which no more is known."""
    payload = error_payload(error, api)
    total = REF_ID.size + len(payload)
    return [REF_ID.pack(total - 4, ERROR, batch_id), payload], total
