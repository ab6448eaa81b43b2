"""`import`: jobs from what other job keepers have their jobs in."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from runyard.cli import exits
from runyard.cli.options import connect
from runyard.cli.output import echo_line, show

if TYPE_CHECKING:
    from runyard.importers.report import Entry, Report

F = TypeVar("F", bound=Callable[..., Any])


@click.group("import")
def import_() -> None:
    """Take over jobs from Meproc, supervisord, a crontab or a Procfile.

    A report on stderr says for each entry what became of its fields. The jobs are submitted, and their ids printed;
    with --dry-run they are printed themselves, and with --output FILE written, and nothing is submitted.

    \b
      runyard import supervisord /etc/supervisor/supervisord.conf --dry-run
      crontab -l | runyard import crontab -
    """


def _common(function: F) -> F:
    for option in (
        click.option(
            "-o", "form", type=click.Choice(("table", "json")), default="table", help="TOML and text, or JSON."
        ),
        click.option("--output", "target", metavar="FILE", help="Write the jobs to a .toml, .json or .ndjson file."),
        click.option("--dry-run", is_flag=True, help="Print the jobs, as a jobs file, and submit nothing."),
        click.argument("file"),
    ):
        function = option(function)
    return function


@import_.command()
@click.option(
    "--interval-unit",
    type=click.Choice(("seconds", "milliseconds")),
    default="seconds",
    show_default=True,
    help="Of `interval`; Meproc's releases since November 2023 count in milliseconds.",
)
@_common
def meproc(file: str, interval_unit: str, **options: Any) -> int:
    """Tasks in JSON: records, or the answer of GET /proc."""
    from runyard.importers.meproc import read_meproc

    return _finish(file, lambda text: read_meproc(text, interval_unit), **options)


@import_.command()
@_common
def supervisord(file: str, **options: Any) -> int:
    """supervisord's configuration, with the files that it includes.

    `%(ENV_NAME)s` is taken from this command's own environment.
    """
    import platform

    from runyard.importers.supervisord import Surroundings, read_supervisord

    here = _folder(file)

    def included(pattern: str) -> Iterator[tuple[str, str]]:
        import glob

        for path in sorted(glob.glob(str(here / pattern))):
            yield path, _read(path)

    around = Surroundings(str(here), platform.node(), os.environ)
    return _finish(file, lambda text: read_supervisord(text, around, included), **options)


@import_.command()
@click.option("--system", is_flag=True, help="The sixth column is a user, as in /etc/crontab and /etc/cron.d.")
@click.option("--timezone", metavar="ZONE", help="In which that cron counts.  [default: this host's]")
@_common
def crontab(file: str, system: bool, timezone: str | None, **options: Any) -> int:
    """A crontab, as `crontab -l` prints it."""
    from runyard.importers.crontab import read_crontab

    zone = timezone or _timezone()
    return _finish(file, lambda text: read_crontab(text, system=system, timezone=zone), **options)


@import_.command()
@click.option("--concurrency", metavar="NAME=N,…", default="", help="Processes of each type, such as web=2,worker=4.")
@click.option("--env", "env_file", metavar="FILE", help="Of variables.  [default: .env beside the Procfile]")
@_common
def procfile(file: str, concurrency: str, env_file: str | None, **options: Any) -> int:
    """A Procfile, with the .env file beside it."""
    from runyard.importers.procfile import read_procfile

    folder = _folder(file)
    beside = folder / ".env"
    env = _read(env_file) if env_file is not None else _read(str(beside)) if beside.is_file() else ""
    wanted = _concurrency(concurrency)
    return _finish(file, lambda text: read_procfile(text, cwd=str(folder), env=env, concurrency=wanted), **options)


def _concurrency(text: str) -> dict[str, int]:
    wanted: dict[str, int] = {}
    for part in text.split(",") if text else ():
        name, equals, count = part.partition("=")
        if not name.strip() or not equals or not (count.isascii() and count.isdigit() and len(count) < 6):
            raise click.UsageError(f"--concurrency {part!r} is not of the form NAME=N")
        wanted[name.strip()] = int(count)
    return wanted


def _timezone() -> str:
    """The IANA name of this host's zone: TZ, else where /etc/localtime leads to, else UTC."""
    named = os.environ.get("TZ", "").removeprefix(":")
    if named and not named.startswith("/"):
        return named
    _, _, name = os.path.realpath(named or "/etc/localtime").partition("/zoneinfo/")
    return name or "UTC"


def _folder(file: str) -> Path:
    return Path.cwd() if file == "-" else Path(file).expanduser().resolve().parent


def _read(file: str) -> str:
    from runyard.model.errors import InvalidInput

    try:
        if file == "-":
            return sys.stdin.read()
        return Path(file).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file}: not UTF-8 text: {error.reason} at byte {error.start}") from error


def _finish(file: str, read: Callable[[str], Report], form: str, target: str | None, dry_run: bool) -> int:
    from runyard.model.errors import InvalidInput

    try:
        report = read(_read(file))
    except InvalidInput as error:
        raise InvalidInput(error.detail if error.detail.startswith(file) else f"{file}: {error.detail}") from None
    _explain(report)
    jobs = report.jobs
    if not jobs:
        raise InvalidInput(f"{file}: nothing in it becomes a job")
    if target is not None:
        _write(target, report)
        click.echo(f"{len(jobs)} jobs are in {target}; `runyard submit -f {target}` submits them", err=True)
    if dry_run:
        echo_line(_jobs_file(report, "json" if form == "json" else "toml").rstrip("\n"))
    if dry_run or target is not None:
        return exits.OK
    return _submit(report, form)


def _submit(report: Report, form: str) -> int:
    import msgspec

    from runyard.model.job import JobDoc

    with connect() as client:
        results = client.submit_many(report.jobs)
    accepted = [result for result in results if isinstance(result, JobDoc)]
    for spec, result in zip(report.jobs, results, strict=True):
        if not isinstance(result, JobDoc):
            click.echo(f"error: job {spec.name}: {result.detail}", err=True)
    if form == "json":
        body = msgspec.json.encode({"report": report, "jobs": accepted})
        echo_line(msgspec.json.format(body, indent=2).decode())
    else:
        for job in accepted:
            echo_line(job.id)
    return exits.OK if len(accepted) == len(results) else exits.FAILED


def _jobs_file(report: Report, kind: str) -> str:
    import msgspec

    from runyard.importers.report import plain

    jobs = [plain(job) for job in report.jobs]
    if kind == "toml":
        import tomli_w

        return tomli_w.dumps({"jobs": jobs})
    if kind == "ndjson":
        return "".join(msgspec.json.encode(job).decode() + "\n" for job in jobs)
    return msgspec.json.format(msgspec.json.encode({"jobs": jobs}), indent=2).decode() + "\n"


def _write(target: str, report: Report) -> None:
    from runyard.client.jobfile import FORMATS
    from runyard.model.errors import InvalidInput

    path = Path(target).expanduser()
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise InvalidInput(
            f"--output {target}: the name must end in {', '.join(FORMATS)} (the format of -o is not meant)"
        )
    # Environments hold secrets: nobody else may read them.
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w", encoding="utf-8") as out:
        out.write(_jobs_file(report, kind))


def _explain(report: Report) -> None:
    """The report for people, on stderr."""

    def say(text: str) -> None:
        click.echo(show(text), err=True)

    for note in report.notes:
        say(f"note: {note}")
    for entry in report.entries:
        _explain_entry(entry, say)
    imported = sum(1 for entry in report.entries if entry.jobs)
    say(f"{len(report.jobs)} jobs from {imported} of {len(report.entries)} entries")


def _explain_entry(entry: Entry, say: Callable[[str], None]) -> None:
    title = f"{entry.place} {entry.name}" if entry.name and entry.name not in entry.place else entry.place
    if entry.error is not None:
        say(f"{title}: not imported: {entry.error}")
        return
    say(f"{title}: {', '.join(job.name or '-' for job in entry.jobs[:5])}{', …' if len(entry.jobs) > 5 else ''}")
    for field, meaning in entry.mapped.items():
        say(f"  {field} -> {meaning}")
    for field, reason in entry.ignored.items():
        say(f"  {field} is ignored: {reason}")
    for warning in entry.warnings:
        say(f"  warning: {warning}")
