"""The session-wide rule: no process that the tests started is left behind.

A run may escape into a session of its own and outlive the server and the agent, so asking for children is not enough.
Pytest therefore goes on in a child of a small keeper process, which is a subreaper: every orphan below it comes to the
keeper, as it would come to init on a host, and is reaped at once. What still hangs below the keeper at the end was left
behind: it is named, together with the test during which it started, killed, and fails the session.

The tests have a home folder of their own, which the keeper removes: nobody's settings change what they see, and what
libraries and browsers keep at home is gone afterwards.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest
from hypothesis import HealthCheck, settings

# A shared machine may be slow at any moment: that alone is no failure.
settings.register_profile("runyard", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("runyard")

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
GRACE = 60.0
"""Seconds that processes get to end after the last test."""

_starts: list[tuple[float, str]] = []
_left: list[str] = []
_keeper = 0


def _is_worker(config: pytest.Config) -> bool:
    """A process of pytest-xdist: everything below it is below the keeper of the one that started it."""
    return hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    global _keeper
    # What a script starts in its background ignores ctrl-C, and so would all programs that the tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if _is_worker(config):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise pytest.UsageError(f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(ctypes.get_errno())}; Linux is needed")
    _keeper = os.getpid()
    home = tempfile.mkdtemp(prefix="runyard-home-")
    os.environ["HOME"] = home
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        os.environ.pop(name, None)
    child = os.fork()
    if child:
        _keep(child, home)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _keep(pytest_pid: int, home: str) -> NoReturn:
    """Reap everything until pytest ends, remove its home folder, then end as it did."""

    def forward(number: int, _frame: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(pytest_pid, number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to pytest as well
    signal.signal(signal.SIGTERM, forward)
    while True:
        pid, status = os.wait()
        if pid == pytest_pid:
            _kill_leftovers()  # there are some only where pytest itself was killed
            shutil.rmtree(home, ignore_errors=True)
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


class Process(NamedTuple):
    pid: int
    parent: int
    zombie: bool
    started: float
    """Seconds since boot."""


def _processes() -> dict[int, Process]:
    found = {}
    ticks = os.sysconf("SC_CLK_TCK")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                stat = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                found[int(entry.name)] = Process(int(entry.name), int(stat[1]), stat[0] in b"ZX", int(stat[19]) / ticks)
    return found


def _leftovers() -> list[Process]:
    """Everything below the keeper, apart from this process."""
    processes = _processes()

    def below(process: Process) -> bool:
        parent = process.parent
        while parent not in (0, 1):
            if parent == _keeper:
                return True
            parent = processes[parent].parent if parent in processes else 0
        return False

    return [p for p in processes.values() if p.pid != os.getpid() and not p.zombie and below(p)]


def _kill_leftovers() -> None:
    while left := _leftovers():
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.01)


def _describe(process: Process) -> str:
    command = environ = b""
    with suppress(OSError):
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        environ = Path(f"/proc/{process.pid}/environ").read_bytes()
    run = next((value for value in environ.split(b"\0") if value.startswith(b"RUNYARD_RUN=")), b"")
    test = "before the first test"
    for at, name in _starts:
        # The kernel counts in hundredths of a second: a process can seem to have started just before its test.
        if at <= process.started + 0.01:
            test = name
    shown = command.replace(b"\0", b" ").decode(errors="replace").strip()
    return f"pid {process.pid} {shown[:200]} {run.decode(errors='replace')}\n    started during (or just before) {test}"


def pytest_runtest_logstart(nodeid: str) -> None:
    _starts.append((time.clock_gettime(time.CLOCK_BOOTTIME), nodeid))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _is_worker(session.config):
        return
    end = time.monotonic() + GRACE
    while (left := _leftovers()) and time.monotonic() < end:
        time.sleep(0.05)
    if not left:
        return
    _left.extend(map(_describe, left))
    _kill_leftovers()
    if session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _left:
        terminalreporter.section("processes left behind", sep="=", red=True, bold=True)
        for line in _left:
            terminalreporter.write_line(line)
        terminalreporter.write_line("Each was killed, and the session counts as failed.", red=True)
