"""A crontab, as `crontab -l` prints it, or a system one with a user column (/etc/crontab, /etc/cron.d)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from cronsim import CronSim, CronSimError

from runyard.importers.report import Entry, Report

_VARIABLE = re.compile(r"""\s*(?:"([^"=]+)"|'([^'=]+)'|([A-Za-z_]\w*))\s*=\s*(.*?)\s*""")
_TIME = re.compile(r"\s*(@\w+|-?\S+(?:\s+\S+){4})\s+(.*)", re.DOTALL)
_USER = re.compile(r"(\S+)\s+(.*)", re.DOTALL)
_MACROS = frozenset({"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"})
_NO_MAIL = "Runyard sends no mail: `runyard logs` has the output, and a hook can tell others how a run ended"
#: Variables that cron itself reads, and does not only hand on.
_IGNORED = {
    "MAILTO": _NO_MAIL,
    "MAILFROM": _NO_MAIL,
    "CONTENT_TYPE": _NO_MAIL,
    "CONTENT_TRANSFER_ENCODING": _NO_MAIL,
    "LOGNAME": "cron sets it to the user's own name, and so does Runyard where a job has a user",
    "RANDOM_DELAY": "Runyard starts at the minute itself",
    "CRON_WITHIN": "is not known here",
}
#: Shells in which `exec <<'WORD'` gives a script its standard input.
_POSIX = frozenset({"sh", "bash", "dash", "ksh", "zsh", "ash"})
_START = datetime(2024, 1, 1, tzinfo=UTC)


def read_crontab(text: str, *, system: bool = False, timezone: str = "UTC") -> Report:
    """The jobs for the lines in `text`; `timezone` is the IANA name of the zone in which that cron counts."""
    report = Report(format="crontab", notes=[f"times are meant in {timezone} where CRON_TZ does not say otherwise"])
    report.notes.append("a job that is still running when it is due again is not started a second time, as cron would")
    env: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if variable := _VARIABLE.fullmatch(line):
            name = variable.group(1) or variable.group(2) or variable.group(3)
            if name in _IGNORED:
                report.notes.append(f"line {number}: {name} is ignored: {_IGNORED[name]}")
            else:
                env[name] = _unquoted(variable.group(4))
            continue
        entry = report.entry(f"line {number}", f"crontab-{number}")
        try:
            report.take(entry, _job(entry, line, env, system, timezone))
        except ValueError as error:
            entry.error = str(error)
    return report


def _job(entry: Entry, line: str, env: dict[str, str], system: bool, timezone: str) -> dict[str, Any]:
    """Raises ValueError for a line that can't be mapped."""
    found = _TIME.fullmatch(line)
    if found is None:
        raise ValueError("is neither NAME=VALUE nor a time (five fields or @daily and the like) and a command")
    time, command = found.groups()
    job: dict[str, Any] = {"name": entry.name, "lifecycle": "cron"}
    if time.startswith("-"):
        time = time[1:]
        entry.ignored["- before the minute"] = "is about cron's own system log"
    schedule = {"cron": " ".join(time.split()), "overlap": "skip", "missed": "skip"}
    schedule["timezone"] = env.get("CRON_TZ", timezone)
    _check_time(time)
    job["schedule"] = schedule
    entry.mapped["time"] = f"schedule.cron {schedule['cron']!r} in {schedule['timezone']}"
    if system:
        user = _USER.fullmatch(command)
        if user is None:
            raise ValueError("has no command behind the user: with --system the sixth column is the user")
        job["user"], command = user.groups()
        entry.mapped["user"] = f"user {job['user']!r}: the server must be allowed to run jobs as others"
    shell = env.get("SHELL", "/bin/sh")
    script = _script(command.strip(), shell)
    if shell == "/bin/sh":
        job["script"] = script
        entry.mapped["command"] = "script"
    else:
        job["command"] = [shell, "-c", script]
        entry.mapped["command"] = f"command, run by {shell}"
    handed_on = {name: value for name, value in env.items() if name not in ("SHELL", "CRON_TZ")}
    if handed_on:
        job["env"] = handed_on
        entry.mapped["environment"] = f"env {', '.join(handed_on)}"
    if env.get("HOME", "").startswith("/"):
        job["cwd"] = env["HOME"]
        entry.mapped["HOME"] = "cwd"
    else:
        entry.warnings.append("cron runs it in the user's home folder, and here it runs in /: set HOME, or `cwd`")
    return job


def _check_time(time: str) -> None:
    if time.startswith("@"):
        if time.lower() == "@reboot":
            raise ValueError(
                "@reboot: no schedule here is tied to the start of the host; "
                "what shall always run is a service: `runyard submit --service -- COMMAND`"
            )
        if time.lower() not in _MACROS:
            raise ValueError(f"{time}: is none of {', '.join(sorted(_MACROS))}")
        return
    try:
        next(CronSim(time, _START))
    except CronSimError as error:
        raise ValueError(f"{time!r}: {error}") from None
    except StopIteration:
        raise ValueError(f"{time!r}: names no time in the next 50 years") from None


def _script(command: str, shell: str) -> str:
    r"""The command without cron's `%` rules: the first one begins standard input, each further one is a new line; `\%`
    is a percent sign."""
    parts = [part.replace(r"\%", "%") for part in re.split(r"(?<!\\)%", command)]
    if not parts[0].strip():
        raise ValueError("has no command")
    if len(parts) == 1:
        return parts[0]
    if shell.rpartition("/")[2] not in _POSIX:
        raise ValueError(f"gives standard input by `%`, and how {shell} takes it from a script is not known here")
    lines, word = parts[1:], "STDIN"
    while word in lines:
        word += "_"
    return "\n".join([f"exec <<'{word}'", *lines, word, parts[0]])


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
