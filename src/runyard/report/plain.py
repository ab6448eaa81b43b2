"""Numbers and rows as JSON has them, from the arrays and tensors of any library, taken by what they can do."""

from __future__ import annotations

import math
from typing import Any

_DEPTH = 8
#: Numbers of one array.
MAX_ITEMS = 100_000


def number(value: Any) -> int | float | str:
    """A number; what is none, or has no end, as a text (`"NaN"`, `"Infinity"`), for JSON has no word for it.

    Raises TypeError or ValueError.
    """
    if isinstance(value, str | bytes):
        raise TypeError(f"{value[:50]!r} is a text, not a number")
    if not isinstance(value, int | float) and callable(item := getattr(value, "item", None)):
        # Scalars and one-element arrays of numpy, torch, tensorflow, jax.
        value = item()
    if isinstance(value, bool | int):
        return int(value)
    found = float(value)
    if math.isnan(found):
        return "NaN"
    if math.isinf(found):
        return "Infinity" if found > 0 else "-Infinity"
    return found


def rows(value: Any) -> list[list[Any]]:
    """A matrix as lists of numbers. Raises TypeError or ValueError."""
    table = nested(value)
    if not isinstance(table, list) or not all(isinstance(row, list) for row in table):
        raise TypeError("a matrix is a list of rows of numbers")
    if sum(map(len, table)) > MAX_ITEMS:
        raise ValueError(f"a matrix has at most {MAX_ITEMS} numbers")
    return [[_cell(cell) for cell in row] for row in table]


def nested(value: Any) -> Any:
    """Lists instead of an array or tensor; tensors that learn, or lie on a device, are fetched."""
    for name in ("detach", "cpu"):
        if callable(method := getattr(value, name, None)):
            value = method()
    if callable(listed := getattr(value, "tolist", None)):
        return listed()
    if isinstance(value, tuple | list):
        return [nested(item) for item in value]
    return value


def jsonable(value: Any, depth: int = 0) -> Any:
    """`value` for JSON: what JSON has no form for becomes its number, its list, or else its text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return number(value)
    if depth >= _DEPTH:
        return str(value)[:200]
    if isinstance(value, dict):
        return {str(key): jsonable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item, depth + 1) for item in value]
    flat = nested(value)
    return jsonable(flat, depth + 1) if flat is not value else str(value)[:10_000]


def _cell(value: Any) -> int | float | None:
    found = number(value)
    return None if isinstance(found, str) else found
