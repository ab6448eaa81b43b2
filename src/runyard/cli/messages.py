"""`messages` and `metrics`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from runyard.cli import exits
from runyard.cli.options import connect
from runyard.cli.output import Column, echo, echo_line, output_option, show

if TYPE_CHECKING:
    from runyard.client import Curve, MessageDoc

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 40


def _text(message: MessageDoc) -> str:
    """The body in one line: metrics by name, news by its text, anything else as it is."""
    body: dict[str, Any] = message.body
    if message.type == "metrics":
        step = {"step": body["step"]} if body.get("step") is not None else {}
        titles = [item["data"]["title"] for item in body.get("items", ()) if item.get("type") != "scalar"]
        return show(step | body.get("values", {}) | ({"with": titles} if titles else {}))
    if set(body) == {"text"}:
        return show(body["text"])
    return show(body)


MESSAGE = (
    Column("SEQ", lambda message: message.seq, right=True),
    Column("TIME", lambda message: message.at),
    Column("JOB", lambda message: message.job),
    Column("TYPE", lambda message: message.type),
    Column("SAYS", _text),
)

METRIC = (
    Column("NAME", lambda curve: curve.name),
    Column("LAST", lambda curve: curve.last, right=True),
    Column("MIN", lambda curve: curve.min, right=True),
    Column("MAX", lambda curve: curve.max, right=True),
    Column("STEP", lambda curve: curve.points[-1][0] if curve.points else None, right=True),
    Column("COUNT", lambda curve: curve.count, right=True),
    Column("CURVE", lambda curve: sparkline([value for _, _, value in curve.points])),
)


def sparkline(values: Sequence[float | None], width: int = _WIDTH) -> str:
    """A curve in one line of text: the mean of as many values as go into each place; a gap is a blank."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    places = min(width, len(values))
    text = ""
    for place in range(places):
        part = values[len(values) * place // places : len(values) * (place + 1) // places]
        there = [value for value in part if value is not None]
        if not there:
            text += " "
        elif high == low:
            text += _BARS[len(_BARS) // 2]
        else:
            # Each divided first: sums and differences of large numbers may have no end.
            share = sum(value / len(there) / 2 - low / len(there) / 2 for value in there) / (high / 2 - low / 2)
            text += _BARS[min(len(_BARS) - 1, max(0, int(share * len(_BARS))))]
    return text


@click.command()
@click.argument("job", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended; of all jobs, until Ctrl-C.")
@click.option("--after", metavar="SEQ", help="Only messages after this number, or `latest`.")
@click.option("-t", "--type", "kinds", multiple=True, metavar="TYPE", help="Only this type, such as error.")
@click.option("-n", "--limit", type=click.IntRange(1), metavar="N", help="At most N.")
@output_option
def messages(
    job: str | None, follow: bool, after: str | None, kinds: tuple[str, ...], limit: int | None, form: str
) -> int:
    """Show what jobs say: metrics, errors, logs; with -f as it comes."""
    if after is not None and after != "latest" and not after.isdigit():
        raise click.BadParameter(f"{after!r} is neither a number nor `latest`", param_hint="--after")
    if follow and form == "json":
        raise click.UsageError("with -f the end is not known, so there is no JSON array; use -o jsonl")
    with connect() as client:
        found = client.messages(job, follow=follow, after=after, kinds=kinds or None, limit=limit)
        if not follow or form == "jsonl":
            echo(found, MESSAGE, form)
        else:
            for message in found:
                echo_line(_line(message))
    return exits.OK


@click.command()
@click.argument("job")
@click.argument("names", nargs=-1)
@click.option("--points", type=click.IntRange(2, 4096), default=200, show_default=True, help="Of each curve, at most.")
@output_option
def metrics(job: str, names: tuple[str, ...], points: int, form: str) -> int:
    """Show the metrics of a job, with a small curve of each.

    All of them, unless NAMES are given.
    """
    with connect() as client:
        curves: list[Curve] = client.metrics(job, names or None, points)
    echo(curves, METRIC, form)
    missing = set(names) - {curve.name for curve in curves}
    if missing:
        click.echo(f"there is no metric {min(missing)!r} of this job", err=True)
        return exits.FAILED
    return exits.OK


def _line(message: MessageDoc) -> str:
    """One of a list without end: columns of fixed width, because the widest is never known."""
    seq, time, job, kind, text = (show(column.value(message)) for column in MESSAGE)
    return f"{seq:>8}  {time}  {job:<20}  {kind:<9}  {text}".rstrip()
