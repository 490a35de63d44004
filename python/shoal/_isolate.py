"""Which queries of a call that failed are to blame: the worker's part of isolation.

The server isolates batches. A batch of arrays that do not fit together takes several calls, of which one may
fail; its queries are then searched here, as the server would (batch/isolation.go), with the same bounds.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

_PROBES = 3
"""So many single queries fail before any call passes: the model is broken, not the queries."""


@dataclass
class _Part:
    indices: list[int]
    error: Exception  # of the last call that they were in
    guilty: bool = False  # it would fail: the other half has passed
    other: _Part | None = None  # the half that is guilty if this one passes


def isolate(
    indices: list[int], error: Exception
) -> Generator[list[int], Exception | None, dict[int, Exception]]:
    """Search the queries that failed together with error. Yields those to be computed next, in one call, is
    sent its error, or None, and returns the errors of those that are to blame.

    One guilty query of n costs 2·log2 n calls at most, all together 8·log2 n; what is left then, or when
    everything fails, keeps the error of the last call it was in.
    """
    errors: dict[int, Exception] = {}
    calls, alone, passed = 8 * (len(indices) - 1).bit_length(), 0, False
    parts = _halves(indices, error)
    while parts:
        part = parts.pop(0)
        if calls == 0 or (alone == _PROBES and not passed):
            errors.update(dict.fromkeys(part.indices, part.error))
        elif part.guilty and len(part.indices) > 1:
            parts[:0] = _halves(part.indices, part.error)
        else:
            calls -= 1
            failed = yield part.indices
            if failed is None:
                passed = True
                if part.other is not None:
                    part.other.guilty = True
            elif len(part.indices) > 1:
                parts[:0] = _halves(part.indices, failed)
            else:
                errors[part.indices[0]] = failed
                alone += not passed
    return errors


def _halves(indices: list[int], error: Exception) -> list[_Part]:
    half = len(indices) // 2
    second = _Part(indices[half:], error)
    return [_Part(indices[:half], error, other=second), second] if half else [second]
