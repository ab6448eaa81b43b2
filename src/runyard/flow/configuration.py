"""Options by name, read as the type that the reader wants: a node's, a session's, a flow's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from runyard.flow.status import FlowError, Status, StatusCode

T = TypeVar("T")

_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off", "")


class Configuration:
    """Named values. Texts are converted on reading; a text that is no number or truth value raises FlowError.

    `prefixes` are tried in order before a key, so that a node's view of a session's options finds the most specific
    one (spec 5.8).
    """

    __slots__ = ("_prefixes", "_values")

    def __init__(self, values: Mapping[str, Any] | None = None, *, prefixes: tuple[str, ...] = ("",)) -> None:
        self._values: dict[str, Any] = values if isinstance(values, dict) else dict(values or {})
        self._prefixes = prefixes

    def set(self, key: str, value: Any) -> Status:
        """Sets one value: a number, text, truth value, or a list of these."""
        self._values[key] = value
        return Status()

    def get(self, key: str, default: Any = None) -> Any:
        """The value as it was set."""
        for prefix in self._prefixes:
            if prefix + key in self._values:
                return self._values[prefix + key]
        return default

    def contains(self, key: str) -> bool:
        return any(prefix + key in self._values for prefix in self._prefixes)

    __contains__ = contains

    def keys(self) -> list[str]:
        return list(self._values)

    def get_string(self, key: str, default: str = "") -> str:
        value = self.get(key)
        return default if value is None else _text(value)

    def get_int(self, key: str, default: int = 0) -> int:
        value = self.get(key)
        return default if value is None else _int(key, value)

    def get_float(self, key: str, default: float = 0.0) -> float:
        value = self.get(key)
        return default if value is None else _float(key, value)

    def get_bool(self, key: str, default: bool = False) -> bool:
        value = self.get(key)
        return default if value is None else _bool(key, value)

    def get_string_list(self, key: str, default: list[str] | None = None) -> list[str]:
        return self._list(key, default, lambda _, value: _text(value))

    def get_int_list(self, key: str, default: list[int] | None = None) -> list[int]:
        return self._list(key, default, _int)

    def get_float_list(self, key: str, default: list[float] | None = None) -> list[float]:
        return self._list(key, default, _float)

    def get_bool_list(self, key: str, default: list[bool] | None = None) -> list[bool]:
        return self._list(key, default, _bool)

    def _list(self, key: str, default: list[T] | None, convert: Any) -> list[T]:
        value = self.get(key)
        if value is None:
            return list(default or [])
        items = value if isinstance(value, (list, tuple)) else split(_text(value))
        return [convert(key, item) for item in items]


def split(text: str) -> list[str]:
    """The items of a list written as text: split at commas outside of double quotes, trimmed, quotes taken off."""
    items, start, quoted = [], 0, False
    for at, char in enumerate(text):
        if char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            items.append(text[start:at])
            start = at + 1
    items.append(text[start:])
    return [item.strip().strip('"') for item in items]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ",".join(_text(item) for item in value)
    return str(value)


def _int(key: str, value: Any) -> int:
    try:
        return int(value) if not isinstance(value, str) else int(value.strip(), 0 if value.strip()[:2] == "0x" else 10)
    except (TypeError, ValueError, OverflowError):
        raise FlowError(StatusCode.STATUS_BADCONF, f"option {key!r} must be a whole number, not {value!r}") from None


def _float(key: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise FlowError(StatusCode.STATUS_BADCONF, f"option {key!r} must be a number, not {value!r}") from None


def _bool(key: str, value: Any) -> bool:
    text = _text(value).strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise FlowError(StatusCode.STATUS_BADCONF, f"option {key!r} must be true or false, not {value!r}")
