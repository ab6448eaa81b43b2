"""`flow submit` and `flow watch`: flows as jobs of the server."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import click

from runyard.cli import exits
from runyard.cli.columns import JOB
from runyard.cli.options import Duration, Pair, connect
from runyard.cli.output import echo, echo_line, output_option, show

if TYPE_CHECKING:
    from runyard.client import Client
    from runyard.flowfiles import FlowFile, Known

#: Seconds between two looks at a flow that is waited for.
_LOOK = 0.1


@click.command()
@click.option("--name", help="Name of the job.  [default: the file's, without its suffix]")
@click.option("--arg", "arguments", multiple=True, type=Pair(), help="An argument of the flow; may be repeated.")
@click.option("--unit-dir", "unit_dirs", multiple=True, metavar="DIR", help="Search units here as well.")
@click.option("-l", "--label", multiple=True, type=Pair(), help="A label to find the job by.")
@click.option("--check", is_flag=True, help="Only let the server check it.")
@click.option("--wait", is_flag=True, help="Return when all units are open; exit with 1 if it fails.")
@click.option("--timeout", type=Duration(), help="With --wait, give up after so long; the flow goes on.")
@output_option
@click.argument("file")
def submit(
    file: str,
    name: str | None,
    arguments: tuple[tuple[str, str], ...],
    unit_dirs: tuple[str, ...],
    label: tuple[tuple[str, str], ...],
    check: bool,
    wait: bool,
    timeout: float | None,
    form: str,
) -> int:
    """Submit a graph document, and print the id of the job.

    The server checks it first, and refuses one that can't run, with every fault.
    """
    from runyard.flowfiles import read

    found = read(file)
    if found.error:
        raise click.ClickException(f"{file}: {found.error}")
    spec = _spec(found, name or os.path.splitext(found.name)[0])
    spec["flow"] |= {"arguments": dict(arguments), "unit_dirs": [os.path.abspath(folder) for folder in unit_dirs]}
    spec["labels"] = dict(label)
    with connect() as client:
        if check:
            return _check(client, spec, file)
        job = client.submit_flow(spec)
        if form == "table":
            echo_line(job.id)
        else:
            echo([job], JOB, form)
        return _wait(client, job.id, timeout) if wait else exits.OK


def _spec(file: FlowFile, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "flow": {"graph": file.text, "format": str(file.format)},
        "cwd": os.path.dirname(file.path),
    }


def _check(client: Client, spec: dict[str, Any], file: str) -> int:
    graph = client.check_flow(spec)
    for label, problems in (("error", graph.problems), ("warning", graph.warnings)):
        for problem in problems:
            place = f":{problem.line}:{problem.column}" if problem.line else ""
            click.echo(f"{file}{place}: {label}: {show(problem.message)}", err=True)
            if problem.excerpt:
                click.echo(problem.excerpt, err=True)
    return exits.FAILED if graph.problems else exits.OK


def _wait(client: Client, job: str, timeout: float | None) -> int:
    import time

    from runyard.client import WaitTimeout

    end = None if timeout is None else time.monotonic() + timeout
    while True:
        status = client.flow_status(job)
        if status.state in ("failed", "cancelled", "timed_out"):
            click.echo(f"error: {show(status.error or status.state)}", err=True)
            return exits.FAILED
        if status.flow_state == "running" or status.state == "succeeded":
            return exits.OK
        if end is not None and time.monotonic() > end:
            raise WaitTimeout(f"the flow of job {job} is not running yet; it goes on")
        time.sleep(_LOOK)


@click.command()
@click.option("--interval", type=Duration(), default=1.0, show_default="1s", help="Between two looks at the folder.")
@click.option("--once", is_flag=True, help="Look once.")
@click.argument("folder", metavar="DIR")
def watch(folder: str, interval: float, once: bool) -> int:
    """Keep the flows of a folder running, until Ctrl-C.

    Each file is a job of its name. A new one is submitted, a changed one replaced, and the job of one that is gone is
    stopped. The flows go on when this command ends; the next one finds them again.
    """
    from runyard.client import Unreachable
    from runyard.model.errors import InvalidInput, Unavailable

    if not os.path.isdir(folder):
        raise InvalidInput(f"{folder}: there is no such folder")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with connect() as client:
        place = os.path.realpath(folder)
        watcher: Watcher | None = Watcher(client, place)
        while True:
            try:
                watcher = watcher or Watcher(client, place)
                watcher.look()
            except (Unavailable, Unreachable) as error:
                if once:
                    raise
                click.echo(f"{show(error.detail)}; trying again", err=True)
                # What it has asked for may have been done.
                watcher = None
            if once or stop.wait(max(interval, 0.05)):
                return exits.OK


class Watcher:
    """Makes the server's jobs agree with the files of a folder."""

    def __init__(self, client: Client, folder: str) -> None:
        from runyard.flowfiles import Known
        from runyard.model.flow import DIGEST_LABEL, FILE_LABEL, FLOW_KIND
        from runyard.model.state import LIVE

        self._client = client
        self._folder = folder
        self._signature: object = None
        #: By path: the file as it was submitted, and its job; "" if it was refused.
        self._known: dict[str, Known] = {}
        self._jobs: dict[str, str] = {}
        for job in client.jobs(kind=FLOW_KIND, state=LIVE):
            path = job.labels.get(FILE_LABEL, "")
            if os.path.dirname(path) == folder and path not in self._known:
                self._known[path] = Known(path, job.labels.get(DIGEST_LABEL, ""), True)
                self._jobs[path] = job.id

    def look(self) -> None:
        """One look, and what follows from it. Says on stderr what happens."""
        from runyard.flowfiles import plan, scan, signature

        present = signature(self._folder)
        if present == self._signature:
            return
        files, problems = scan(self._folder)
        for path, problem in problems:
            click.echo(f"{show(path)}: {show(problem)}", err=True)
        todo = plan(files, self._known.values(), revive=False, unread=[path for path, _ in problems])
        for path in todo.end:
            self._end(path)
        for file in todo.start:
            self._start(file)
        self._signature = present

    def _end(self, path: str) -> None:
        from runyard.model.errors import Conflict, NotFound

        del self._known[path]
        job = self._jobs.pop(path, None)
        if job is None:
            return
        try:
            self._client.cancel(job)
            # Its successor may want the same address.
            self._client.wait(job)
        except (Conflict, NotFound):
            return
        click.echo(f"{show(path)}: job {job} is stopped", err=True)

    def _start(self, file: FlowFile) -> None:
        from runyard.flowfiles import Known
        from runyard.model.errors import InvalidInput
        from runyard.model.flow import DIGEST_LABEL, FILE_LABEL

        # One that is refused is not tried again before it changes.
        self._known[file.path] = Known(file.path, file.digest, False)
        if file.error:
            click.echo(f"{show(file.path)}: {file.error}", err=True)
            return
        spec = _spec(file, file.name) | {"labels": {FILE_LABEL: file.path, DIGEST_LABEL: file.digest}}
        try:
            job = self._client.submit_flow(spec)
        except InvalidInput as error:
            click.echo(f"{show(file.path)}: {show(error.detail)}", err=True)
            return
        self._jobs[file.path] = job.id
        echo_line(f"{show(file.path)}: job {job.id}")
