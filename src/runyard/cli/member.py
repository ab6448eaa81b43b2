"""`member`: any program as a member of TANGO projects."""

from __future__ import annotations

from pathlib import Path

import click

from runyard.cli import exits
from runyard.cli.options import Duration

_COMMAND = {"allow_interspersed_args": False, "ignore_unknown_options": False}


@click.command(context_settings=_COMMAND)
@click.option("--name", required=True, metavar="CONTAINER", help="Its id in the protocol, an alias, or one of its own.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="PORT", help="0 takes any.  [default: the container's]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; in a container 0.0.0.0.")
@click.option("--pm", metavar="URL", help="The project manager.  [TANGO_PM_URL, else http://projectmanager:8085]")
@click.option(
    "--shared", type=click.Path(path_type=Path), metavar="DIR", help="The folder of all members.  [TANGO_SHARED]"
)
@click.option(
    "--state", type=click.Path(path_type=Path), metavar="FILE", help="Remember tasks and unsent reports in this file."
)
@click.option("--grace", type=Duration(), default=5.0, show_default="5s", help="Between SIGTERM and SIGKILL.")
@click.option("--concurrency", type=click.IntRange(1, 1000), default=1, show_default=True, help="Projects at once.")
@click.option(
    "--reports",
    type=click.Choice(["seed", "ends", "all"]),
    default="ends",
    show_default=True,
    help="Report success and failed; stopped as well; started and running as well.",
)
@click.option(
    "--url-style",
    type=click.Choice(["auto", "path", "query"]),
    default="auto",
    show_default=True,
    help="Spelling of the reports.",
)
@click.option("--quote-bodies", is_flag=True, help="Put replies in quotes, for managers that read JSON.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def member(
    name: str,
    port: int | None,
    host: str,
    pm: str | None,
    shared: Path | None,
    state: Path | None,
    grace: float,
    concurrency: int,
    reports: str,
    url_style: str,
    quote_bodies: bool,
    command: tuple[str, ...],
) -> int:
    """Serve a program as a member of TANGO projects.

    It runs COMMAND for each `start`, with TANGO_USER_ID, TANGO_PROJECT_ID, TANGO_PROJECT_DIR and the like; exit code
    0 is success.

    \b
      runyard member --name code_gen --port 8888 -- python gen.py
    """
    from runyard.member.program import Program
    from runyard.member.sdk import Member
    from runyard.member.service import Options, Reports
    from runyard.project.wire import UrlStyle

    options = Options(
        pm=pm,
        shared=shared,
        state=state,
        concurrency=concurrency,
        reports=Reports(reports),
        url_style=UrlStyle(url_style),
        quote_bodies=quote_bodies,
    )
    Member(name, Program(list(command), grace), port=port, host=host, options=options).run()
    return exits.OK
