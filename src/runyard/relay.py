"""`python -m runyard.relay AGENT SERVICE OP CONFIG`: a task behind another K12AI gateway, as a job of this one.

It starts the task there, repeats what is said about it as reports of its own, and stops it when it is stopped itself.
The other side may be a Runyard or any gateway with `execute` and `popmsg`. Standard library only.

Environment: `K12AI_USER`, `K12AI_UUID`, `K12AI_TOKEN`, `K12AI_JOB_ID` say what for (spec/k12ai.md, 3.5);
`RUNYARD_RELAY_TOKEN` is a token of the other side, `RUNYARD_RELAY_KEY` the key of its door.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

#: Seconds for one question; for which a pop waits there; between pops of a gateway that can't wait.
TIMEOUT, WAIT, PAUSE = 60.0, 20.0, 1.0
#: Seconds without any answer after which the other side counts as gone.
PATIENCE = 120.0
TYPES = ("error", "metrics", "info", "runlog", "predict", "status")
SUCCESS, RUNNING, FINISHED, WARNING, NOT_RUNNING = 100000, 100002, 100003, 100009, 100205
_WORDS = {100004: "stopped", 100005: "paused", 100006: "robbed"}
_GONE = 100201
#: What a question may raise: no answer, or none that can be read.
_NO_ANSWER = (OSError, ValueError, http.client.HTTPException)


class Relay:
    """One task behind one gateway."""

    def __init__(self, agent: str, service: str, op: str, params: dict[str, Any]) -> None:
        self._agent, self._service, self._op, self._params = agent.rstrip("/"), service, op, params
        self._app = f"relay.{os.environ.get('K12AI_JOB_ID', os.getpid())}"
        self._begun = self._stop = self._stopped = False

    def run(self) -> int:
        """Exit code: 0 if the task has finished or was stopped."""
        signal.signal(signal.SIGTERM, self._on_stop)
        try:
            answer = self._ask(self._op, self._params)
        except _NO_ANSWER as error:
            return _failed(_GONE, f"{self._agent} can't be reached: {error}")
        if answer.get("code") != SUCCESS:
            text = answer.get("data") or answer.get("descr") or "the request was refused"
            return _failed(_code(answer) or _GONE, str(text))
        self._begun = True
        heard = time.monotonic()
        while time.monotonic() - heard < PATIENCE:
            if self._stop and not self._stopped:
                self._stopped = self._end()
            asked = time.monotonic()
            try:
                messages = self._pop()
            except _NO_ANSWER as error:
                print(f"relay: {self._agent}: {error}", file=sys.stderr)
                time.sleep(PAUSE)
                continue
            heard = time.monotonic()
            for message in messages:
                code = self._repeat(message)
                if code is not None:
                    return code
            if not messages and heard - asked < PAUSE:
                time.sleep(PAUSE)
        return _failed(_GONE, f"{self._agent} has not answered for {PATIENCE:g} s")

    def _on_stop(self, number: int, frame: Any) -> None:
        self._stop = True
        # Before it has begun there, there is nothing to stop yet.
        if self._begun and not self._stopped:
            self._stopped = self._end()

    def _end(self) -> bool:
        try:
            answer = self._ask(f"{self._op.partition('.')[0]}.stop", None)
        except _NO_ANSWER:
            return False
        return _code(answer) in (SUCCESS, NOT_RUNNING)

    def _repeat(self, message: dict[str, Any]) -> int | None:
        """Says the same as a report; the exit code, if it was the end."""
        kind = str(message.get("type"))
        body = message.get(kind, message.get("data"))
        if kind == "metrics":
            # The later form has everything, the first one numbers only.
            _say(kind, message.get("data") or body)
            return None
        if kind != "error" or not isinstance(body, dict):
            _say(kind, body)
            return None
        code = _code(body)
        data = message.get("data")
        expand = data.get("expand") if isinstance(data, dict) else None
        expand = expand if isinstance(expand, dict) else {}
        facts = {key: expand[key] for key in ("memstat", "uptime", "environ", "resource") if key in expand}
        if code == RUNNING:
            _say("status", {"status": "running", **facts})
        elif code == WARNING:
            _say("error", {**body, "status": "warning"})
        elif code == FINISHED:
            _say("status", {"status": "finished", **facts})
            return 0
        elif code in _WORDS:
            _say("status", {"status": _WORDS[code], **facts})
            return 0
        elif code > 100100:
            detail = body.get("detail") or expand.get("errinfo") or {}
            _say("error", {"status": "crash", "code": code, "message": body.get("message", ""), "detail": detail})
            return 1
        return None

    # The wire ---------------------------------------------------------------------------------------------------------

    def _ask(self, op: str, params: dict[str, Any] | None) -> dict[str, Any]:
        body = {
            "op": op,
            "user": os.environ.get("K12AI_USER", ""),
            "service_name": self._service,
            "service_uuid": os.environ.get("K12AI_UUID", ""),
            "service_params": params or {},
            "appId": self._app,
            "token": os.environ.get("K12AI_TOKEN", ""),
        }
        found = self._open("/k12ai/framework/execute", json.dumps(body).encode())
        return found if isinstance(found, dict) else {}

    def _pop(self) -> list[dict[str, Any]]:
        keys = ",".join(f"{self._app}.{kind}" for kind in TYPES)
        query = urllib.parse.urlencode({"key": keys, "wait": f"{WAIT:g}"})
        found = self._open(f"/k12ai/private/popmsg?{query}", None)
        if not isinstance(found, list):
            raise ValueError(f"popmsg has answered {str(found)[:200]}")
        return [item for item in found if isinstance(item, dict)]

    def _open(self, path: str, body: bytes | None) -> Any:
        headers = {"Content-Type": "application/json"}
        if token := os.environ.get("RUNYARD_RELAY_TOKEN"):
            headers["Authorization"] = f"Bearer {token}"
        if key := os.environ.get("RUNYARD_RELAY_KEY"):
            headers["X-K12AI-Key"] = key
        request = urllib.request.Request(self._agent + path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return json.load(error)


def _code(body: dict[str, Any]) -> int:
    code = body.get("code")
    return code if isinstance(code, int) else 0


def _say(kind: str, body: Any) -> None:
    print("@k12ai " + json.dumps({"type": kind, "body": body}), flush=True)


def _failed(code: int, text: str) -> int:
    _say("error", {"status": "error", "code": code, "message": text, "detail": {"exc_type": "Relay", "exc_text": text}})
    return 1


def main(words: list[str]) -> int:
    agent, service, op, config = words
    with open(config, encoding="utf-8") as file:
        params = json.load(file)
    return Relay(agent, service, op, params).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
