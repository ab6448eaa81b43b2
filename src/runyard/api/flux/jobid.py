"""Job ids in every spelling of Flux (spec/flux-restful.md, 4). Pure."""

from __future__ import annotations

import re

from runyard.model.ids import ALPHABET

_VALUE = {char: value for value, char in enumerate(ALPHABET)}
_DOTTED = re.compile(r"(?:job\.)?([0-9a-fA-F]{4})\.([0-9a-fA-F]{4})\.([0-9a-fA-F]{4})\.([0-9a-fA-F]{4})", re.ASCII)
_HEX = re.compile(r"0x[0-9a-fA-F]{1,16}", re.ASCII)
_DECIMAL = re.compile(r"[0-9]{1,20}", re.ASCII)
_F58 = re.compile(f"[ƒf]([{ALPHABET}]{{1,11}})")


def read_job_id(text: str) -> int | None:
    """The id that `text` writes: decimal, `0x` hex, dotted hex, or F58 behind `ƒ` or `f`; None if it is no id."""
    text = text.strip()
    if dotted := _DOTTED.fullmatch(text):
        number = int("".join(dotted.groups()), 16)
    elif short := _F58.fullmatch(text):
        number = 0
        for char in short[1]:
            number = number * 58 + _VALUE[char]
    elif _HEX.fullmatch(text):
        number = int(text, 16)
    elif _DECIMAL.fullmatch(text):
        number = int(text)
    else:
        return None
    return number if number < 1 << 64 else None
