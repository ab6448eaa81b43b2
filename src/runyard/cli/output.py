"""The one place that prints data: a list of records as a table, as JSON, or as JSON lines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import click

FORMATS = ("table", "json", "jsonl")
STATE_STYLE = {
    "pending": "yellow",
    "starting": "cyan",
    "running": "blue",
    "stopping": "magenta",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "bright_black",
    "timed_out": "red",
    "up": "green",
    "down": "red",
}
T = TypeVar("T")


class Column(NamedTuple):
    """One column of a table: its title, and what it shows of a record."""

    title: str
    value: Callable[[Any], object]
    right: bool = False


def echo(records: Iterable[T], columns: Sequence[Column], form: str) -> None:
    """Print records. JSON lines are printed as they come; a table or a JSON array once all are there."""
    import msgspec

    if form == "jsonl":
        for record in records:
            sys.stdout.write(msgspec.json.encode(record).decode() + "\n")
            sys.stdout.flush()
    elif form == "json":
        sys.stdout.write(_indented(list(records)))
    else:
        console().print(table(records, columns))


def echo_record(record: Any, fields: Sequence[Column], form: str) -> None:
    """Print one record: a line for each field that has a value, or as JSON."""
    import msgspec

    if form == "jsonl":
        sys.stdout.write(msgspec.json.encode(record).decode() + "\n")
    elif form == "json":
        sys.stdout.write(_indented(record))
    else:
        shown = [(field.title, field.value(record)) for field in fields]
        rows = [(title, value) for title, value in shown if value not in (None, "", [], {})]
        console().print(table(rows, (Column("", lambda row: row[0]), Column("", lambda row: row[1]))))


def echo_line(line: str) -> None:
    """Print a plain line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _indented(value: Any) -> str:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def console(*, stderr: bool = False) -> Any:
    """A rich console. Colour only on a terminal, and never with NO_COLOR; a pipe gets lines of any length."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    wide = None if stream.isatty() else 10_000
    return Console(file=stream, width=wide, highlight=False, markup=False, soft_wrap=False)


def table(records: Iterable[T], columns: Sequence[Column]) -> Any:
    """A rich table without lines."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, show_header=any(column.title for column in columns), header_style="bold")
    for column in columns:
        grid.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
    for record in records:
        grid.add_row(*(cell(column.value(record)) for column in columns))
    return grid


def cell(value: object) -> Any:
    """A value as text that a terminal shows but never obeys."""
    from rich.text import Text

    text = show(value)
    return Text(text, style=STATE_STYLE.get(text, ""))


def show(value: object) -> str:
    """A value as people read it; control characters become escapes, because names come from strangers."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:g}"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, dict):
        return " ".join(f"{show(key)}={show(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(show(item) for item in value)
    text = str(value)
    return text if text.isprintable() else "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def show_duration(seconds: float | None) -> str:
    """A duration in at most two units."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{max(seconds, 0.0):.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours}h"
    return f"{hours}h{minutes}m" if hours else f"{minutes}m{rest}s"


def show_size(count: int | None) -> str:
    """Bytes in powers of 1,024."""
    if count is None:
        return "-"
    number = float(count)
    for unit in ("B", "K", "M", "G", "T"):
        if number < 1024:
            return f"{number:.0f}{unit}" if unit == "B" else f"{number:.1f}{unit}"
        number /= 1024
    return f"{number:.1f}P"


def elapsed(start: datetime | None, end: datetime | None) -> float | None:
    """Seconds from start to end, or to now."""
    return None if start is None else ((end or datetime.now(UTC)) - start).total_seconds()


class Progress:
    """A progress bar on stderr; nothing at all where stderr is no terminal."""

    def __init__(self, what: str, total: int) -> None:
        self._bar: Any = None
        if sys.stderr.isatty() and total > 1:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, console=console(stderr=True), transient=True)
            self._task = self._bar.add_task(what, total=total)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done)


output_option = click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="How to print.",
)
