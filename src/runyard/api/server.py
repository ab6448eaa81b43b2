"""The server process: configuration in, a listening server out."""

from __future__ import annotations

import asyncio
import gc
import getpass
import hashlib
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from sqlalchemy.exc import SQLAlchemyError

from runyard.api.accounts import check_auth, follow_changes, set_up
from runyard.api.app import create_app
from runyard.api.context import Context
from runyard.api.flux.banner import banner, is_set_up
from runyard.api.gather import GatheringProtocol
from runyard.api.log import set_up_log
from runyard.api.socket import MAX_FRAME, new_socket
from runyard.auth.origin import OriginRules, own_names
from runyard.core.claim import Policy
from runyard.executors.local import LocalExecutor
from runyard.executors.worker import WorkerExecutor
from runyard.model.errors import ConfigError, RunyardError
from runyard.model.job import JobDoc, JobSpec
from runyard.service.engine import Engine
from runyard.service.hooks import start_hooks
from runyard.service.message_keeper import KeepPolicy
from runyard.service.messages import Messages
from runyard.service.output import trim_outputs
from runyard.service.projects import Projects
from runyard.service.service import PROJECT, Answer, Bounds, Replay, Service
from runyard.service.targets import local_runs
from runyard.settings import Config
from runyard.store import retention
from runyard.store.batch import Batch
from runyard.store.output import OutputFiles
from runyard.store.store import Store
from runyard.telemetry.sampler import Telemetry

log = logging.getLogger(__name__)

EXIT_OK, EXIT_FAILED = 0, 1


#: Addresses that mean all, and what this host calls itself then.
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
#: Where the clients of each door expect it.
SEED_PORTS = {"meproc": 8606, "flux": 5000, "modelbox": 1104, "tango": 8085, "k12ai": 8119}


def run(config: Config, jobs: list[JobSpec] | None = None, seed_ports: bool = False) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code. `jobs` are submitted once, ever. With `seed_ports`, each
    door listens on its protocol's own port as well.

    Raises ConfigError, Conflict or StorageFull if the server can't start.
    """
    check_auth(config)
    set_up_log(config.log)
    ports = {"runyard": config.server.port}
    for door, usual in SEED_PORTS.items():
        chosen = getattr(config.doors, door).port
        port = chosen if chosen is not None else usual if seed_ports else None
        if port is not None:
            ports[door] = port
    listeners: dict[str, socket.socket] = {}
    hosts = {"modelbox": config.doors.modelbox.host}
    try:
        for door, port in ports.items():
            listeners[door] = _listen(hosts.get(door) or config.server.host, port)
        with uvloop_runner() as runner:
            return runner.run(_serve(config, listeners, jobs or []))
    finally:
        for listener in listeners.values():
            listener.close()


def uvloop_runner() -> asyncio.Runner:
    import uvloop

    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        raise ConfigError(
            f"can't listen on {host} port {port}: {error.strerror or error}. "
            "If another server has the port, choose one with --port"
        ) from None
    listener.listen(2048)
    listener.setblocking(False)
    return listener


class _Server(uvicorn.Server):
    """uvicorn, with streams ended before it waits for connections to close."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own one raises the signal again when it is done: the store would never be closed."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.begin_close()
        await super().shutdown(sockets)


async def _serve(config: Config, listeners: dict[str, socket.socket], jobs: list[JobSpec]) -> int:
    folder = Path(config.data_dir)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    store = Store.open(config.store.url or folder)
    output = OutputFiles(folder / "output")
    node = _node_name(store)
    files = _more_files()
    executor = LocalExecutor(
        folder / "agent",
        name=node,
        gpus=config.scheduler.gpus,
        idle_exit=config.agent.idle_exit,
        pass_env=config.agent.pass_env,
        files=files,
    )
    worker = WorkerExecutor(folder / "python", name=f"{node}-python", pass_env=config.agent.pass_env, files=files)
    scheduler = config.scheduler
    policy = Policy(scheduler.max_running, scheduler.backfill_depth, scheduler.assumed_time, scheduler.default_cores)
    projects = Projects(config.doors.tango, output, folder, node)
    engine = Engine(store, {"local": executor, "python": worker, PROJECT: projects.coordination}, output, policy)
    limits = config.limits
    unit_dirs = tuple(map(os.path.abspath, config.flows.unit_dirs))
    service = Service(engine, Bounds(limits.max_replicas, limits.max_jobs, limits.max_batch, unit_dirs))
    projects.attach(service)
    try:
        auth = await set_up(config, store, engine)
    except BaseException:
        store.close()
        raise
    context = Context(
        service,
        Telemetry(folder, config.telemetry, lambda: local_runs(engine)),
        getpass.getuser(),
        config.server.max_streams,
        config.limits.max_batch,
        auth,
        config.auth.min_uid,
        Messages(engine, _keep_policy(config)),
    )
    context.projects = projects
    rules = OriginRules(
        own_names(config.server.host, [*config.server.allowed_hosts, config.doors.modelbox.host or config.server.host]),
        frozenset(config.server.allowed_origins),
    )
    app: Any = create_app(context, rules, config.server.max_body, config.doors, config.services, folder)
    server = _Server(
        uvicorn.Config(
            app,
            http=GatheringProtocol,
            ws=new_socket,  # type: ignore[arg-type]
            ws_max_size=MAX_FRAME,
            ws_per_message_deflate=False,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=5,
            timeout_keep_alive=75,
            proxy_headers=False,
            backlog=2048,
        ),
        engine,
    )
    failure: list[Exception] = []

    def fail(error: Exception) -> None:
        failure.append(error)
        server.should_exit = True

    engine.on_failure = fail

    def stop() -> None:
        server.should_exit = True

    context.stop = stop
    try:
        await engine.start()
        context.messages.start()
        await context.collector.start()
        background = await start_hooks(config.hooks, engine)
        background += [asyncio.create_task(_sweep(config, engine)), asyncio.create_task(trim_outputs(engine))]
        background.append(asyncio.create_task(context.telemetry.in_background()))
        background.append(asyncio.create_task(context.collector.run()))
        if auth.enabled:
            background.append(asyncio.create_task(follow_changes(context)))
            background.append(asyncio.create_task(context.streams.watch()))
        for task in background:
            task.add_done_callback(_tell_of_defect)
        await _submit_once(service, context.owner, jobs)
        for act in context.at_start:
            await act()
        # What is there now stays: the collector need not look at it again, nor look often at short-lived records.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        # The writer's thread needs Python's lock for moments only, and whoever submits waits for it.
        sys.setswitchinterval(0.001)
        for door, listener in listeners.items():
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            if door == "runyard":
                # For programs of this host, which no wildcard can be called by.
                context.url = f"http://{_WILDCARDS.get(host, shown)}:{port}"
            what = f"Runyard is listening on http://{shown}:{port} (data in {folder})"
            print(what if door == "runyard" else f"  {door}: http://{shown}:{port}", flush=True)
        if "flux" in listeners or is_set_up(os.environ):
            text = banner(os.environ, require_auth=config.auth.enabled, multi_user=config.auth.run_as)
            # A terminal that knows no strawberries gets question marks.
            encoding = sys.stdout.encoding or "utf-8"
            print(text.encode(encoding, "replace").decode(encoding), flush=True)
        try:
            await server.serve(sockets=list(listeners.values()))
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            for act in context.at_end:
                await act()
            await context.telemetry.close()
    finally:
        await context.messages.close()
        await engine.close()
        store.close()
    return EXIT_FAILED if failure else EXIT_OK


def _keep_policy(config: Config) -> KeepPolicy:
    kept = config.messages
    return KeepPolicy(
        max_rate=kept.max_rate,
        max_age=kept.max_age,
        max_per_job=kept.max_per_job,
        max_size_per_job=kept.max_size_per_job,
        interval=config.retention.interval,
    )


def _more_files() -> int:
    """Lets this process open as many files as it may: most begin with 1,024, and a connection is one. What the limit
    was, which programs in jobs may rely on."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return before


def _node_name(store: Store) -> str:
    """The name of this host's node: its first one, for runs are known by it, and a host's name may change."""
    name = store.meta("node")
    if name is None:
        name = socket.gethostname()
        batch = Batch()
        batch.set_meta("node", name)
        store.commit(batch)
    return name


async def _sweep(config: Config, engine: Engine) -> None:
    """Applies the retention policy, again and again."""
    kept = config.retention
    policy = retention.Policy(
        finished_jobs_max_age=kept.finished_jobs_max_age,
        finished_jobs_max=kept.finished_jobs_max,
        events_max_age=kept.events_max_age,
        runs_per_job_max=kept.runs_per_job_max,
    )
    sweeper = retention.Retention(engine.store, engine.writer, engine.output, policy, engine.record)
    while True:
        await asyncio.sleep(kept.interval)
        try:
            async with engine.archive:
                await sweeper.apply(engine.clock())
        except (RunyardError, OSError, SQLAlchemyError) as error:
            log.warning("retention could not do its work, and tries again in %g s: %s", kept.interval, error)
        except Exception:
            # A defect must not end the removing for good.
            log.exception("retention could not do its work, and tries again in %g s", kept.interval)


def _tell_of_defect(task: asyncio.Task[None]) -> None:
    """What works in the background must not end unseen."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("a defect has ended %s: restart the server", task.get_coro(), exc_info=error)


async def _submit_once(service: Service, owner: str, jobs: list[JobSpec]) -> None:
    """Submits the jobs of `--jobs`, unless this very list was submitted before; names that are live are left alone."""
    if not jobs:
        return
    digest = hashlib.sha256(msgspec.json.encode(jobs, order="deterministic")).digest()
    replay = Replay(f"runyard-serve-jobs-{digest.hex()}", owner, digest)

    def render(outcomes: list[JobDoc | RunyardError]) -> Answer:
        for outcome in outcomes:
            if isinstance(outcome, RunyardError):
                print(f"a job of --jobs is refused: {outcome.detail}", file=sys.stderr)
        return Answer(200, b"{}")

    async def act(keep: Any) -> Answer:
        live = service.engine.reactor.roster.names
        wanted = [job for job in jobs if job.name is None or job.name not in live]
        return await service.submit(wanted, render, origin="native", owner=owner, keep=keep)

    await service.once(replay, act)
