"""Members in this process, with a project manager that comes and goes, and with clients that misbehave."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from runyard.member import Member, Stopped, Task, connection, member, server, service
from runyard.model.errors import ConfigError, Conflict, InvalidInput
from tests.helpers import free_port, wait_until
from tests.system.manager import OK, FakeManager
from tests.system.member_rig import NOBODY, call, spell
from tests.system.members import LOOPBACK, Said


@pytest.fixture(scope="module")
def manager() -> Iterator[FakeManager]:
    with FakeManager() as manager:
        yield manager


def say(made: Member, operation: str, project: str = "", user: str = "u") -> str:
    status, body = call(made.url, spell(operation, user if project else "", project))
    assert status == 200, body
    return body


def until(made: Member, project: str, state: str) -> None:
    wait_until(lambda: say(made, "status_request", project) == state, 60, f"{project} being {state}")


def test_a_task_knows_its_project_and_tells_of_its_progress(manager: FakeManager, tmp_path: Path) -> None:
    seen: list[Any] = []

    @member("codeGen", port=0, pm=manager.url, shared=tmp_path, reports="all")
    def generate(task: Task) -> None:
        (task.folder / "nn_model").mkdir()
        seen.extend((task.container, task.user_id, task.project_id, task.run, task.shared, task.folder, task.inputs))
        task.update("train_loss", {"epoch": 1, "total": float("inf")})

    with generate:
        assert call(generate.url, "/start?user_id=u&project_id=p1&dataset=coco%20128&9bad=x") == (200, "starting")
        manager.until("p1", "started", "running", "success")
    folder = tmp_path / "common" / "u" / "p1"
    assert seen == ["code_gen", "u", "p1", 1, tmp_path, folder, {"dataset": "coco 128"}]
    assert (folder / "nn_model").is_dir()
    assert ("train_loss", {"epoch": 1, "total": None}) in manager.updates
    assert {container for container, project, _ in manager.reports if project == "p1"} == {"code_gen"}


def test_a_call_that_fails_inside_is_answered(manager: FakeManager, monkeypatch: pytest.MonkeyPatch) -> None:
    def respond(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with member("bms", port=0, pm=manager.url)(lambda task: None) as made:
        monkeypatch.setattr(service.MemberService, "respond", respond)
        assert call(made.url, spell("start", "u", "p")) == (500, "RuntimeError: can't start new thread")
        monkeypatch.undo()
        assert say(made, "start", "p") == "starting"


def test_exceptions_are_failures_and_a_task_can_give_up(manager: FakeManager) -> None:
    @member("bms", port=0, pm=manager.url)
    def choose(task: Task) -> None:
        if task.project_id == "gives-up":
            raise Stopped
        if task.project_id == "exits":
            raise SystemExit(3)
        _ = task.folder

    with choose:
        for project, word in (("gives-up", "stopped"), ("fails", "failed"), ("exits", "failed")):
            assert say(choose, "start", project) == "starting"
            manager.until(project, word)
            assert say(choose, "status_request", project) == word


def test_reports_wait_for_a_manager_that_is_away_and_keep_their_order(manager: FakeManager) -> None:
    away = FakeManager(port=free_port())

    @member("bms", port=0, pm=away.url, reports="all", concurrency=2)
    def choose(task: Task) -> None:
        """Nothing to do."""

    with choose:
        for project in ("1", "2"):
            assert say(choose, "start", project) == "starting"
            until(choose, project, "completed")
        away.answers.extend([Said(b"", 503), Said(b"<html>", 502, "text/html"), OK])
        with away:
            # The first one is taken, and not written down by the test's manager.
            wait_until(lambda: len(away.reports) == 5, 60, f"five reports in {away.reports}")
    assert away.reports == [
        *[("bms", "1", word) for word in ("running", "success")],
        *[("bms", "2", word) for word in ("started", "running", "success")],
    ]


def test_a_refused_report_does_not_hold_up_the_next_one(manager: FakeManager) -> None:
    @member("bms", port=0, pm=manager.url)
    def choose(task: Task) -> None:
        """Nothing to do."""

    with choose:
        manager.answers.append(Said(b'{"status":"error","message":"no such project"}', 404, "application/json"))
        assert say(choose, "start", "unknown") == "starting"
        until(choose, "unknown", "completed")
        assert say(choose, "start", "known") == "starting"
        manager.until("known", "success")
    assert manager.words("unknown") == []


def test_a_manager_of_the_documents_letter_is_understood() -> None:
    with FakeManager(forms=("query",)) as manager:

        @member("bms", port=0, pm=manager.url)
        def choose(task: Task) -> None:
            """Nothing to do."""

        with choose:
            assert say(choose, "start", "letter") == "starting"
            manager.until("letter", "success")


def test_unsent_reports_and_lost_tasks_outlive_the_member(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    go = threading.Event()

    def build(pm: str) -> Member:
        @member("bms", port=0, pm=pm, state=state, shared=tmp_path)
        def choose(task: Task) -> None:
            if task.project_id == "long":
                task.wait(60)
                # As if it had been killed here: it says no more.
                go.wait(60)

        return choose

    with build(NOBODY) as first:
        assert say(first, "start", "short") == "starting"
        until(first, "short", "completed")
        assert say(first, "start", "long") == "starting"
        until(first, "long", "running")
        kept = state.read_bytes()
        with pytest.raises(Conflict):
            build(NOBODY).start()
        go.set()
    # What stood on disk in the middle.
    state.write_bytes(kept)
    with FakeManager() as manager, build(manager.url) as second:
        assert say(second, "status_request", "short") == "completed"
        assert say(second, "status_request", "long") == "failed"
        wait_until(lambda: len(manager.reports) == 2, 60, f"two reports in {manager.reports}")
        assert manager.reports == [("bms", "short", "success"), ("bms", "long", "failed")]
        assert say(second, "start", "short") == "starting"
        manager.until("short", "success", "success")
    state.write_text("{nonsense")
    with pytest.raises(ConfigError, match="no member's state"):
        build(NOBODY).start()


def test_a_status_of_ones_own_is_bounded_and_checked(manager: FakeManager) -> None:
    hang, asked = threading.Event(), threading.Event()

    class Choose:
        def start(self, task: Task) -> None:
            task.wait(60)

        def status(self, task: Task) -> str | None:
            if task.project_id == "hangs":
                asked.set()
                hang.wait(60)
            if task.project_id == "breaks":
                raise RuntimeError("who knows")
            return {"starts": "started", "odd": "purple"}.get(task.project_id)

    with member("bms", port=0, pm=manager.url, concurrency=4)(Choose) as choose:
        for project, word in (("starts", "started"), ("odd", "running"), ("breaks", "running"), ("hangs", "running")):
            assert say(choose, "start", project) == "starting"
            until(choose, project, word)
        assert asked.is_set()
        # It is not asked a second time while it thinks.
        assert say(choose, "status_request", "hangs") == "running"
        hang.set()
    assert manager.words("odd") == ["stopped"], "the end of the member ends its tasks"


def test_a_task_that_does_not_listen_goes_on_and_a_new_start_is_refused(manager: FakeManager) -> None:
    release = threading.Event()

    @member("bms", port=0, pm=manager.url)
    def choose(task: Task) -> None:
        release.wait(60)

    with choose:
        assert say(choose, "start", "deaf") == "starting"
        until(choose, "deaf", "running")
        assert say(choose, "stop", "deaf") == "finished"
        assert say(choose, "status_request", "deaf") == "running"
        assert say(choose, "start", "deaf") == "error" and say(choose, "start", "other") == "error"
        release.set()
        until(choose, "deaf", "stopped")


def test_what_is_no_member_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="port"):
        member("something")(print)
    with pytest.raises(InvalidInput, match="speed"):
        member("bms", speed=3)
    with pytest.raises(InvalidInput, match="start"):
        member("bms")(type("Empty", (), {}))
    with pytest.raises(InvalidInput, match="pm: "):
        member("bms", port=0, pm="projectmanager")(print).start()
    with pytest.raises(ConfigError, match="listen"):
        member("bms", port=0, host="203.0.113.1", pm=NOBODY)(print).start()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="state"):
        member("bms", port=0, pm=NOBODY, state=tmp_path / "file" / "state")(print).start()


# Clients that misbehave -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def idle(manager: FakeManager) -> Iterator[Member]:
    @member("bms", port=0, pm=manager.url, concurrency=1000)
    def choose(task: Task) -> None:
        """Nothing to do."""

    with choose:
        yield choose


def send(made: Member, data: bytes) -> bytes:
    """All that comes back for it until the member hangs up."""
    with socket.create_connection((LOOPBACK, int(made.url.rpartition(":")[2])), 30) as client:
        # It may hang up on a long request before it has seen all of it.
        with suppress(ConnectionError):
            client.sendall(data)
        got = b""
        while part := client.recv(65536):
            got += part
        return got


CLOSE = b"Connection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"GET /?status_request HTTP/1.0\r\n\r\n", b"200 OK"),
        (b"GET /?status_request HTTP/1.1\r\nHost: 127.0.0.1\r\n" + CLOSE, b"ready"),
        (b"HEAD /start?user_id=u&project_id=head HTTP/1.1\r\n" + CLOSE, b"200 OK"),
        (b"OPTIONS /stop HTTP/1.1\r\n" + CLOSE, b"200 OK"),
        (b"DELETE /start HTTP/1.1\r\n" + CLOSE, b"405"),
        (b"GET /start?user_id=..&project_id=1 HTTP/1.1\r\n" + CLOSE, b"error"),
        (b"GET /start?user_id=u&project_id=..%2F..%2Fetc HTTP/1.1\r\n" + CLOSE, b"error"),
        (b"GET /start?user_id=u&project_id=1&x=%00 HTTP/1.1\r\n" + CLOSE, b"error"),
        (b"GET /start?user_id=%ff%fe&project_id=1 HTTP/1.1\r\n" + CLOSE, b"error"),
        (b"GET /start?user_id=u&project_id=" + b"9" * 200 + b" HTTP/1.1\r\n" + CLOSE, b"error"),
        (b"GET /start?user_id=u&project_id=web HTTP/1.1\r\nOrigin: http://evil.example\r\n" + CLOSE, b"403"),
        (b"GET /start?user_id=u&project_id=web HTTP/1.1\r\nSec-Fetch-Site: cross-site\r\n" + CLOSE, b"403"),
        (b"GET /start?user_id=u&project_id=web HTTP/1.1\r\nHost: evil.example\r\n" + CLOSE, b"403"),
        (b"POST /start HTTP/1.1\r\nContent-Length: 5\r\nConnection: close\r\n\r\n{oops", b"400"),
        (b"POST /start HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 200_000, b"413"),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, b"431"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 20, b"400"),
        (b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", b"400"),
    ],
    ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) and b"HTTP" in value else "",
)
def test_bad_requests_are_answered_and_do_nothing(idle: Member, data: bytes, expected: bytes) -> None:
    got = send(idle, data)
    assert got.startswith(b"HTTP/1.1 ") and expected in got
    for project in ("head", "web", "1"):
        assert say(idle, "status_request", project) == "ready"


def test_a_start_may_be_posted_and_requests_may_come_in_a_row(idle: Member, manager: FakeManager) -> None:
    form = b"user_id=u&project_id=form"
    got = send(idle, b"POST /start HTTP/1.1\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(form), form))
    assert got.endswith(b"starting")
    text = b'{"userid": "u", "project_id": 77}'
    got = send(idle, b"POST /start HTTP/1.1\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(text), text))
    assert got.endswith(b"starting")
    manager.until("77", "success")
    manager.until("form", "success")
    one = b"GET /?status_request HTTP/1.1\r\n\r\n"
    got = send(idle, one * 50 + b"GET /?status_request HTTP/1.1\r\n" + CLOSE)
    assert got.count(b"200 OK") == got.count(b"ready") == 51


def test_a_slow_client_is_hung_up_on(idle: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(connection, "REQUEST_TIME", 0.2)
        assert b"408" in send(idle, b"GET /start?user_id=u&project_id=slow HTT")
        assert b"408" in send(idle, b"POST /start?user_id=u&project_id=slow HTTP/1.1\r\nContent-Length: 10\r\n\r\n{")
    with monkeypatch.context() as patch:
        patch.setattr(connection, "IDLE_TIME", 0.2)
        with suppress(ConnectionResetError):
            assert send(idle, b"") == b"", "one that says nothing"
    assert say(idle, "status_request", "slow") == "ready"


def test_many_idle_connections_do_not_shut_out_the_manager(idle: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 8)
    address = LOOPBACK, int(idle.url.rpartition(":")[2])
    crowd = [socket.create_connection(address, 30) for _ in range(40)]
    try:
        for _ in range(3):
            assert say(idle, "status_request") == "ready"
    finally:
        for client in crowd:
            client.close()
