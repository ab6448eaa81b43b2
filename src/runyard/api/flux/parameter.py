"""Parameters out of a query or a JSON body, in whichever type they came. Pure (spec/flux-restful.md, 1.2)."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from runyard.api.flux.answer import unprocessable
from runyard.model.quantity import parse_duration

_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE = frozenset({"0", "false", "f", "no", "n", "off"})
#: Digits of a number at most: more is nothing but work.
_DIGITS = 18


class Parameters:
    """Values by name, and where they came from. An empty text is the same as none: the released client sends that."""

    def __init__(self, values: dict[str, Any], place: str = "query") -> None:
        self.values = {name: value for name, value in values.items() if value is not None and value != ""}
        self.place = place

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def get(self, name: str) -> Any:
        return self.values.get(name)

    def text(self, name: str) -> str | None:
        """Raises Refused (422)."""
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            raise unprocessable("string_type", [self.place, name], "Input should be a valid string", value)
        return value

    def boolean(self, name: str) -> bool | None:
        """Raises Refused (422)."""
        value = self.get(name)
        if value is None or isinstance(value, bool):
            return value
        word = str(value).lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
        message = "Input should be a valid boolean, unable to interpret input"
        raise unprocessable("bool_parsing", [self.place, name], message, value)

    def integer(self, name: str) -> int | None:
        """Raises Refused (422)."""
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, str) and len(value) <= _DIGITS:
            try:
                return int(value)
            except ValueError:
                pass
        elif isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**_DIGITS:
            return value
        elif isinstance(value, float) and value.is_integer() and abs(value) < 10**_DIGITS:
            return int(value)
        message = "Input should be a valid integer, unable to parse string as an integer"
        raise unprocessable("int_parsing", [self.place, name], message, value)

    def natural(self, name: str) -> int | None:
        """An integer that is not negative. Raises Refused (422)."""
        value = self.integer(name)
        if value is not None and value < 0:
            message = "Input should be greater than or equal to 0"
            raise unprocessable("greater_than_equal", [self.place, name], message, value)
        return value

    def duration(self, name: str) -> float | None:
        """Seconds, or a text such as `30m`. Raises Refused (422)."""
        value = self.get(name)
        if value is None:
            return None
        try:
            seconds = parse_duration(value) if isinstance(value, str) else msgspec.convert(value, float)
            if not math.isfinite(seconds):
                raise ValueError
        except (ValueError, msgspec.ValidationError, OverflowError):
            message = "Input should be a number of seconds, or a text such as 30m"
            raise unprocessable("int_parsing", [self.place, name], message, value) from None
        return seconds
