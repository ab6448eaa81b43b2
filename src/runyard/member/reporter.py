"""The way to the project manager: one message after the other, tried again until the manager has taken it."""

from __future__ import annotations

import http.client
import json
import math
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from runyard.member.outbox import Message, Outbox
from runyard.project.update import MAX_UPDATE
from runyard.project.wire import STATUS_REPORT, STATUS_UPDATE, UrlStyle, address_of, target_of

#: Seconds for one try, and bytes of an answer that are looked at.
PATIENCE, MAX_ANSWER = 10.0, 4096
#: Statuses after which a new try may help.
_LATER = frozenset({408, 425, 429})


class Refused(Exception):
    """The manager understood the message, and will never take it. Says why."""


class Manager:
    """The project manager at one address."""

    def __init__(self, url: str, container: str, style: UrlStyle = UrlStyle.AUTO) -> None:
        """Raises ValueError for what is no URL."""
        self.url = url.rstrip("/")
        self._address = address_of(self.url)
        self._container = container
        self._style = style

    def send(self, message: Message) -> None:
        """Raises OSError, http.client.HTTPException or UnicodeError (a name that is none) if it is to be tried again,
        Refused if that is of no use."""
        if message.content is not None:
            body = {"container_id": self._container, "user_id": message.user, "project_id": message.project}
            text = json.dumps(body | {"update_id": message.word, "update_content": message.content})
            judge(*self._ask("POST", f"/{STATUS_UPDATE}", text.encode(), "application/json"))
            return
        parameters = {
            "container_id": self._container,
            "user_id": message.user,
            "project_id": message.project,
            "status": message.word,
        }
        style = UrlStyle.PATH if self._style is UrlStyle.AUTO else self._style
        status, answer = self._ask("GET", target_of(STATUS_REPORT, parameters, style), None, "text/plain")
        if status == 404 and self._style is UrlStyle.AUTO and not answer.lstrip().startswith(b"{"):
            # A manager of the document's letter: it has no such path.
            status, answer = self._ask("GET", target_of(STATUS_REPORT, parameters, UrlStyle.QUERY), None, "text/plain")
        judge(status, answer)

    def _ask(self, method: str, target: str, body: bytes | None, kind: str) -> tuple[int, bytes]:
        # Not urllib: what goes to the manager takes no proxy's way.
        make = http.client.HTTPSConnection if self._address.tls else http.client.HTTPConnection
        connection = make(self._address.host, self._address.port, timeout=PATIENCE)
        try:
            headers = {"Content-Type": kind, "User-Agent": "runyard-member", "Connection": "close"}
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(MAX_ANSWER)
        finally:
            connection.close()


def judge(status: int, answer: bytes) -> None:
    """What a manager's answer means: taken, or as `Manager.send` raises it."""
    text = " ".join(answer.decode("utf-8", "replace").split())[:200]
    if status >= 500 or status in _LATER:
        raise ConnectionError(f"HTTP {status} {text}")
    if status >= 300:
        raise Refused(f"HTTP {status} {text}")
    if text.startswith("{"):
        # Managers of old say so with 200.
        try:
            value: Any = json.loads(answer)
        except (ValueError, RecursionError):
            return
        if isinstance(value, dict) and value.get("status") == "error":
            raise Refused(str(value.get("message") or text))


def spelled(content: Any) -> str:
    """Content of an update as JSON that every reader takes: NaN and infinite numbers are null.

    Raises TypeError for what JSON can't say, and ValueError if it is longer than a manager reads.
    """
    text = json.dumps(_finite(content), allow_nan=False)
    if len(text) > MAX_UPDATE:
        raise ValueError(f"an update has at most {MAX_UPDATE} characters, not {len(text)}")
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


class Reporter:
    """A thread that empties an outbox. `changed` is called, from any thread, when what is kept has changed."""

    def __init__(self, manager: Manager, outbox: Outbox, changed: Callable[[], None]) -> None:
        self._manager = manager
        self._outbox = outbox
        self._changed = changed
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="member-reporter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def say(self, user: str, project: str, word: str, content: str | None = None) -> None:
        """Takes a message over."""
        with self._wake:
            if not self._outbox.put(Message(user, project, word, time.time(), content)):
                log(f"too much is waiting for {self._manager.url}: {word} of project {project} is not sent")
            self._wake.notify_all()

    def reports(self) -> list[Message]:
        """What is still to be said and must not be lost."""
        with self._wake:
            return self._outbox.reports()

    def close(self, patience: float) -> None:
        """Sends what can be sent within so many seconds, and ends."""
        with self._wake:
            self._wake.wait_for(lambda: not len(self._outbox), patience)
            self._closing = True
            self._wake.notify_all()
        self._thread.join(1.0)

    def _work(self) -> None:
        failing = False
        while (message := self._next()) is not None:
            try:
                self._manager.send(message)
            except (OSError, http.client.HTTPException, UnicodeError) as error:
                with self._wake:
                    self._outbox.failed(time.time())
                if not failing:
                    reason = str(error) or type(error).__name__
                    log(f"{self._manager.url} does not take reports, they are kept: {reason}")
                failing = True
                continue
            except Refused as error:
                log(f"{self._manager.url} refuses {message.word} of project {message.project}: {error}")
            else:
                if failing:
                    log(f"{self._manager.url} takes reports again")
                failing = False
            with self._wake:
                self._outbox.delivered()
                self._wake.notify_all()
            if message.content is None:
                self._changed()

    def _next(self) -> Message | None:
        with self._wake:
            while not self._closing:
                message, again = self._outbox.next(time.time())
                if message is not None:
                    return message
                self._wake.wait(None if math.isinf(again) else max(0.0, again - time.time()))
            return None


def log(text: str) -> None:
    """A line for whoever looks after the member."""
    print(f"member: {text}", file=sys.stderr, flush=True)
