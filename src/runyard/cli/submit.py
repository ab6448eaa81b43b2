"""`submit` and `run`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runyard.cli import exits
from runyard.cli.columns import JOB
from runyard.cli.options import connect
from runyard.cli.output import Progress, echo, echo_line, output_option
from runyard.cli.spec import COMMON, LASTING, build, spec_options

if TYPE_CHECKING:
    from runyard.client import Client
    from runyard.model.job import JobDoc

#: Options after the first word of the command belong to the command.
_COMMAND = {"allow_interspersed_args": False, "ignore_unknown_options": False}
#: Jobs in one request.
_CHUNK = 1000


@click.command(context_settings=_COMMAND)
@click.option(
    "-f", "--file", metavar="FILE", help="Jobs from a .toml, .json or .ndjson file; - reads NDJSON from stdin."
)
@spec_options(COMMON, LASTING)
@output_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def submit(file: str | None, form: str, command: tuple[str, ...], **options: Any) -> int:
    """Submit a job, or a file of jobs.

    Prints the id of each job once the server has it on disk.

    \b
      runyard submit --name train --cores 2 -- python train.py --epochs 5
      runyard submit --service --restart always -- ./api --port 8000
      runyard submit -f jobs.ndjson
    """
    if file is not None:
        given = [name for name, value in options.items() if value not in (None, False, ())]
        if command or given:
            what = "a command" if command else f"--{given[0].replace('_', '-')}"
            raise click.UsageError(f"--file and {what} exclude each other: the file says everything about its jobs")
        return _submit_file(file, form)
    if not command:
        raise click.UsageError("nothing to run; write `runyard submit -- COMMAND ARGS…` or `runyard submit -f FILE`")
    with connect() as client:
        _print([client.submit(build(command, options))], form)
    return exits.OK


def _print(jobs: list[JobDoc], form: str) -> None:
    if form == "table":
        for job in jobs:
            echo_line(job.id)
    else:
        echo(jobs, JOB, form)


def _submit_file(file: str, form: str) -> int:
    from runyard.client.jobfile import parse_jobs, read_jobs
    from runyard.model.job import JobDoc

    specs = parse_jobs(sys.stdin.read(), "ndjson", "stdin", Path.cwd()) if file == "-" else read_jobs(file)
    failed = done = 0
    accepted: list[JobDoc] = []
    with connect() as client, Progress("submitting", len(specs)) as progress:
        for start in range(0, len(specs), _CHUNK):
            for result in client.submit_many(specs[start : start + _CHUNK], _CHUNK):
                done += 1
                if isinstance(result, JobDoc):
                    accepted.append(result)
                else:
                    failed += 1
                    click.echo(f"error: job {done} of {len(specs)}: {result.detail}", err=True)
            progress.update(done)
            if form != "json":
                # Said at once: if a later request fails, these ids are known all the same.
                _print(accepted, form)
                accepted = []
    if form == "json":
        _print(accepted, form)
    if failed:
        click.echo(f"error: {failed} of {len(specs)} jobs were refused; the others are submitted", err=True)
    return exits.FAILED if failed else exits.OK


@click.command(context_settings=_COMMAND)
@spec_options(COMMON)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def run(command: tuple[str, ...], **options: Any) -> int:
    """Submit a job, show its output, and exit as it does.

    The exit code is the job's own; 128 and the signal's number if a signal ended it; 124 if its time limit did. Ctrl-C
    stops the job, a second one leaves it to the server.

    \b
      runyard run -- make test
      runyard run --gpus 1 --time-limit 2h -- python train.py
    """
    import threading

    from runyard.cli.pump import Pumps

    with connect() as client:
        # Before there is a job: from then on a signal must not part us from it.
        interrupted = _catch_sigterm() if threading.current_thread() is threading.main_thread() else [False]
        job = client.submit(build(command, options))
        pumps = Pumps()
        stopped = 0
        try:
            pumps.start(lambda: client.logs(job.id, stream="stdout", follow=True), sys.stdout)
            pumps.start(lambda: client.logs(job.id, stream="stderr", follow=True), sys.stderr)
            if pumps.join() == exits.BROKEN_PIPE:
                # What a pipeline expects of `yes | head`: no reader, no writer.
                stopped = exits.BROKEN_PIPE
                _cancel(client, job.id)
        except KeyboardInterrupt:
            stopped = exits.TERMINATED if interrupted[0] else exits.INTERRUPTED
            _cancel(client, job.id)
            pumps.join()
        job = client.wait(job.id)
    return stopped or exit_code(job)


def _cancel(client: Client, ref: str) -> None:
    from runyard.model.errors import Conflict

    try:
        client.cancel(ref)
    except Conflict:
        # It has ended in the meantime.
        return


def _catch_sigterm() -> list[bool]:
    """Makes SIGTERM stop the job as Ctrl-C does; the list says whether it came."""
    import signal

    came = [False]

    def handle(number: int, frame: object) -> None:
        came[0] = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, handle)
    return came


def exit_code(job: JobDoc) -> int:
    """The exit code that stands for an ended job."""
    from runyard.model.signals import signal_number

    if job.state == "timed_out":
        return exits.TIMED_OUT
    if job.exit_code is not None:
        # Succeeded is 0 whatever else; a job that failed never looks like success.
        return job.exit_code if job.state == "succeeded" or job.exit_code else exits.FAILED
    if job.signal is not None and (number := signal_number(job.signal)) is not None:
        return 128 + number
    if job.state == "succeeded":
        return exits.OK
    click.echo(f"error: job {job.id} {job.state}: {job.reason or 'no reason is known'}", err=True)
    return exits.FAILED
