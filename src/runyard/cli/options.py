"""What many commands share: the connection, references to jobs, and the option types for quantities."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from runyard.client import Client


def connect() -> Client:
    """A client for the server that this command line means."""
    from runyard.client import Client

    context = click.get_current_context()
    return Client(**context.find_root().obj)


def read_refs(refs: tuple[str, ...]) -> list[str]:
    """The references given; `-` stands for those on standard input, one a line."""
    result: list[str] = []
    for ref in refs:
        result += sys.stdin.read().split() if ref == "-" else [ref]
    return result


class Duration(click.ParamType[float]):
    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from runyard.model.quantity import parse_duration

        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Size(click.ParamType[int]):
    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from runyard.model.quantity import parse_size

        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Pair(click.ParamType[tuple[str, str]]):
    """`KEY=VALUE`."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value[0], value[1]
        key, equals, rest = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not of the form KEY=VALUE", param, ctx)
        return key, rest


class Since(click.ParamType[float | str]):
    """A moment: RFC 3339, Unix seconds, or a duration ago such as `2h`. Becomes Unix seconds, or the RFC 3339 text."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        import time
        from datetime import datetime

        from runyard.model.quantity import parse_duration

        text = str(value)
        try:
            return float(text)
        except ValueError:
            pass
        try:
            return time.time() - parse_duration(text)
        except ValueError:
            pass
        try:
            # Without a zone the caller's own is meant.
            return datetime.fromisoformat(text).astimezone().isoformat()
        except ValueError:
            self.fail(f"{text!r} is neither a time (2026-11-21T08:00), Unix seconds, nor a time ago (2h)", param, ctx)
