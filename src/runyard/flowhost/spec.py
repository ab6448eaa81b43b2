"""Reads what flow to host: from a file, from standard input, or from the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from runyard.flow.hosted import VARIABLE, HostSpec

MAX_BYTES = 16 * 1024 * 1024
USAGE = f"usage: python -m runyard.flowhost --spec FILE ('-': standard input; without it: ${VARIABLE})"


class BadSpec(Exception):
    """There is no specification, or none that can be read."""


def read_spec(arguments: Sequence[str]) -> HostSpec:
    """The specification that the arguments or the environment name. Raises BadSpec.

    The variable is taken out of the environment, so that children don't inherit it.
    """
    inherited = os.environ.pop(VARIABLE, None)
    if len(arguments) == 2 and arguments[0] == "--spec":
        data = _read(arguments[1])
    elif not arguments and inherited is not None:
        data = inherited.encode("utf-8", "surrogateescape")
    else:
        raise BadSpec(USAGE)
    try:
        spec = msgspec.json.decode(data, type=HostSpec)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadSpec(f"the specification can't be read: {error}") from None
    if bool(spec.document) == bool(spec.path):
        raise BadSpec("the specification must have either a document or the path of one")
    return spec


def _read(name: str) -> bytes:
    if name == "-":
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
    else:
        try:
            with Path(name).open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise BadSpec(f"{name} can't be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise BadSpec(f"{name} is longer than {MAX_BYTES:,} bytes")
    return data
