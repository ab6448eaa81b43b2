"""The end of the service by request: what becomes of the jobs, who is told, and then the server itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal

from runyard.api.context import Context
from runyard.model.errors import RunyardError
from runyard.settings import Flux

log = logging.getLogger(__name__)

#: Seconds that the command of `[doors.flux] stop_command` gets.
COMMAND_TIME = 30.0
#: Seconds beyond the longest grace of a job until the server ends in any case.
MARGIN = 5.0


class Stopper:
    """One for each server. For the event loop's thread."""

    def __init__(self, context: Context, settings: Flux) -> None:
        self._context = context
        self._settings = settings
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """From now on nothing new is taken in; the rest follows. Once is enough."""
        if self._task is None:
            self._context.service.stopping = True
            self._task = asyncio.create_task(self._stop(), name="service stop")

    async def _stop(self) -> None:
        try:
            if self._settings.on_stop == "cancel":
                await self._cancel_jobs()
            if self._settings.stop_command:
                await self._run(self._settings.stop_command)
        finally:
            self._context.stop()

    async def _cancel_jobs(self) -> None:
        """Cancels every live job, and waits for their ends, for as long as their graces last."""
        service = self._context.service
        live = list(service.engine.reactor.jobs.values())
        for result in await asyncio.gather(*map(service.cancel, live), return_exceptions=True):
            if isinstance(result, Exception) and not isinstance(result, RunyardError):
                log.error("a job could not be cancelled at the stop of the service", exc_info=result)
        grace = max((record.spec.stop.grace for record in live), default=0.0) + MARGIN
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await asyncio.gather(*(service.engine.ended(record.id, grace) for record in live))

    async def _run(self, argv: list[str]) -> None:
        """Failures go to the log: nobody is left to be told."""
        try:
            process = await asyncio.create_subprocess_exec(
                *argv, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            log.warning("[doors.flux] stop_command %r can't be started: %s", argv, error)
            return
        try:
            code = await asyncio.wait_for(process.wait(), COMMAND_TIME)
            if code != 0:
                log.warning("[doors.flux] stop_command %r ended with %d", argv, code)
        except TimeoutError:
            log.warning("[doors.flux] stop_command %r took more than %g s, and is ended", argv, COMMAND_TIME)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
