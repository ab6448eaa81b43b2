"""From a decision of the core to the message that an agent understands. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from runyard.core.commands import StartRun
from runyard.model.ids import RunKey
from runyard.model.job import JobSpec, Limits
from runyard.model.node import Share
from runyard.model.signals import signal_number
from runyard.model.wire import Launch

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


def launch_message(
    start: StartRun, output: Callable[[RunKey], tuple[str, str]], more: Mapping[str, str] = MappingProxyType({})
) -> Launch:
    """The launch of this run; `output` gives the paths of its stdout and stderr files, `more` its front door's
    variables."""
    spec, run = start.record.spec, start.run
    share = start.shares[0]
    limits = spec.limits
    stdout, stderr = output(run)
    plain = limits == _NO_LIMITS
    return Launch(
        run=run,
        argv=spec.argv,
        env=_environment(spec, start.shares, more),
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
    )


def _rlimits(limits: Limits) -> dict[str, int] | None:
    chosen = {name: value for field, name in _RLIMITS.items() if (value := getattr(limits, field)) is not None}
    return chosen or None


def _environment(spec: JobSpec, shares: list[Share], more: Mapping[str, str]) -> dict[str, str]:
    """The job's own variables, and what it was given. An unreserved GPU is not hidden: nothing was promised."""
    share = shares[0]
    given = dict(more)
    if spec.name is not None:
        given["RUNYARD_JOB_NAME"] = spec.name
    if spec.replicas > 1:
        given["RUNYARD_REPLICAS"] = str(spec.replicas)
    if share.cores:
        given["RUNYARD_CORES"] = ",".join(map(str, share.cores))
    if share.gpus or spec.resources.gpus_per_task:
        given["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, share.gpus))
    if spec.resources.tasks > 1:
        given["RUNYARD_TASKS"] = str(spec.resources.tasks)
    if len(shares) > 1:
        given["RUNYARD_NODES"] = ",".join(part.node for part in shares)
    return spec.env if not given else given | spec.env
