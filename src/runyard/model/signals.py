"""Signal names: the one place that turns them into numbers and back."""

from __future__ import annotations

import signal


def signal_number(text: str | int) -> int | None:
    """The number of a signal given as number, `TERM` or `SIGTERM`; None if there is none."""
    word = str(text).strip().upper()
    if word.isascii() and word.isdigit():
        number = int(word) if len(word) < 4 else 0
        return number if 1 <= number < signal.NSIG else None
    member = signal.Signals.__members__.get(word if word.startswith("SIG") else f"SIG{word}")
    return None if member is None else int(member)


def signal_name(number: int | None) -> str | None:
    """`SIGTERM` for 15; the bare number for one without a name; None for None."""
    if number is None:
        return None
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
