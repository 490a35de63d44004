"""`serve.context`: where the batch that is being computed came from."""

from __future__ import annotations

from contextvars import ContextVar

# (web, batch size); one value a thread and an asyncio task, so overlapping batches do not see each other's.
_current: ContextVar[tuple[bool, int | None]] = ContextVar("shoal_batch", default=(False, None))


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

    def __repr__(self) -> str:
        return f"Context(web={self.web}, batch_size={self.batch_size})"


context = Context()


def enter(web: bool, size: int) -> None:
    """Tell the code that runs after this, in this thread or task, which call it is in."""
    _current.set((web, size))
