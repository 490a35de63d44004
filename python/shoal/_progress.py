"""A progress bar that shows itself only where somebody sees it and it is worth it."""

from __future__ import annotations

import sys
import time
from typing import Any

from ._needs import need

_WORTH_IT = 2.0  # seconds


class Bar:
    """Counts items on stderr. shown: True always, False never, None on a terminal after two seconds."""

    def __init__(self, label: str, total: int | None, shown: bool | None) -> None:
        self._label = label
        self._total = total
        self._delay = 0.0 if shown else _WORTH_IT
        self.wanted = sys.stderr.isatty() if shown is None else shown
        """Whether it may ever be seen."""
        self._count = 0
        self._bar: Any = None
        self._start = 0.0

    def __enter__(self) -> Bar:
        self._start = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self) -> None:
        """One item more is done."""
        self._count += 1
        if self._bar is not None:
            self._bar.update()
        elif self.wanted and time.monotonic() - self._start >= self._delay:
            tqdm = need("tqdm", "to show progress").tqdm
            self._bar = tqdm(desc=self._label, total=self._total, unit="query", initial=0, dynamic_ncols=True)
            self._bar.start_t -= time.monotonic() - self._start  # so that rates count from the first item
            self._bar.update(self._count)
