"""The audit trail: who came in, who was refused, what admins did. Bounded: nobody can fill the store with it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

from runyard.auth.limiter import address_key

#: Refusals of one address within a minute, or of one account there; the next one says how many were left out.
MOST = 120
_WINDOW = 60.0
REFUSED = "auth.refused"
_KEYS = 1000
#: Characters of one text.
_TEXT = 200


class Call(msgspec.Struct, frozen=True):
    """The request that asks to come in."""

    address: str
    method: str
    path: str


class _Count:
    __slots__ = ("begun", "count", "left_out")

    def __init__(self, begun: float) -> None:
        self.begun = begun
        self.count = 0
        self.left_out = 0


class Audit:
    """Makes events of what happens at the door. `emit` takes the type of an event and its data."""

    def __init__(self, emit: Callable[[str, dict[str, Any]], None]) -> None:
        self._emit = emit
        self._counts: OrderedDict[str, _Count] = OrderedDict()

    def tell(
        self, type: str, call: Call, now: float, account: str | None, *, proven: bool = False, **more: Any
    ) -> None:
        """`account`: who is asking, or, unless that is `proven`, claims to be. Secrets are no part of it."""
        data: dict[str, Any] = {
            "account": account,
            "address": call.address,
            "method": call.method,
            "path": call.path,
            **more,
        }
        data = {name: _carried(value) if isinstance(value, str) else value for name, value in data.items()}
        if type == REFUSED:
            key = address_key(call.address)
            left_out = self._count(f"{key} {account}" if proven else key, now)
            if left_out is None:
                return
            if left_out:
                data["left_out"] = left_out
        self._emit(type, data)

    def _count(self, key: str, now: float) -> int | None:
        """How many were left out before this one; None if this one is left out, too."""
        count = self._counts.get(key)
        if count is None or count.begun <= now - _WINDOW:
            left_out = count.left_out if count is not None else 0
            count = self._counts[key] = _Count(now)
            count.left_out = left_out
            self._counts.move_to_end(key)
            if len(self._counts) > _KEYS:
                self._counts.popitem(last=False)
        count.count += 1
        if count.count > MOST:
            count.left_out += 1
            return None
        left_out, count.left_out = count.left_out, 0
        return left_out


def _carried(text: str) -> str:
    """The text as an event can carry it: strangers choose it, and half of a surrogate pair can't be stored."""
    return text[:_TEXT].encode("utf-8", "replace").decode()
