"""Cron expressions as Meproc's clients write them, turned into what the engine reads. Pure (spec/meproc.md, 13)."""

from __future__ import annotations

from typing import NamedTuple

from runyard.core.cron import check_cron
from runyard.model.errors import InvalidInput


class _Field(NamedTuple):
    low: int
    high: int
    names: tuple[str, ...] = ()


_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_FIELDS = (_Field(0, 59), _Field(0, 23), _Field(1, 31), _Field(1, 12, _MONTHS), _Field(0, 7, _DAYS))


def engine_cron(text: str, *, strict: bool) -> str:
    """The five fields that `text` means, in the engine's spelling. Further fields are ignored, unless `strict`.

    Ranges may wrap around (`22-3`), numbers may have leading zeros, day 7 is Sunday. Raises InvalidInput.
    """
    words = text.split()
    if len(words) == 1 and words[0].startswith("@"):
        return check_cron(words[0])
    if len(words) < 5 or (strict and len(words) > 5):
        raise InvalidInput(f"a cron expression has five fields, {text!r} has {len(words)}")
    return check_cron(" ".join(_field(word, field) for word, field in zip(words, _FIELDS, strict=False)))


def _field(word: str, field: _Field) -> str:
    return ",".join(_term(term, field) for term in word.split(","))


def _term(term: str, field: _Field) -> str:
    base, slash, step = term.partition("/")
    size = field.high - field.low + 1 - (field.high == 7)
    if slash and not (_is_number(step) and 1 <= int(step) < size):
        raise InvalidInput(f"{term!r}: a step must be between 1 and {size - 1}")
    if base == "*":
        return f"*/{int(step)}" if slash else "*"
    first, dash, last = base.partition("-")
    start = _value(first, field)
    if not dash:
        if slash:
            raise InvalidInput(f"{term!r}: a step goes with * or with a range")
        return str(start)
    end = _value(last, field)
    if end >= start:
        values = range(start, end + 1)
        return _listed(list(values)[:: int(step)]) if slash else f"{start}-{end}"
    top = field.high - (field.high == 7)
    wrapped = [*range(start, top + 1), *range(field.low, end + 1)]
    return _listed(wrapped[:: int(step) if slash else 1])


def _listed(values: list[int]) -> str:
    return ",".join(map(str, values))


def _value(text: str, field: _Field) -> int:
    if text.upper() in field.names:
        return field.names.index(text.upper()) + (field.low if field.low else 0)
    if not _is_number(text) or not field.low <= int(text) <= field.high:
        raise InvalidInput(f"{text!r} is not between {field.low} and {field.high}")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9
