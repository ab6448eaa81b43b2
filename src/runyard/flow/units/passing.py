"""Handing a buffer on with other meta. A buffer is shared by everyone who gets it, so the original stays as it is."""

from __future__ import annotations

import copy
from typing import Any

from runyard.flow.buffer import Buffer


def with_meta(buffer: Buffer, values: dict[str, Any]) -> Buffer:
    """The same data, with these meta values beside the buffer's own."""
    result = copy.copy(buffer)
    result._meta = {**(buffer._meta or {}), **values}
    return result


def failed(code: str, message: str) -> Buffer:
    """A buffer that is an error."""
    result = Buffer()
    result.set_error(code, message)
    return result
