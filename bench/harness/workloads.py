"""What is measured: the models, and how many connections ask at a time."""

from __future__ import annotations

from dataclasses import dataclass

MAX_BATCH_SIZE = 32
CONNECTIONS = (1, 16, 64, 256)

QUERY = '{"x": 41}'
ANSWER = "42"


@dataclass(frozen=True)
class Workload:
    """One model under load; model is its name in peers/models.py."""

    name: str
    title: str
    model: str
    ideal_batches_per_second: float | None = None

    def ideal_rate(self, connections: int) -> float | None:
        """The requests/s that no server can exceed, where the model's own time sets such a bound."""
        if self.ideal_batches_per_second is None:
            return None
        return min(connections, MAX_BATCH_SIZE) * self.ideal_batches_per_second


WORKLOADS = (
    Workload("W1", "vectorised adder, numpy `x + 1`", "adder"),
    Workload("W2", "a model that takes 5 ms a batch, whatever its size", "sleeper", 200),
)
