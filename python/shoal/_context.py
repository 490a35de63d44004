"""`serve.context`: where the batch that is being computed came from, and whether anybody waits for it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._array_batch import ArrayBatch
    from ._batch import Batch
    from ._cancels import Cancels

# (web, size of the call, batch id); one value a thread and an asyncio task, so overlapping batches do not see
# each other's.
_current: ContextVar[tuple[bool, int | None, int]] = ContextVar("shoal_batch", default=(False, None, 0))

cancels: Cancels | None = None
"""Which batches nobody waits for; None outside of a worker."""


class Context:
    """What a model may ask about the call it is in. Safe in threads and in async functions."""

    __slots__ = ()

    @property
    def web(self) -> bool:
        """True while the model computes queries that came over HTTP or gRPC, False for those of handles."""
        return _current.get()[0]

    @property
    def batch_size(self) -> int | None:
        """How many queries the model was given in this call; None outside of a call."""
        return _current.get()[1]

    @property
    def cancelled(self) -> bool:
        """True once every caller of the batch has left: nobody will see what the model answers.

        For long loops: a model that finds it True may raise or return at once. It costs about a microsecond.
        It stays False in threads that the model itself starts, and outside of a call.
        """
        return cancels is not None and cancels.has(_current.get()[2])

    def __repr__(self) -> str:
        return f"Context(web={self.web}, batch_size={self.batch_size})"


context = Context()


def enter(batch: Batch | ArrayBatch, size: int) -> None:
    """Tell the code that runs after this, in this thread or task, which call it is in."""
    _current.set((not batch.api, size, batch.id))
