"""`logs`."""

from __future__ import annotations

import sys
from functools import partial

import click

from runyard.cli.options import connect


@click.command()
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.option("--stdout", "only", flag_value="stdout", help="Standard output only.")
@click.option("--stderr", "only", flag_value="stderr", help="Standard error only, to standard output.")
@click.option("-n", "--lines", type=click.IntRange(0), metavar="N", help="The last N lines only.")
@click.option("--search", metavar="TEXT", help="Only the lines that contain TEXT, of what is there now.")
@click.option("--replica", type=click.IntRange(0), default=0, show_default=True, metavar="N", help="Of which copy.")
@click.option("--attempt", type=click.IntRange(1), metavar="N", help="Which run of it.  [default: the last]")
def logs(
    job: str,
    follow: bool,
    only: str | None,
    lines: int | None,
    search: str | None,
    replica: int,
    attempt: int | None,
) -> int:
    """Show the output of a job.

    Both streams are shown, each on its own: what the job wrote to standard error comes out on standard error.
    """
    if search is not None and follow:
        raise click.UsageError("--search looks at what is there now: it does not go with --follow")
    from runyard.cli.pump import Pumps, copy

    with connect() as client:
        read = partial(client.logs, job, replica=replica, attempt=attempt, tail=lines, follow=follow, search=search)
        if only is not None:
            copy(read(stream=only), sys.stdout)
        elif not follow:
            copy(read(stream="stdout"), sys.stdout)
            copy(read(stream="stderr"), sys.stderr)
        else:
            client.job(job)
            pumps = Pumps()
            pumps.start(partial(read, stream="stdout"), sys.stdout)
            pumps.start(partial(read, stream="stderr"), sys.stderr)
            return pumps.join()
    return 0
