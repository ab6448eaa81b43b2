"""Job ids: 64 bits, unique, sortable by time; and their F58 form.

Layout, high to low: milliseconds since `EPOCH` (40 bits) | generator (14) | sequence (10).
F58 is RFC 20 of the Flux framework: base 58 behind `ƒ` (ASCII `f` is accepted too).
"""

from __future__ import annotations

from typing import NamedTuple

from runyard.model.errors import InvalidInput

#: 2024-01-01T00:00:00Z in Unix milliseconds; 40 bits last until 2058.
EPOCH = 1_704_067_200_000
GENERATOR_BITS, SEQUENCE_BITS = 14, 10
MAX_ID = (1 << 63) - 1

#: The digits of base 58, without those that look alike.
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_PAIRS = [high + low for high in ALPHABET for low in ALPHABET]
_VALUE = {char: value for value, char in enumerate(ALPHABET)}


class RunKey(NamedTuple):
    """Names one run: the job, the replica (0-based) and the attempt (1-based)."""

    job: int
    replica: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.job}.{self.replica}.{self.attempt}"


class JobIds:
    """Makes job ids. Pure: the caller gives the time, so the same times give the same ids.

    If the clock goes back, or more than 1,024 ids are asked for in one millisecond, the generator runs ahead of the
    clock rather than repeat itself.
    """

    def __init__(self, generator: int = 0, after: int = 0) -> None:
        """`generator` tells servers that share a store apart; `after` is the largest id known to exist."""
        if not 0 <= generator < 1 << GENERATOR_BITS:
            raise InvalidInput(f"generator must be between 0 and {(1 << GENERATOR_BITS) - 1}, got {generator}")
        self._generator = generator
        self._millis = (after >> (GENERATOR_BITS + SEQUENCE_BITS)) + 1 if after else 0
        self._sequence = 0

    def next(self, now: float) -> int:
        """A new id for the time `now` (Unix seconds)."""
        millis = int(now * 1000) - EPOCH
        if millis > self._millis:
            self._millis, self._sequence = millis, 0
        elif self._sequence == (1 << SEQUENCE_BITS) - 1:
            self._millis, self._sequence = self._millis + 1, 0
        else:
            self._sequence += 1
        return (self._millis << GENERATOR_BITS | self._generator) << SEQUENCE_BITS | self._sequence


def f58(number: int) -> str:
    """The F58 form of a job id."""
    digits = ""
    while number >= 58:
        number, rest = divmod(number, 58 * 58)
        digits = _PAIRS[rest] + digits
    if number or not digits:
        return "ƒ" + ALPHABET[number] + digits
    return "ƒ" + digits.lstrip(ALPHABET[0])


def parse_job_id(text: str) -> int | None:
    """The id that `text` writes in decimal or F58, or None if it is neither."""
    if text.isascii() and text.isdigit():
        number = int(text) if len(text) <= 19 else MAX_ID + 1
        return number if number <= MAX_ID else None
    if len(text) > 1 and text[0] in "ƒf":
        number = 0
        for char in text[1:12]:
            value = _VALUE.get(char)
            if value is None:
                return None
            number = number * 58 + value
        return number if len(text) <= 12 and number <= MAX_ID else None
    return None
