"""A training task of the K12AI door, from a notebook: as its own notebook client works (spec k12ai.md, section 5)."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from typing import Any

import msgspec

from runyard.client import Client
from runyard.client.request import Request
from runyard.model.errors import Conflict, NotFound, RunyardError
from runyard.notebook.job import Job

SUCCESS, RUNNING = 100000, 100204


class Refused(RunyardError):
    """The task server says no. `fields["code"]` is K12AI's code."""

    code = "refused"
    status = 409
    title = "The task server has refused this"


class Task:
    """One project of a framework: at most one task of it is live."""

    def __init__(
        self,
        service: str,
        uuid: str,
        *,
        user: str | None = None,
        token: str = "",
        app: str | None = None,
        client: Client | None = None,
        url: str | None = None,
    ) -> None:
        """`service` is the framework (`k12cv`), `uuid` the project; `user` is this computer's account if not given.

        A task of this project that is live is found again.
        """
        self.service, self.uuid, self.user = service, uuid, user or getpass.getuser()
        self.client = client or Client(url)
        self._more = {"token": token} | ({} if app is None else {"appId": app})
        self._job: Job | None = None
        self._phase = "train"
        self.attach()

    def attach(self) -> bool:
        """Looks for the live task of this project, or else its last one; whether one is live."""
        query = (("user", self.user), ("service_uuid", self.uuid))
        told = self.client._send(
            Request(method="GET", path="/k12ai/jobs", params=query, answer=dict[str, Any], repeatable=True)
        )
        tasks = [task for task in told.get("data") or [] if task["user"] == self.user]
        if not tasks:
            return False
        task = next((task for task in tasks if task["live"]), tasks[0])
        self._job = Job(task["job"], self.client)
        self._phase = task["op"].partition(".")[0]
        return bool(task["live"])

    @property
    def job(self) -> Job:
        """The task's job. Raises NotFound if nothing of this project was started."""
        if self._job is None:
            raise NotFound(f"nothing of the project {self.uuid!r} was started: call start()")
        return self._job

    def start(self, params: Mapping[str, Any] | None = None, phase: str = "train") -> Job:
        """Starts a task. `params` may be flat with dots (`"solver.max_epoch": 10`).

        Raises Conflict if one of this project is live (`watch` and `stop` work on it), Refused for other reasons.
        """
        return self._act(phase, "start", dict(params or {}))

    def resume(self, params: Mapping[str, Any] | None = None) -> Job:
        """Goes on with a training that was paused or stopped."""
        return self._act("train", "resume", dict(params or {}))

    def stop(self) -> None:
        """Ends what runs. Raises Refused if nothing does."""
        self._act(self._phase, "stop", None)

    def pause(self) -> None:
        """Ends what runs, to be resumed."""
        self._act("train", "pause", None)

    def watch(self, interval: float = 1.0, names: list[str] | None = None) -> str:
        """As `Job.watch`."""
        return self.job.watch(interval, names)

    def _act(self, phase: str, action: str, params: dict[str, Any] | None) -> Job:
        body: dict[str, Any] = {
            "op": f"{phase}.{action}",
            "user": self.user,
            "service_name": self.service,
            "service_uuid": self.uuid,
            **self._more,
        }
        if params is not None:
            body["service_params"] = params
        answer = self.client._send(
            Request(
                method="POST",
                path="/k12ai/framework/execute",
                answer=dict[str, Any],
                headers={"Content-Type": "application/json"},
                content=msgspec.json.encode(body),
            )
        )
        code = answer.get("code")
        if code == RUNNING:
            self.attach()
            raise Conflict(f"a task of the project {self.uuid!r} is live already: watch() or stop() it")
        if code != SUCCESS:
            why = answer.get("data") or answer.get("descr") or "no reason given"
            raise Refused(f"{phase}.{action} was refused: {code}: {why}", code=code)
        if params is not None:
            self.attach()
        return self.job
