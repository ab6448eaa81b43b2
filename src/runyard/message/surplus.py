"""Which messages of a job give way when there are too many. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from runyard.model.message import METRICS, PRECIOUS

#: Of what is allowed, this much is left after trimming: so that not every message makes for a new trimming.
TARGET = 0.9
#: Of the older part, metrics give way one by one, until this share of all is reached.
_OLDER = 0.5
#: The last of them stay whatever happens.
_LAST = 100


class Kept(NamedTuple):
    """What has to be known of a stored message for that."""

    seq: int
    kind: str
    size: int


def surplus(messages: Sequence[Kept], most: int, most_bytes: int) -> list[int]:
    """The `seq` of those to remove; the messages are given oldest first.

    Metrics are thinned out: of the older half every second one goes, again and again, so that a curve keeps its
    beginning. Then the oldest of the other messages go, and last the errors. The newest hundred always stay.
    """
    count, size = len(messages), sum(message.size for message in messages)
    if count <= most and size <= most_bytes:
        return []
    target, target_bytes = int(most * TARGET), int(most_bytes * TARGET)
    gone: set[int] = set()
    free = [message for message in messages[:-_LAST] if message.kind == METRICS]
    while free and (count > target or size > target_bytes):
        half = max(1, int(len(free) * _OLDER))
        thinned: list[Kept] = []
        for place, message in enumerate(free):
            if place < half and place % 2 == (0 if half == 1 else 1) and (count > target or size > target_bytes):
                gone.add(message.seq)
                count, size = count - 1, size - message.size
            else:
                thinned.append(message)
        free = thinned
    others = [message for message in messages[:-_LAST] if message.kind != METRICS]
    for message in sorted(others, key=lambda message: (message.kind in PRECIOUS, message.seq)):
        if count <= target and size <= target_bytes:
            break
        gone.add(message.seq)
        count, size = count - 1, size - message.size
    return sorted(gone)
