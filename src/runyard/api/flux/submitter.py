"""Takes submissions in: from the API and from the form, for clients of every generation."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from runyard.api.access import caller_of, permitted
from runyard.api.context import AnyRequest, Context
from runyard.api.flux.answer import Refused, not_submitted
from runyard.api.flux.jobs import Jobs
from runyard.api.flux.submission import Server, Submission, job_of, read_flags, read_submission
from runyard.core.record import JobRecord
from runyard.model.errors import InvalidInput, RunyardError
from runyard.model.ids import RunKey, f58
from runyard.model.job import JobDoc, JobSpec
from runyard.model.state import State
from runyard.service.launch import JOB_TMPDIR
from runyard.service.service import Answer, Replay
from runyard.settings import Flux
from runyard.store.batch import Batch

#: `origin` of this door's jobs.
ORIGIN = "flux"
LAUNCHER = "launcher"
SUBMITTED, LAUNCHED = "Job submit.", "Job submit, see jobs table for spawned jobs."
#: Seconds within which a launcher is seen to start; then it is believed.
_START = 2.0
MAX_KEY = 255


class Submitter:
    """One for each server. For the event loop's thread."""

    def __init__(self, context: Context, settings: Flux) -> None:
        self._context = context
        self._settings = settings
        self._jobs = Jobs(context)
        self._flags = read_flags(settings.option_flags)
        context.service.engine.environments[ORIGIN] = self._environment

    def server(self) -> Server:
        """What a form says of the server."""
        return self._jobs.server()

    def read(self, request: AnyRequest, values: Mapping[str, Any], body: bytes) -> Submission:
        """Raises Refused: what the request asks for can't be read, or breaks rules."""
        restricted = caller_of(request).os_user is not None
        return read_submission(values, body, self._jobs.server(), self._flags, restricted)

    async def submit(self, request: AnyRequest, values: Mapping[str, Any], body: bytes) -> Answer:
        """The answer to an API's request. With an `Idempotency-Key`, a repeated one gets the first one's.

        Raises Refused, RunyardError.
        """
        caller = caller_of(request)
        caller.must_submit()
        asked = self.read(request, values, body)
        if asked.is_launcher:
            self._check_launcher(asked)
        key = request.headers.get("idempotency-key")
        if key is not None and len(key) > MAX_KEY:
            raise not_submitted(f"the Idempotency-Key is longer than {MAX_KEY} characters")
        content = msgspec.json.encode([sorted(values.items()), body])
        replay = None if key is None else Replay(key, caller.name, hashlib.sha256(b"flux\0" + content).digest())
        spec = await self.job(request, asked)

        async def act(keep: Callable[[Batch, Answer], None]) -> Answer:
            def render(outcomes: list[JobDoc | RunyardError]) -> Answer:
                job = int(_doc(outcomes).id)
                said: dict[str, Any] = {"Message": SUBMITTED, "id": job, "f58": f58(job)}
                if asked.is_launcher:
                    said = {"Message": LAUNCHED, "id": "MANY", "launcher_id": job}
                return Answer(200, msgspec.json.encode(said))

            kind = LAUNCHER if asked.is_launcher else None
            return await self._context.service.submit(
                [spec], render, origin=ORIGIN, owner=caller.name, kind=kind, keep=keep
            )

        answer = await self._context.service.once(replay, act)
        if asked.is_launcher:
            await self._must_start(msgspec.json.decode(answer.body)["launcher_id"])
        return answer

    async def job(self, request: AnyRequest, asked: Submission) -> JobSpec:
        """The job that the caller may submit. Raises Refused, Forbidden."""
        missing = False
        if asked.workdir is not None and not self._settings.strict:
            missing = not await asyncio.to_thread(os.path.isdir, asked.workdir)
        (spec,) = await permitted(request, [job_of(asked, missing_folder=missing)])
        if isinstance(spec, RunyardError):
            raise _refused(spec)
        return spec

    async def take(self, request: AnyRequest, asked: Submission) -> int:
        """Submits for a page; the job's id. Raises Refused, RunyardError."""
        kind = LAUNCHER if asked.is_launcher else None
        if asked.is_launcher:
            self._check_launcher(asked)
        spec = await self.job(request, asked)
        doc = await self._context.service.submit([spec], _doc, origin=ORIGIN, owner=caller_of(request).name, kind=kind)
        return int(doc.id)

    # Launchers ----------------------------------------------------------------------------------------------------

    async def _must_start(self, number: int) -> None:
        """A launcher is a job like any other, and 200 says that it runs. Raises Refused."""
        record = await self._started(number)
        if record is not None and record.state is State.FAILED and record.started_at is None:
            reason = record.replicas[0].reason or record.reason or "it could not be started"
            raise Refused(400, {"Message": reason, "id": "MANY", "launcher_id": number})

    def _check_launcher(self, asked: Submission) -> None:
        word = os.path.basename(asked.argv[0])
        if word not in self._settings.launchers:
            raise Refused(400, {"Message": f"{word[:200]} is not a known launcher. ", "id": "MANY"})

    async def _started(self, job: int) -> JobRecord | None:
        """The job once it has started or ended, or after a while."""
        engine = self._context.service.engine
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _START
        while (record := engine.record(job)) is not None and record.started_at is None and record.ended_at is None:
            left = deadline - loop.time()
            if left <= 0 or not await engine.feed.changed(left):
                return record
        return record or engine.find(job)

    def _environment(self, record: JobRecord, run: RunKey) -> dict[str, str]:
        """Flux's variables, which the agent completes for each of several tasks. A launcher is told where its jobs go,
        and gets what opens that door to it."""
        if record.kind != LAUNCHER:
            return {
                "FLUX_JOB_ID": f58(record.id),
                "FLUX_JOB_SIZE": str(record.spec.resources.tasks),
                "FLUX_JOB_NNODES": str(len(record.replicas[run.replica].shares) or 1),
                "FLUX_TASK_RANK": "0",
                "FLUX_TASK_LOCAL_ID": "0",
                JOB_TMPDIR: "",
            }
        given = {"FLUX_RESTFUL_HOST": self._context.url, "RUNYARD_URL": self._context.url}
        token = self._context.auth.ticket(record.owner) if self._context.auth is not None else None
        return given if token is None else given | {"RUNYARD_TOKEN": token}


def _doc(outcomes: list[JobDoc | RunyardError]) -> JobDoc:
    (outcome,) = outcomes
    if isinstance(outcome, RunyardError):
        raise _refused(outcome)
    return outcome


def _refused(error: RunyardError) -> Exception:
    return not_submitted(error.detail) if isinstance(error, InvalidInput) else error
