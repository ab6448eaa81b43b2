"""Members of all kinds behind one face: the tests' own, `runyard member`, and `@member` in Python."""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote

from runyard.member import Member, Task, member
from runyard.project.files import project_folder
from tests.helpers import wait_until
from tests.system.members import LOOPBACK, FakeMember, members
from tests.system.server import clean_env

USER = "ann"
#: Goes on until the file `end` says with which exit code.
PROGRAM = 'echo ran >> "$TANGO_PROJECT_DIR/runs"; while [ ! -s "$TANGO_PROJECT_DIR/end" ]; do sleep 0.05; done; '
PROGRAM += 'exit "$(cat "$TANGO_PROJECT_DIR/end")"'
NOBODY = f"http://{LOOPBACK}:9"


def call(url: str, target: str, **headers: str) -> tuple[int, str]:
    """HTTP status and body of a GET."""
    request = urllib.request.Request(url + target, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def spell(operation: str, user: str, project: str, form: str = "path") -> str:
    """A call's path and query, in one of the three forms; the query form as the document has it, with its last `&`."""
    ids = f"user_id={quote(user)}&project_id={quote(project)}"
    return {"path": f"/{operation}?{ids}", "query": f"/?{operation}&{ids}&", "hybrid": f"/?{operation}?{ids}"}[form]


class Rig:
    """A member whose tasks end when the test says so."""

    def __init__(self, url: str, shared: Path, fake: FakeMember | None = None) -> None:
        self.url = url
        self._shared = shared
        self._fake = fake

    def say(self, operation: str, project: str = "", user: str = USER, form: str = "path") -> str:
        status, body = call(self.url, spell(operation, user if project else "", project, form))
        assert status == 200, body
        return body

    def end(self, project: str, good: bool) -> None:
        if self._fake is not None:
            self._fake.states[USER, project] = "completed" if good else "failed"
            return
        folder = project_folder(self._shared, USER, project)
        (folder / "end.new").write_text("0" if good else "3")
        (folder / "end.new").replace(folder / "end")

    def again(self, project: str) -> None:
        """The next run shall not end at once."""
        (project_folder(self._shared, USER, project) / "end").unlink(missing_ok=True)

    def until(self, project: str, *states: str) -> str:
        return wait_until(
            lambda: said if (said := self.say("status_request", project)) in states else "", 60, f"{project} {states}"
        )


def follow(task: Task) -> None:
    """As the program does, in Python."""
    with (task.folder / "runs").open("a") as file:
        file.write("ran\n")
    end = task.folder / "end"
    while not task.wait(0.02):
        if end.exists():
            if end.read_text() != "0":
                raise RuntimeError("told to fail")
            return


class Follower:
    """The same as a class, whose `stop` ends it."""

    def __init__(self) -> None:
        self._done: set[tuple[str, int]] = set()

    def start(self, task: Task) -> None:
        end = task.folder / "end"
        while (task.project_id, task.run) not in self._done:
            task.wait(0.02)
            if end.exists():
                assert end.read_text() == "0", "told to fail"
                return

    def stop(self, task: Task) -> None:
        self._done.add((task.project_id, task.run))

    def status(self, task: Task) -> str | None:
        return "running"


class Process:
    """`runyard member`, as a process."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        """`arguments` are options, `--` and the command."""
        self.log = folder / "member.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["runyard", "member", *arguments], stdout=subprocess.PIPE, stderr=log, text=True, env=clean_env()
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if " is listening on http://" not in line:
            self._process.communicate()
            raise AssertionError(f"no member: {line}{self.log.read_text()}")
        self.url = line.split(" is listening on ")[1].partition(",")[0]

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self, number: int) -> int:
        with self._process as ended:
            ended.send_signal(number)
            return ended.wait(60)


@contextmanager
def process(folder: Path, *arguments: str) -> Iterator[Process]:
    """A member as a process, that is gone at the end, with its programs."""
    started = Process(folder, *arguments)
    try:
        yield started
    finally:
        if started._process.poll() is None:
            started.end(15)


@contextmanager
def rig(kind: str, folder: Path, pm: str = NOBODY) -> Iterator[Rig]:
    """A member of that kind: fake, program, function or class."""
    if kind == "fake":
        with members(FakeMember()) as (fake,):
            yield Rig(fake.url, folder, fake)
        return
    state = folder / "state.json"
    if kind == "program":
        options = ["--name", "bms", "--port", "0", "--pm", pm, "--shared", str(folder), "--state", str(state)]
        with process(folder, *options, "--concurrency", "8", "--", "sh", "-c", PROGRAM) as started:
            yield Rig(started.url, folder)
        return
    made: Member = member("bms", port=0, pm=pm, shared=folder, state=state, concurrency=8)(
        follow if kind == "function" else Follower
    )
    with made:
        yield Rig(made.url, folder)
