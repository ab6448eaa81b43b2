"""One job, from a notebook."""

from __future__ import annotations

from typing import Any

from runyard.client import Client
from runyard.client.error import WaitTimeout
from runyard.client.messages import Curve, MessageDoc
from runyard.client.request import Spec
from runyard.model.job import JobDoc
from runyard.model.state import ENDED
from runyard.notebook.screen import Screen

#: Points of a curve that are drawn.
POINTS = 400
#: Part of the name of a metric that says how far it is, from 0 to 100 (spec 1.8).
_PROGRESS = "progress"


class Job:
    """A job of the server, by id or name. Raises what `runyard.Client` raises."""

    def __init__(self, ref: str | int, client: Client | None = None, *, url: str | None = None) -> None:
        """Takes up a job that there is; `url` and the token are as for `runyard.Client`."""
        self.client = client or Client(url)
        self.id = self.client.job(ref).id

    @classmethod
    def submit(
        cls, spec: Spec | None = None, client: Client | None = None, *, url: str | None = None, **fields: Any
    ) -> Job:
        """Submits a job: a specification, or its fields."""
        client = client or Client(url)
        return cls(client.submit(spec, **fields).id, client)

    @property
    def state(self) -> str:
        return str(self.client.job(self.id).state)

    def stop(self) -> JobDoc:
        """Ends it. Raises Conflict if it has ended."""
        return self.client.cancel(self.id)

    def curves(self, names: list[str] | None = None, points: int = POINTS) -> list[Curve]:
        """The numbers that it has reported."""
        return self.client.metrics(self.id, names, points)

    def messages(self, *kinds: str) -> list[MessageDoc]:
        """What it has said: all of it, or messages of these kinds."""
        return list(self.client.messages(self.id, kinds=kinds or None))

    def watch(self, interval: float = 1.0, names: list[str] | None = None) -> str:
        """Shows its curves until it has ended, and returns its last state. `interval` is in seconds.

        Interrupting ends the watching, not the job.
        """
        screen = Screen()
        try:
            while True:
                # Asked first: what an ended job has reported is all there.
                job = self.client.job(self.id)
                over = job.state in ENDED
                if over:
                    self._all_told()
                self._show(screen, job, names)
                if over:
                    return str(job.state)
                try:
                    self.client.wait(self.id, timeout=interval)
                except WaitTimeout:
                    continue
        except KeyboardInterrupt:
            return self.state

    def _all_told(self) -> None:
        """Returns when everything is stored that the ended job has said: a stream of its messages ends then."""
        for _ in self.client.messages(self.id, follow=True, kinds=["status", "error"]):
            pass

    def _show(self, screen: Screen, job: JobDoc, names: list[str] | None) -> None:
        found = self.curves(names)
        progress = next((curve.last for curve in found if _PROGRESS in curve.name), None)
        charts = [curve for curve in found if _PROGRESS not in curve.name]
        note = _failure(self.client, self.id) if job.state in ENDED else ""
        screen.show(f"{job.name or job.id}: {job.state}", charts, note, progress)


def _failure(client: Client, job: str) -> str:
    """The last error that the job has told, with the place where it was."""
    errors = [m.body for m in client.messages(job, kinds=["error"]) if m.body.get("status") != "warning"]
    if not errors:
        return ""
    # Programs may say what they like.
    detail = errors[-1].get("detail")
    detail = detail if isinstance(detail, dict) else {}
    frames = detail.get("traceback")
    lines = [f"{detail.get('exc_type', 'Error')}: {errors[-1].get('message', '')}"]
    for frame in filter(lambda frame: isinstance(frame, dict), frames if isinstance(frames, list) else []):
        lines.append(f"  {frame.get('filename')}:{frame.get('linenum')} {frame.get('funcname')}  {frame.get('source')}")
    return "\n".join(lines)
