"""Commands and variables with fields in braces, filled in for one task. Never through a shell. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


def fill(text: str, fields: Mapping[str, str]) -> str:
    """`text` with each `{field}` in place; `{{` and `}}` stand for braces. What a field holds stays as it is."""

    def part(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0][0]
        return fields.get(found[1], found[0])

    return _PART.sub(part, text)
