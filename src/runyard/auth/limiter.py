"""How often somebody may fail to log in. Pure: the time is given."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict, deque


class Limiter:
    """Counts failures by key within a sliding window. Who has had `most` of them waits until the oldest is past it.

    Nothing but time clears a count: a right password of one account must not buy more guesses at another.
    """

    def __init__(self, most: int, window: float, keys: int = 10_000) -> None:
        """`window` is in seconds; at most `keys` keys are remembered, those that failed last."""
        self._most = most
        self._window = window
        self._keys = keys
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, key: str, now: float) -> float:
        """Seconds until `key` may try again; 0 means now."""
        failures = self._failures.get(key)
        if failures is None:
            return 0.0
        while failures and failures[0] <= now - self._window:
            failures.popleft()
        if not failures:
            del self._failures[key]
            return 0.0
        return failures[0] + self._window - now if len(failures) >= self._most else 0.0

    def failed(self, key: str, now: float) -> None:
        """`key` has failed once more."""
        failures = self._failures.setdefault(key, deque(maxlen=self._most))
        failures.append(now)
        self._failures.move_to_end(key)
        if len(self._failures) > self._keys:
            self._failures.popitem(last=False)


def address_key(address: str) -> str:
    """Under which an address is counted: one host of IPv6 has a whole /64 to call from."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 6:
        mapped = parsed.ipv4_mapped
        return str(mapped) if mapped is not None else str(ipaddress.ip_network((int(parsed), 64), strict=False))
    return address
