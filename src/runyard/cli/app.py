"""The command line as a whole: which commands there are, and what an error looks like."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from keyword import iskeyword

import click

from runyard.cli import exits

#: Name of each command, the module it lives in, and its line in `--help`. The function has the same name, behind which
#: an underscore stands if Python has a use of its own for it.
COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("admin", "Start the server, in the foreground."),
    "submit": ("submit", "Submit a job, or a file of jobs."),
    "run": ("submit", "Submit a job, show its output, and exit as it does."),
    "flow": ("flow", "Check, show, run and submit dataflows."),
    "import": ("importing", "Take over jobs from Meproc, supervisord, a crontab or a Procfile."),
    "ps": ("jobs", "List jobs, newest first; live ones unless told otherwise."),
    "show": ("jobs", "Show one job in full."),
    "logs": ("logs", "Show the output of a job."),
    "why": ("jobs", "Say why a job is where it is."),
    "wait": ("jobs", "Wait until jobs have ended."),
    "stop": ("control", "Stop jobs."),
    "restart": ("control", "Start jobs again, whether they run or have ended."),
    "signal": ("control", "Send a signal to the processes of jobs."),
    "hold": ("control", "Keep pending jobs from starting."),
    "release": ("control", "Let held jobs start."),
    "events": ("events", "Show what happened, of one job or of all; with -f what happens."),
    "messages": ("messages", "Show what jobs say: metrics, errors, logs; with -f as it comes."),
    "metrics": ("messages", "Show the metrics of a job, with a small curve of each."),
    "nodes": ("cluster", "List the machines on which runs happen."),
    "top": ("cluster", "Watch nodes and jobs until Ctrl-C."),
    "schedule": ("cluster", "Try and list schedules."),
    "user": ("user", "Look after the accounts of this host's server."),
    "token": ("token", "Look after the tokens by which programs come in."),
    "project": ("project", "Make and run projects of several containers."),
    "member": ("member", "Serve a program as a member of TANGO projects."),
    "agent": ("admin", "Look after this host's agent: the process that owns the jobs' processes."),
    "config": ("admin", "Show the configuration."),
    "completion": ("admin", "Print a shell's completion script."),
    "version": ("admin", "Print the versions of client and server."),
}


class ReaderGone(Exception):
    """Nobody reads standard output any more. An exception of our own, because click would exit with 1 at EPIPE."""


class LazyGroup(click.Group):
    """A group that imports a command's module when that command is asked for, and none for `--help`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"runyard.cli.{COMMANDS[cmd_name][0]}")
        command = getattr(module, cmd_name + "_" * iskeyword(cmd_name))
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"there is no command {args[0]!r}{_nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            result: object = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise ReaderGone from error
        return result

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _nearest(word: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=False,
)
@click.option("--url", metavar="URL", help="The server's address; RUNYARD_URL, else http://127.0.0.1:7070.")
@click.option(
    "--token", metavar="TOKEN", help="A token, or NAME:PASSWORD; RUNYARD_TOKEN keeps it from others on this host."
)
@click.pass_context
def cli(ctx: click.Context, url: str | None, token: str | None) -> None:
    """One job server for everything that runs on this machine.

    Start the server with `runyard serve`, then submit jobs and watch them. A job is named by its id, the id's F58 form,
    or its name.
    """
    ctx.obj = {"url": url, "token": token}


def run(args: Sequence[str] | None = None) -> int:
    """Run a command line (default: `sys.argv`) and return its exit code. Errors go to stderr, in a line or two."""
    try:
        result = cli.main(args=None if args is None else list(args), prog_name="runyard", standalone_mode=False)
        return result if isinstance(result, int) else exits.OK
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return exits.USAGE
    except click.ClickException as error:
        _say(error.format_message())
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(f"try: {error.ctx.command_path} --help", err=True)
        return exits.USAGE
    except (click.Abort, KeyboardInterrupt):
        return exits.INTERRUPTED
    except ReaderGone:
        # As in `runyard ps | head`. Python must not try to flush the rest at exit.
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.BROKEN_PIPE
    except Exception as error:
        return _explain(error)


def _explain(error: Exception) -> int:
    """Say what went wrong, and the exit code for it."""
    import os

    from runyard.model.errors import RunyardError

    if isinstance(error, RunyardError):
        _say(error.detail)
        for part in error.fields.get("errors", ())[1:]:
            click.echo(f"  {part.get('field')}: {part.get('rule')}", err=True)
        return exits.BY_ERROR.get(error.code, exits.FAILED)
    if isinstance(error, OSError):
        _say(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return exits.FAILED
    if os.environ.get("RUNYARD_DEBUG"):
        raise error
    _say(f"unexpected {type(error).__name__}: {error}; this is a fault in runyard, RUNYARD_DEBUG=1 shows where")
    return exits.FAILED


def _say(text: str) -> None:
    # NO_COLOR and pipes are honoured by click.
    import os

    label = click.style("error:", fg="red", bold=True) if not os.environ.get("NO_COLOR") else "error:"
    click.echo(f"{label} {text}", err=True)
