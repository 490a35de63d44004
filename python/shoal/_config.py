"""Checks of a backend's config that need no server."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from ._accept import accepts_batch
from ._errors import InvalidArgument

KEYS = (
    "max_batch_size",
    "batch_wait_timeout",
    "latency_slo",
    "leave_at_once",
    "num_replicas",
    "max_queued",
    "max_queued_bytes",
    "max_concurrent_batches",
    "timeout",
    "env",
    "expose_traceback",
    "batch_timeout",
    "heartbeat_timeout",
    "max_replicas",
    "scale_up_queue_time",
    "scale_down_delay",
    "idle_timeout",
    "memory_limit",
    "cpu_time_limit",
    "open_files_limit",
    "warm_up",
    "queue_time_target",
    "compute_late",
    "caller_weights",
    "isolate_callers",
    "on_batch_error",
    "max_surge",
    "verify_one_in",
    "verify_compare",
    "recycle_after",
)


def check_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as it is sent: known keys only, timedelta as seconds. Raises InvalidArgument."""
    if not isinstance(config, Mapping):
        raise InvalidArgument(f"config must be a dict, not {type(config).__name__}")
    for key in config:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, 1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(KEYS)}"
            raise InvalidArgument(f"config has no key {key!r}; {hint}")
    return {
        key: value.total_seconds() if isinstance(value, timedelta) else value for key, value in config.items()
    }


def check_batching(name: str, target: Any, config: Mapping[str, Any]) -> None:
    """Raise InvalidArgument when config asks for batches that target does not take."""
    size = config.get("max_batch_size")
    if isinstance(size, int) and size > 1 and not accepts_batch(target):
        raise InvalidArgument(
            f"backend {name!r} has max_batch_size {size}, but {getattr(target, '__name__', target)!r} takes "
            "one query at a time: mark it (for a class its __call__) with @serve.accept_batch"
        )
