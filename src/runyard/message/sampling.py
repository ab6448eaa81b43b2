"""What is kept of a flood. Pure: the clock and the messages come from outside.

Each job has an allowance that fills again at a steady rate. A message costs one, a large one more. What does not fit is
left out evenly, so that a curve keeps its shape; and the job's messages say that it was so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from runyard.model.message import INFO, PRECIOUS, NewMessage

#: Bytes of a body that cost one.
UNIT = 1024
#: Seconds between two notices about one job.
NOTICE_EVERY = 10.0
#: `code` in the body of the notice.
DROPPED = "dropped"


class Allowance(msgspec.Struct):
    """Of one job: what it may still say, and what was left out without a notice so far."""

    left: float
    at: float
    """When `left` was right; seconds of a steady clock, as all times here."""
    untold: int = 0
    told_at: float | None = None

    def fill(self, rate: float, most: float, now: float) -> None:
        self.left = min(most, self.left + max(0.0, now - self.at) * rate)
        self.at = now

    def patience(self, now: float) -> float:
        """Seconds until the next notice may be given."""
        return 0.0 if self.told_at is None else max(0.0, self.told_at + NOTICE_EVERY - now)


def cost(size: int) -> float:
    """Of a message whose body has that many bytes."""
    return max(1.0, size / UNIT)


def is_precious(message: NewMessage) -> bool:
    """Never left out: how it goes with the job, what went wrong, what the server says."""
    return message.kind in PRECIOUS or message.source == "server"


def choose(allowance: Allowance, messages: Sequence[NewMessage], sizes: Sequence[int]) -> list[int]:
    """The places of the messages that are kept, in order; what is left out is counted in the allowance."""
    costs = [cost(size) for size in sizes]
    total = sum(costs)
    if total <= allowance.left:
        allowance.left -= total
        return list(range(len(messages)))
    free = [place for place, message in enumerate(messages) if not is_precious(message)]
    chosen = set(range(len(messages))) - set(free)
    allowance.left = max(0.0, allowance.left - sum(costs[place] for place in chosen))
    # Evenly: the n-th is taken when its share of the room is reached.
    want = sum(costs[place] for place in free)
    room = allowance.left
    seen = spent = 0.0
    for place in free:
        seen += costs[place]
        if spent + costs[place] <= room and spent + costs[place] <= seen * room / want + 1e-9:
            spent += costs[place]
            chosen.add(place)
    allowance.left -= spent
    allowance.untold += len(messages) - len(chosen)
    return sorted(chosen)


def notice(job: int, allowance: Allowance, now: float) -> NewMessage:
    """Says how many were left out since the last notice. `now` is of the steady clock."""
    body: dict[str, Any] = {
        "code": DROPPED,
        "count": allowance.untold,
        "text": f"{allowance.untold} messages were left out: the job sends more than is kept ([messages] max_rate)",
    }
    allowance.untold, allowance.told_at = 0, now
    return NewMessage(job, INFO, body)
