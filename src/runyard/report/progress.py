"""What the callbacks for training libraries have in common: not every step is told, and progress is worked out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from runyard import report


class Progress:
    """Numbers of steps, at most so often; progress from 0 to 100, and the time that is left."""

    def __init__(self, interval: float) -> None:
        """`interval` is the seconds between two reports of steps."""
        self._interval = interval
        self._told_at = -interval
        self._begin = time.monotonic()

    def begin(self) -> None:
        self._begin = time.monotonic()
        report.status("running")

    def step(self, values: Mapping[str, Any], step: int, category: str = "train") -> None:
        """Of one step: left out if the last one was told a moment ago."""
        now = time.monotonic()
        if now - self._told_at >= self._interval:
            self._told_at = now
            tell(values, step, category)

    def done(self, part: float) -> None:
        """So much of the training is done, from 0 to 1."""
        part = min(1.0, max(0.0, part))
        report.text("progress", round(100 * part, 2))
        if part > 0:
            left = int((time.monotonic() - self._begin) * (1 - part) / part)
            report.text("remain_time", f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}")


def tell(values: Mapping[str, Any], step: int, category: str) -> None:
    """Those of the values that are numbers."""
    from runyard.report.plain import number

    numbers = {}
    for name, value in values.items():
        try:
            numbers[str(name)] = number(value)
        except Exception:
            # Libraries put whole tensors, lists and texts beside them.
            continue
    if numbers:
        report.metrics(numbers, step=step, category=category)
