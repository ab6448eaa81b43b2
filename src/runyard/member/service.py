"""A member at work: calls of the project manager come in, tasks run in threads, reports go out."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import msgspec

from runyard.member.journal import Journal, Memory
from runyard.member.ledger import Entry, Ledger, Stop
from runyard.member.outbox import Outbox
from runyard.member.program import ProgramFailed
from runyard.member.reporter import Manager, Reporter, log, spelled
from runyard.member.task import Stopped, Task
from runyard.model.errors import InvalidInput
from runyard.project.container import canonical
from runyard.project.definition import MAX_INPUTS, MAX_TEXT, check_identity
from runyard.project.files import project_folder
from runyard.project.wire import ERROR, FINISHED, START, STARTING, STOP, MemberState, UrlStyle, bare

PM_URL = "http://projectmanager:8085"
#: Seconds that a member's own `status` may take, and that a `stop` is answered after at the latest.
STATUS_PATIENCE, STOP_PATIENCE = 2.0, 2.0
_INPUT = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class Reports(StrEnum):
    """Which changes of its tasks a member reports."""

    SEED = "seed"
    """The document's two: success and failed."""
    ENDS = "ends"
    """Stopped as well, for which newer managers wait."""
    ALL = "all"
    """Started and running as well."""


_STATES = frozenset(str(state) for state in MemberState)
_WORDS = {MemberState.COMPLETED: "success", MemberState.FAILED: "failed"}
_REPORTED = {
    Reports.SEED: frozenset(_WORDS),
    Reports.ENDS: frozenset({*_WORDS, MemberState.STOPPED}),
    Reports.ALL: frozenset({*MemberState} - {MemberState.READY}),
}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a member behaves. What is None comes from the environment."""

    pm: str | None = None
    """Of the project manager; None means TANGO_PM_URL, else `http://projectmanager:8085`."""
    shared: Path | None = None
    """The folder that all members share; None means TANGO_SHARED, else none."""
    state: Path | None = None
    """A file for its tasks and for reports that were not taken yet; None means that they die with it."""
    concurrency: int = 1
    """Projects at work at once."""
    reports: Reports = Reports.ENDS
    url_style: UrlStyle = UrlStyle.AUTO
    quote_bodies: bool = False
    """Replies in quotes, for managers that read them as JSON."""


class Work(Protocol):
    """What a member does. Each method is called in a thread of its own."""

    def start(self, task: Task) -> None:
        """Does the task. Returning is success, Stopped has stopped, any other exception has failed."""

    def stop(self, task: Task) -> None:
        """Ends it soon; `task.stopping` says so already."""

    def status(self, task: Task) -> str | None:
        """How it stands, in the document's words; None leaves that to the member."""


class MemberService:
    """Safe to call from any thread. `adopt` of the work, where it has one, is called by `open`."""

    def __init__(self, name: str, work: Work, options: Options) -> None:
        """Raises InvalidInput for options that make no sense."""
        self.name = canonical(name) or name
        check_identity("name", self.name)
        if not 1 <= options.concurrency <= 1000:
            raise InvalidInput(f"concurrency: must be between 1 and 1000, not {options.concurrency}")
        shared = options.shared or os.environ.get("TANGO_SHARED") or None
        self._shared = Path(shared).absolute() if shared is not None else None
        self._work = work
        self._options = options
        self._lock = threading.Lock()
        self._ledger = Ledger(options.concurrency)
        self._tasks: dict[tuple[str, str], tuple[Task, Future[None]]] = {}
        #: Whose work is looking how it stands: one that hangs is not asked again.
        self._asked: set[Task] = set()
        self._closing = False
        self._journal: Journal | None = None
        self._outbox = Outbox()
        try:
            self.manager = Manager(options.pm or os.environ.get("TANGO_PM_URL") or PM_URL, self.name, options.url_style)
        except ValueError as error:
            raise InvalidInput(f"pm: {error}") from None
        self._reporter = Reporter(self.manager, self._outbox, self._save)

    def open(self, port: int) -> None:
        """Begins, once the port is this member's alone: ends what an earlier life on it has left.

        Raises Conflict or ConfigError about the state's file.
        """
        if self._options.state is not None:
            self._journal = Journal(self._options.state)
            memory = self._journal.read()
            for message in memory.reports:
                self._outbox.put(message)
        adopt = getattr(self._work, "adopt", None)
        if adopt is not None and (left := adopt(f"{self.name}@{port}/{_network()}")):
            log(f"{left} processes of an earlier life of this member were ended")
        if self._journal is not None:
            for entry in self._ledger.restore(memory.entries):
                self._report(entry)
            self._save()
        self._reporter.start()

    # The three calls ----------------------------------------------------------------------------------------------

    def respond(self, operation: str, given: Mapping[str, str]) -> tuple[str, Future[None] | None]:
        """What to say; and for a `stop`, a future that is done when the task has ended."""
        user, project = bare(given.get("user_id", "")), bare(given.get("project_id", ""))
        if operation == START:
            return self._start(user, project, given), None
        if operation == STOP:
            return self._stop(user, project)
        return self._status(user, project), None

    def state(self, given: Mapping[str, str]) -> str:
        """How a project stands, without a look at the work."""
        with self._lock:
            return self._ledger.state(bare(given.get("user_id", "")), bare(given.get("project_id", "")))

    def spell(self, word: str) -> bytes:
        """A reply's body."""
        return (f'"{word}"' if self._options.quote_bodies else word).encode()

    def _start(self, user: str, project: str, given: Mapping[str, str]) -> str:
        try:
            check_identity("user_id", user)
            check_identity("project_id", project)
            inputs = _inputs(given)
            folder = None
            if self._shared is not None:
                folder = project_folder(self._shared, user, project)
                folder.mkdir(parents=True, exist_ok=True)
        except InvalidInput as error:
            log(f"start refused: {error.detail}")
            return ERROR
        except OSError as error:
            log(f"start of project {project} refused: {error.filename}: {error.strerror}")
            return ERROR
        with self._lock:
            entry = None if self._closing else self._ledger.start(user, project)
            if entry is None:
                return ERROR

            def update(kind: str, content: object) -> None:
                self._reporter.say(user, project, kind, spelled(content))

            task = Task(self.name, user, project, entry.run, self._shared, folder, inputs, self.manager.url, update)
            ended: Future[None] = Future()
            self._tasks[user, project] = task, ended
        # Before it is answered: what the manager was told is remembered.
        self._save()
        self._report(entry)
        name = f"member-{user}-{project}"
        threading.Thread(target=self._run, args=(entry, task, ended), name=name, daemon=True).start()
        return STARTING

    def _stop(self, user: str, project: str) -> tuple[str, Future[None] | None]:
        with self._lock:
            what, _ = self._ledger.stop(user, project)
            task, ended = self._tasks.get((user, project), (None, None))
        if what is Stop.UNKNOWN:
            return ERROR, None
        if what is Stop.TELL and task is not None:
            task.tell()
            threading.Thread(target=self._tell, args=(task,), name="member-stop", daemon=True).start()
        return FINISHED, ended

    def _status(self, user: str, project: str) -> str:
        with self._lock:
            state = self._ledger.state(user, project)
            task, _ = self._tasks.get((user, project), (None, None))
            if task is None or task in self._asked:
                return state
            self._asked.add(task)
        try:
            said = self._work.status(task)
        except Exception as error:
            log(f"status of project {project}: {_text(error)}")
            return state
        finally:
            with self._lock:
                self._asked.discard(task)
        return said if said in _STATES else state

    # Tasks --------------------------------------------------------------------------------------------------------

    def _run(self, entry: Entry, task: Task, ended: Future[None]) -> None:
        state, reason = MemberState.COMPLETED, ""
        with self._lock:
            go = self._ledger.running(entry)
        if go:
            self._report(entry)
            try:
                self._work.start(task)
            except Stopped:
                state = MemberState.STOPPED
            except ProgramFailed as error:
                state, reason = MemberState.FAILED, str(error)
            except BaseException as error:
                state, reason = MemberState.FAILED, _text(error)
        with self._lock:
            self._ledger.ended(entry, state, reason)
            del self._tasks[entry.user, entry.project]
            # At once: whoever sees the end, or writes it down, has the report of it as well.
            self._report(entry)
        if state is MemberState.FAILED and reason:
            log(f"project {entry.project} has failed: {reason}")
        self._save()
        ended.set_result(None)

    def _tell(self, task: Task) -> None:
        try:
            self._work.stop(task)
        except Exception as error:
            log(f"stop of project {task.project_id}: {_text(error)}")

    def _report(self, entry: Entry) -> None:
        if entry.state in _REPORTED[self._options.reports]:
            self._reporter.say(entry.user, entry.project, _WORDS.get(entry.state, str(entry.state)))

    def _save(self) -> None:
        with self._lock:
            if self._journal is None:
                return
            memory = Memory(self._ledger.entries(), self._reporter.reports())
            try:
                self._journal.write(memory)
            except OSError as error:
                log(f"{self._options.state}: the state can't be written: {error.strerror}")

    def close(self, patience: float) -> None:
        """Stops its tasks, says so to the manager as far as `patience` seconds allow, and ends."""
        with self._lock:
            self._closing = True
            live = [(entry.user, entry.project) for entry in self._ledger.live()]
            waiting = [ended for _, ended in self._tasks.values()]
        for user, project in live:
            self._stop(user, project)
        for ended in waiting:
            try:
                ended.result(patience)
            except TimeoutError:
                log("a task does not end; it is left behind")
        # What is on disk can wait for the next life.
        self._reporter.close(patience if self._journal is None else min(patience, STOP_PATIENCE))
        self._save()
        with self._lock:
            # A task that was left behind must not write into the next life's state.
            if self._journal is not None:
                self._journal.close()
            self._journal = None


def _inputs(given: Mapping[str, str]) -> dict[str, str]:
    inputs = {
        key: value for key, value in given.items() if key not in ("user_id", "project_id") and _INPUT.fullmatch(key)
    }
    if len(inputs) > MAX_INPUTS:
        raise InvalidInput(f"at most {MAX_INPUTS} parameters behind the ids")
    for key, value in inputs.items():
        if len(value) > MAX_TEXT or "\0" in value:
            raise InvalidInput(f"{key}: at most {MAX_TEXT} characters, without NUL")
    return inputs


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _network() -> str:
    """The network in which a port is this member's alone: another one may have a member of the same name and port."""
    try:
        return os.readlink("/proc/self/ns/net").strip("net:[]")
    except OSError:
        return "host"
