"""From a decision of the core to the message that an agent understands. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from runyard.core.commands import StartRun
from runyard.model.ids import RunKey, f58
from runyard.model.job import JobSpec, Limits
from runyard.model.node import Share
from runyard.model.signals import signal_number
from runyard.model.wire import Launch, Place, Tasks
from runyard.store.output import report_beside

_RLIMITS = {
    "cpu_time": "cpu",
    "file_size": "fsize",
    "open_files": "nofile",
    "processes": "nproc",
    "address_space": "as",
    "core_size": "core",
    "stack": "stack",
}
_NO_LIMITS = Limits()
#: Of the command that `host` gives, the words before those that are about one flow.
HOST_WORDS = 4
#: With this among its door's variables, a run gets a folder of its own, whose path is the value.
JOB_TMPDIR = "FLUX_JOB_TMPDIR"


def launch_message(
    start: StartRun,
    output: Callable[[RunKey], tuple[str, str]],
    more: Mapping[str, str] = MappingProxyType({}),
    host: Callable[[StartRun], list[str]] | None = None,
    edition: str = "",
) -> Launch:
    """The launch of this run; `output` gives the paths of its stdout and stderr files, `more` its front door's
    variables, `host` the command of the process that hosts a flow, `edition` that of its program."""
    spec, run = start.record.spec, start.run
    share = start.shares[0]
    limits = spec.limits
    stdout, stderr = output(run)
    plain = limits == _NO_LIMITS
    given = dict(more)
    # Never an empty text in the run itself: somebody may clear `$FLUX_JOB_TMPDIR/*`.
    tmpdir = given.pop(JOB_TMPDIR, None) is not None
    flow = host(start) if spec.flow is not None and host is not None else None
    return Launch(
        run=run,
        argv=spec.argv if flow is None else flow,
        env=_environment(run, spec, start.shares, {"RUNYARD_REPORT": _report(spec, stdout), **given}),
        cwd=spec.cwd,
        stdout=stdout,
        stderr=stdout if spec.output.merge else stderr,
        stop_signal=signal_number(spec.stop.signal) or 15,
        grace=spec.stop.grace,
        time_limit=spec.time_limit,
        cores=share.cores or None,
        user=spec.user,
        group=spec.group,
        umask=None if spec.umask is None else int(spec.umask, 8),
        nice=limits.nice,
        rlimits=None if plain else _rlimits(limits),
        memory=limits.memory,
        cpus=limits.cpus,
        warm=0 if flow is None else HOST_WORDS,
        edition="" if flow is None else edition,
        tasks=_tasks(spec, start.shares),
        tmpdir=JOB_TMPDIR if tmpdir else "",
    )


def _report(spec: JobSpec, stdout: str) -> str:
    """Where the program reports: into a file of the run, or, as another account, on its standard output."""
    return "-" if spec.user is not None or spec.group is not None else report_beside(stdout)


def _rlimits(limits: Limits) -> dict[str, int] | None:
    chosen = {name: value for field, name in _RLIMITS.items() if (value := getattr(limits, field)) is not None}
    return chosen or None


def _tasks(spec: JobSpec, shares: list[Share]) -> Tasks | None:
    """The tasks fill one node after the other; the last one may get fewer than it holds places for."""
    if spec.resources.tasks == 1:
        return None
    places: list[Place] = []
    left = spec.resources.tasks
    for share in shares:
        count = min(share.tasks, left) if len(shares) > 1 else left
        left -= count
        gpus = share.gpus if _grants_gpus(spec, share) and "CUDA_VISIBLE_DEVICES" not in spec.env else None
        places.append(Place(count, share.cores or None, gpus))
    return Tasks(places, spec.stop.after_failure)


def _grants_gpus(spec: JobSpec, share: Share) -> bool:
    """An unreserved GPU is not hidden: nothing was promised."""
    return bool(share.gpus or spec.resources.gpus_per_task)


def _environment(run: RunKey, spec: JobSpec, shares: list[Share], more: Mapping[str, str]) -> dict[str, str]:
    """The job's own variables, and what it was given."""
    share = shares[0]
    given = dict(more)
    if spec.name is not None:
        given["RUNYARD_JOB_NAME"] = spec.name
    if spec.replicas > 1:
        given["RUNYARD_REPLICAS"] = str(spec.replicas)
    if share.cores:
        given["RUNYARD_CORES"] = ",".join(map(str, share.cores))
    if _grants_gpus(spec, share):
        given["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, share.gpus))
    if spec.resources.tasks > 1:
        tasks, nodes = str(spec.resources.tasks), str(len(shares))
        given |= {
            "RUNYARD_TASKS": tasks,
            "FLUX_JOB_ID": f58(run.job),
            "FLUX_JOB_SIZE": tasks,
            "FLUX_JOB_NNODES": nodes,
        }
    if len(shares) > 1 or spec.resources.tasks > 1:
        given["RUNYARD_NODES"] = ",".join(part.node for part in shares)
    return spec.env if not given else given | spec.env
