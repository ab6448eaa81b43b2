"""The client for ordinary code. The twin of `runyard.client.asynchronous`; what both send stands in `request`."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2

from runyard.client import messages as say
from runyard.client import projects as ask
from runyard.client import request as make
from runyard.client.document import EventDoc, JobUsage, NodeDoc, ScheduleDoc, VersionDoc
from runyard.client.error import WaitTimeout, from_answer, from_problem
from runyard.client.follow import EventFollow, LogFollow
from runyard.client.messages import Curve, MessageDoc, MessagesTaken
from runyard.client.request import Request, Spec
from runyard.client.retry import TRANSIENT, Retry, options
from runyard.model.errors import Expired, NotFound, RunyardError
from runyard.model.flow import FlowGraph, FlowStatus
from runyard.model.job import Explanation, JobDoc, RunDoc
from runyard.model.project import ProjectDoc, Readiness
from runyard.model.state import ENDED

T = TypeVar("T")
Ref = str | int
_ENDINGS = tuple(f"job.{state}" for state in sorted(ENDED))


class Client:
    """Talks to one Runyard server. Safe to use from several threads; close it, or use it in a `with` statement.

    Every method raises `Unreachable` if no server answers and the RunyardError of the server's answer otherwise:
    `NotFound`, `InvalidInput`, `Conflict`, `Forbidden`, … (`runyard.model.errors`). `ref` is a job's id, its F58 form,
    or its name.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        timeout: float = 30.0,
        *,
        retry_for: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`url` and `token` default to RUNYARD_URL (else `http://127.0.0.1:7070`) and RUNYARD_TOKEN.

        `timeout`: seconds for one answer, beyond what was asked to be held back. `retry_for`: seconds during which a
        request that is safe to repeat is repeated, and a stream reconnected, after the connection broke.
        """
        self.url = (url or os.environ.get("RUNYARD_URL") or make.DEFAULT_URL).rstrip("/")
        self._http = httpx2.Client(**options(self.url, token or os.environ.get("RUNYARD_TOKEN"), timeout))
        self._timeout = timeout
        self._retry_for = retry_for
        self._sleep = sleep
        self._clock = clock
        self._reached = False

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # Jobs

    def submit(self, spec: Spec | None = None, *, idempotency_key: str | None = None, **fields: Any) -> JobDoc:
        """Submit one job: a `JobSpec`, a mapping, or the fields themselves. What is returned is on the server's disk.

        A broken connection is retried: the key (a fresh one unless given) makes sure that there is one job only.
        """
        return self._send(make.submit(fields if spec is None else spec, idempotency_key))

    def submit_many(
        self, specs: Iterable[Spec], chunk: int = 1000, on_progress: Callable[[int], None] | None = None
    ) -> list[JobDoc | RunyardError]:
        """Submit jobs in requests of at most `chunk`; returns one job or one error for each, in order.

        `on_progress` gets the number answered so far after each request.
        """
        results: list[JobDoc | RunyardError] = []
        for lines in make.bulks(specs, chunk):
            for item in self._send(make.submit_bulk(lines)).items:
                results.append(item.job or from_problem({"status": item.status} | (item.problem or {})))
            if on_progress is not None:
                on_progress(len(results))
        return results

    def jobs(
        self,
        *,
        state: Iterable[str] | str | None = None,
        kind: str | None = None,
        origin: str | None = None,
        owner: str | None = None,
        label: Mapping[str, str] | None = None,
        q: str | None = None,
        since: datetime | float | str | None = None,
        name: str | None = None,
        limit: int | None = None,
    ) -> Iterator[JobDoc]:
        """Jobs, newest first, across pages; `limit` bounds the total. `q` is a part of the name or the command."""
        cursor = None
        while limit is None or limit > 0:
            page = self._send(
                make.jobs(
                    state=state,
                    kind=kind,
                    origin=origin,
                    owner=owner,
                    label=label,
                    q=q,
                    since=since,
                    name=name,
                    limit=limit,
                    cursor=cursor,
                )
            )
            yield from page.items
            cursor = page.next
            if cursor is None:
                return
            limit = None if limit is None else limit - len(page.items)

    def job(self, ref: Ref) -> JobDoc:
        """One job as it is now."""
        return self._send(make.job(ref))

    def cancel(self, ref: Ref) -> JobDoc:
        """Ask a job to end. It may still be `stopping` when this returns: `wait` for it."""
        return self._send(make.cancel(ref))

    def restart(self, ref: Ref) -> JobDoc:
        """Start a job again, ended or not."""
        return self._send(make.restart(ref))

    def signal(self, ref: Ref, name: str) -> JobDoc:
        """Send a signal such as `"SIGUSR1"` to a job's processes."""
        return self._send(make.signal(ref, name))

    def amend(
        self, ref: Ref, *, priority: int | None = None, hold: bool | None = None, version: int | None = None
    ) -> JobDoc:
        """Change priority or hold. With `version` (`JobDoc.version`) only if the job has not changed since, else
        PreconditionFailed."""
        return self._send(make.amend(ref, priority=priority, hold=hold, version=version))

    def delete(self, ref: Ref) -> None:
        """Forget an ended job and its output. Raises Conflict while it is live."""
        self._send(make.delete(ref))

    def wait(self, ref: Ref, timeout: float | None = None) -> JobDoc:
        """Wait until a job has ended. Raises WaitTimeout after `timeout` seconds."""
        deadline = None if timeout is None else self._clock() + timeout
        while True:
            hold = make.POLL if deadline is None else max(0.0, min(make.POLL, deadline - self._clock()))
            job = self._send(make.wait(ref, hold))
            if job.state in ENDED:
                return job
            if deadline is not None and self._clock() >= deadline:
                raise WaitTimeout(f"job {job.id} is still {job.state} after {timeout:g} s")
            ref = job.id

    def wait_many(self, refs: Iterable[Ref], timeout: float | None = None) -> Iterator[JobDoc]:
        """Wait for several jobs; yields each once it has ended, in that order. Raises WaitTimeout."""
        deadline = None if timeout is None else self._clock() + timeout
        # The cursor comes before the look at each job, so that no ending falls between the two.
        cursor = self._send(make.events(after="latest", limit=1)).next
        pending: dict[str, None] = {}
        for ref in refs:
            job = self.job(ref)
            if job.state in ENDED:
                yield job
            else:
                pending[job.id] = None
        while pending:
            hold = make.POLL if deadline is None else max(0.0, min(make.POLL, deadline - self._clock()))
            try:
                page = self._send(make.events(after=cursor, types=_ENDINGS, limit=make.PAGE, wait=hold))
                ended = [event.job for event in page.items if event.job in pending]
                cursor = page.next
            except Expired:
                cursor = self._send(make.events(after="latest", limit=1)).next
                ended = [ref for ref in pending if self.job(ref).state in ENDED]
            for ref in ended:
                if ref in pending:
                    del pending[ref]
                    yield self.job(ref)
            if pending and deadline is not None and self._clock() >= deadline:
                raise WaitTimeout(
                    f"{len(pending)} jobs have not ended after {timeout:g} s, the first is {min(pending)}"
                )

    def why(self, ref: Ref) -> Explanation:
        """Why a job is where it is."""
        return self._send(make.why(ref))

    def runs(self, ref: Ref, limit: int | None = None) -> Iterator[RunDoc]:
        """All kept runs of a job, newest first, across pages."""
        cursor = None
        while limit is None or limit > 0:
            page = self._send(make.runs(ref, limit=limit, cursor=cursor))
            yield from page.items
            cursor = page.next
            if cursor is None:
                return
            limit = None if limit is None else limit - len(page.items)

    # Streams

    def logs(
        self,
        ref: Ref,
        *,
        stream: str = "stdout",
        replica: int = 0,
        attempt: int | None = None,
        offset: int | None = None,
        tail: int | None = None,
        follow: bool = False,
        search: str | None = None,
    ) -> Iterator[bytes]:
        """The output of one replica as it was written, in pieces; of the last attempt unless `attempt` says otherwise.

        `offset` (bytes) or `tail` (lines) say where to begin. With `follow`, waits for the run to start and goes on
        until the job has ended (or that `attempt`, if given); after a broken connection goes on where it was. With
        `search`, only the lines that contain that text, of what is there now.
        """
        follower = LogFollow(
            str(ref),
            stream=stream,
            replica=replica,
            attempt=attempt,
            offset=offset,
            tail=tail,
            follow=follow,
            search=search,
        )
        job = self.job(ref)
        retry = self._retry()
        while (step := follower.step(job)) is not None:
            if step.answer is not bytes:
                self._send(step)
                job = self.job(follower.ref)
                continue
            try:
                with self._open(step) as response:
                    follower.opened(response.headers)
                    for chunk in response.iter_raw():
                        retry.succeeded()
                        follower.received(len(chunk))
                        yield chunk
                follower.ended()
            except TRANSIENT as error:
                self._sleep(retry.pause(step, error))
            except NotFound:
                if not follower.gone():
                    raise
            job = self.job(follower.ref)

    def events(
        self,
        *,
        follow: bool = False,
        after: int | str | None = None,
        job: Ref | None = None,
        types: Iterable[str] | str | None = None,
        state: Iterable[str] | str | None = None,
        limit: int | None = None,
    ) -> Iterator[EventDoc]:
        """Events with a `seq` greater than `after` (default: all kept; with `follow`: from now on, `"latest"`).

        With `follow` this never ends; after a broken connection it goes on by cursor, without gap or repetition.
        `limit` bounds the total. Raises Expired when events after `after` have been removed by retention.
        """
        source = (
            self._follow_events(after, job, types, state) if follow else self._past_events(after, job, types, state)
        )
        yield from itertools.islice(source, limit)

    def _past_events(
        self, after: int | str | None, job: Ref | None, types: Iterable[str] | str | None, state: Any
    ) -> Iterator[EventDoc]:
        while True:
            page = self._send(make.events(after=after, job=job, types=types, state=state, limit=make.PAGE))
            yield from page.items
            if not page.items:
                return
            after = page.next

    def _follow_events(
        self, after: int | str | None, job: Ref | None, types: Iterable[str] | str | None, state: Any
    ) -> Iterator[EventDoc]:
        follower = EventFollow("latest" if after is None else after, job, types, state)
        if (position := follower.position()) is not None:
            follower.start(self._send(position).next)
        retry = self._retry()
        while True:
            step = follower.step()
            try:
                with self._open(step) as response:
                    for chunk in response.iter_raw():
                        retry.succeeded()
                        yield from follower.received(chunk)
                raise httpx2.RemoteProtocolError("the stream ended")
            except TRANSIENT as error:
                self._sleep(retry.pause(step, error))

    # Messages and metrics

    def messages(
        self,
        job: Ref | None = None,
        *,
        follow: bool = False,
        after: int | str | None = None,
        kinds: Iterable[str] | str | None = None,
        limit: int | None = None,
    ) -> Iterator[MessageDoc]:
        """What a job has said, or all jobs, behind the cursor `after` (default: all that is kept).

        With `follow` it goes on until the job has ended; of all jobs, it never ends. After a broken connection it goes
        on by cursor, without gap or repetition. `limit` bounds the total. Raises Expired.
        """
        source = self._follow_messages(job, after, kinds) if follow else self._past_messages(job, after, kinds)
        yield from itertools.islice(source, limit)

    def _past_messages(
        self, job: Ref | None, after: int | str | None, kinds: Iterable[str] | str | None
    ) -> Iterator[MessageDoc]:
        while True:
            page = self._send(say.page(job, after, kinds, make.PAGE))
            yield from page.items
            if not page.items:
                return
            after = page.next

    def _follow_messages(
        self, job: Ref | None, after: int | str | None, kinds: Iterable[str] | str | None
    ) -> Iterator[MessageDoc]:
        follower = say.MessageFollow(job, after, kinds)
        if (position := follower.position()) is not None:
            follower.start(self._send(position).next)
        retry = self._retry()
        while True:
            # A server that stops in good order ends its streams too: only an end after the job's is one.
            final = job is not None and self.job(job).state in ENDED
            step = follower.step()
            try:
                with self._open(step) as response:
                    for chunk in response.iter_raw():
                        retry.succeeded()
                        yield from follower.received(chunk)
                if final:
                    return
                if job is None:
                    raise httpx2.RemoteProtocolError("the stream ended")
            except TRANSIENT as error:
                self._sleep(retry.pause(step, error))

    def say(self, ref: Ref, messages: Sequence[Mapping[str, Any]]) -> MessagesTaken:
        """Says something for a job: messages such as `{"type": "metrics", "body": {"loss": 0.4, "step": 3}}`, at most
        1000. They are on the server's disk when this returns."""
        return self._send(say.say(ref, messages))

    def metrics(self, ref: Ref, names: Iterable[str] | None = None, points: int = 500) -> list[Curve]:
        """The numbers that a job has reported, as curves; each with at most `points` points."""
        return self._send(say.metrics(ref, names, points)).items

    # Flows

    def submit_flow(self, spec: Spec | None = None, *, idempotency_key: str | None = None, **fields: Any) -> JobDoc:
        """As `submit`, for a job with a `flow`: the graph is checked first. Raises InvalidInput with every fault."""
        return self._send(make.submit_flow(fields if spec is None else spec, idempotency_key))

    def check_flow(self, spec: Spec | None = None, **fields: Any) -> FlowGraph:
        """The graph of such a job, and what is wrong with it. Nothing is submitted."""
        return self._send(make.check_flow(fields if spec is None else spec))

    def flow_graph(self, ref: Ref) -> FlowGraph:
        """The graph of a flow."""
        return self._send(make.flow_graph(ref))

    def flow_status(self, ref: Ref) -> FlowStatus:
        """Where a flow stands, and its latest statistics."""
        return self._send(make.flow_status(ref))

    # Projects

    def create_project(self, definition: Mapping[str, Any], *, start: bool = False) -> ProjectDoc:
        """Makes a project, and starts it if wanted. For the definition see the page about the TANGO door."""
        return self._send(ask.create(definition, start))

    def projects(self, user_id: str | None = None) -> Iterator[ProjectDoc]:
        """All projects, or those of a user, newest first."""
        cursor = None
        while True:
            page = self._send(ask.listing(user_id, cursor))
            yield from page.items
            cursor = page.next
            if cursor is None:
                return

    def project(self, ref: Ref) -> ProjectDoc:
        """One project; of a name, the caller's newest."""
        return self._send(ask.show(ref))

    def project_members(self, ref: Ref) -> list[Readiness]:
        """What the members of a project say to the question whether they are ready."""
        return self._send(ask.members(ref)).items

    def start_project(self, ref: Ref, *, fresh: bool = False) -> ProjectDoc:
        """Starts a project, or goes on with it; with `fresh` from its first step on."""
        return self._send(ask.act(ref, "start", fresh=fresh))

    def stop_project(self, ref: Ref) -> ProjectDoc:
        """Stops a project and its members."""
        return self._send(ask.act(ref, "stop"))

    def advance_project(self, ref: Ref, container: str | None = None) -> ProjectDoc:
        """Starts the next step, or that of a container; confirms a step that waits for a person."""
        return self._send(ask.act(ref, "advance", container=container))

    def report_project(self, ref: Ref, container: str, status: str) -> ProjectDoc:
        """Reports in a member's place: `success` or `failed`."""
        return self._send(ask.act(ref, "report", container=container, status=status))

    def delete_project(self, ref: Ref) -> None:
        """Removes a project at which nobody works, with its job and its folder."""
        self._send(ask.delete(ref))

    # Everything else

    def usage(self, ref: Ref, since: float | None = None) -> JobUsage:
        """What a job's processes use now, and how that went: all that is kept, or after `since` (Unix seconds)."""
        return self._send(make.usage(ref, since))

    def nodes(self) -> list[NodeDoc]:
        """The machines on which runs happen."""
        return self._send(make.nodes()).items

    def schedules(self) -> Iterator[ScheduleDoc]:
        """The schedules of live cron jobs."""
        cursor = None
        while True:
            page = self._send(make.schedules(cursor))
            yield from page.items
            cursor = page.next
            if cursor is None:
                return

    def preview(self, cron: str, timezone: str = "UTC", count: int = 5) -> list[datetime]:
        """When a cron expression would fire next."""
        return self._send(make.preview(cron, timezone, count)).fire_times

    def version(self) -> VersionDoc:
        """Of the server."""
        return self._send(make.version())

    # The transport

    def _retry(self) -> Retry:
        return Retry(self.url, self._retry_for, self._clock, self._reached)

    def _send(self, request: Request[T]) -> T:
        retry = self._retry()
        while True:
            try:
                response = self._http.request(
                    request.method,
                    request.path,
                    params=request.params,
                    headers=request.headers,
                    content=request.content,
                    timeout=httpx2.Timeout(self._timeout, read=self._timeout + request.patience),
                )
                self._reached = True
                kind = response.headers.get("Content-Type", "")
                return make.read(request, self.url, response.status_code, kind, response.content)
            except TRANSIENT as error:
                self._sleep(retry.pause(request, error))

    @contextmanager
    def _open(self, request: Request[Any]) -> Iterator[httpx2.Response]:
        """A stream whose status is good."""
        with self._http.stream(
            request.method,
            request.path,
            params=request.params,
            headers=request.headers,
            # A quiet stream is not a dead one, so there is no read time-out.
            timeout=httpx2.Timeout(self._timeout, read=None),
        ) as response:
            self._reached = True
            if not response.is_success:
                kind = response.headers.get("Content-Type", "")
                raise from_answer(self.url, response.status_code, kind, response.read())
            yield response
