"""Rules that make metrics out of lines of output: regular expressions with named groups (`JobSpec.report`).

RE2, so that no expression takes more time than the line is long. Pure; RE2 is loaded with the first rule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from runyard.model.job import ReportRule

#: Bytes of a line that are looked at.
MAX_LINE = 16 * 1024


class Rules:
    """The rules of one job, ready to be asked."""

    def __init__(self, rules: Sequence[ReportRule]) -> None:
        """The rules have been checked (`model.check`)."""
        import re2

        options = re2.Options()
        options.log_errors = False
        self._rules = [(re2.compile(rule.pattern, options), rule.category) for rule in rules]

    def read(self, line: str) -> list[dict[str, Any]]:
        """The bodies of the metrics in a line: one for each rule that finds some.

        A group named `step` says the step. Groups that hold no number are passed over.
        """
        found: list[dict[str, Any]] = []
        for pattern, category in self._rules:
            match = pattern.search(line[:MAX_LINE])
            if match is None:
                continue
            values = {name: number for name, text in match.groupdict().items() if (number := _number(text)) is not None}
            step = values.pop("step", None)
            if not values:
                continue
            body: dict[str, Any] = {
                "values": {name: value if math.isfinite(value) else None for name, value in values.items()}
            }
            if step is not None and math.isfinite(step):
                body["step"] = step
            if category is not None:
                body["category"] = category
            found.append(body)
        return found


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text.replace("_", "x"))
    except ValueError:
        return None
