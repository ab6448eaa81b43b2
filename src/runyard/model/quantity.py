"""Durations and sizes as people write them: `"1h30m"`, `"512M"`. On the wire a plain number works as well."""

from __future__ import annotations

import math
import re
from typing import Annotated

from msgspec import Meta

#: Seconds.
Duration = Annotated[float, Meta(description='Seconds, or a text such as "90s", "1h30m", "2d".')]
#: Bytes.
Size = Annotated[int, Meta(description='Bytes, or a text such as "512M" or "2GiB" (powers of 1,024).')]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", re.ASCII)
_DURATION_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?", re.ASCII | re.IGNORECASE)
_SIZE_UNIT = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def parse_duration(text: str) -> float:
    """Seconds in a text such as `"1h30m"`. Raises ValueError."""
    text = text.strip().lower()
    try:
        seconds = float(text)
    except ValueError:
        parts = _DURATION.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise ValueError(f'{text!r} is not a duration; write seconds or for example "90s", "1h30m"') from None
        seconds = sum(float(number) * _DURATION_UNIT[unit] for number, unit in parts)
    if not math.isfinite(seconds):
        raise ValueError(f"{text!r} is not a finite duration")
    return seconds


def parse_size(text: str) -> int:
    """Bytes in a text such as `"512M"`; units are powers of 1,024. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'{text!r} is not a size; write bytes or for example "512M", "2GiB"')
    number, unit = match.groups()
    size = float(number) * 1024 ** _SIZE_UNIT[unit.lower()]
    if not math.isfinite(size):
        raise ValueError(f"{text!r} is not a finite size")
    return int(size)
