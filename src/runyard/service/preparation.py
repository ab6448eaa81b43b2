"""From a request to the job of a task: the project's folder, its configuration file, the command (spec 1.3, 4.3).

Everything here blocks, and is for a thread. What is wrong with the parameters is a `Problem`, told as a message.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import msgspec

from runyard.model.check import check_spec
from runyard.model.errors import InvalidInput
from runyard.model.framework import Service
from runyard.model.job import JobSpec, Limits, Output, Report, Resources, Stop
from runyard.service.frameworks import Framework, TaskJob
from runyard.settings import K12ai
from runyard.training import parameters
from runyard.training.codes import Code
from runyard.training.operation import EVALUATE, PREDICT, RESUME, RUNCODE, TRAIN
from runyard.training.parameters import Problem
from runyard.training.request import Ask
from runyard.training.template import fill

#: Labels of a task's job (spec 3.5).
LABEL = "k12ai.service."
MAX_CODE = 1_000_000
#: Seconds in which a relay may end the task on the other side, beyond the usual grace.
RELAY_GRACE = 30.0
#: Everything that a project was trained with: what later phases and a resume begin with.
_STORED = "stored.json"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Places(msgspec.Struct, frozen=True):
    """The files of one project."""

    folder: Path

    @property
    def cache(self) -> Path:
        """The framework's own: checkpoints, models, results."""
        return self.folder / "cache"

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def code(self) -> Path:
        return self.folder / "code.py"

    def config(self, phase: str) -> Path:
        return self.folder / f"{phase}.json"


def prepare(framework: Framework, ask: Ask, root: Path, settings: K12ai) -> JobSpec:
    """The job of a task, whose files are in place. Raises Problem, OSError."""
    service, phase = framework.service, ask.op.phase
    if not service.agent and phase not in service.commands and "command" not in framework.hooks:
        has = ", ".join(service.commands)
        raise Problem(Code.NOT_IMPLEMENTED, f"the service {framework.name} has no command for {phase}; it has {has}")
    places = Places(root / ask.user / ask.uuid)
    tree = _parameters(framework, ask, places)
    places.cache.mkdir(parents=True, exist_ok=True, mode=0o755)
    if phase == PREDICT and service.images:
        _unpack(tree, places)
    if phase == RUNCODE and not service.agent:
        _write_code(tree, places)
    if str(ask.op) == "train.start" and service.resume.ckpt:
        _remove_below(places.cache, service.resume.ckpt)
    if service.resume.flag:
        parameters.put(tree, service.resume.flag, ask.op.action == RESUME)
    config = places.config(phase)
    given = tree if service.agent else parameters.configuration(tree)
    _write(config, given)
    if phase == TRAIN:
        _write(places.folder / _STORED, tree)
    job = TaskJob(
        op=str(ask.op),
        phase=phase,
        user=ask.user,
        uuid=ask.uuid,
        service=framework.name,
        params=tree,
        config=str(config),
        cache=str(places.cache),
    )
    framework.call("prepare", job)
    try:
        return check_spec(_job(framework, ask, job, places, settings))
    except InvalidInput as error:
        raise Problem(Code.START_FAILED, error.detail) from None


def give_to(folder: Path, user: str) -> None:
    """What is ours of the project's files becomes that account's, in whose name the task runs. The folder itself stays
    ours: who may put links there has the server write wherever they lead. Raises OSError."""
    entry, us = pwd.getpwnam(user), os.geteuid()
    for _, folders, files, here in os.fwalk(folder, topdown=False):
        for name in (*folders, *files):
            status = os.stat(name, dir_fd=here, follow_symlinks=False)
            # A second name of a file of ours from elsewhere is none of the project's files.
            if status.st_uid == us and name != _STORED and (stat.S_ISDIR(status.st_mode) or status.st_nlink == 1):
                os.chown(name, entry.pw_uid, entry.pw_gid, dir_fd=here, follow_symlinks=False)


def _parameters(framework: Framework, ask: Ask, places: Places) -> dict[str, Any]:
    """The parameters as a tree, over those that are stored. Raises Problem."""
    service, phase = framework.service, ask.op.phase
    if ask.params is not None and not isinstance(ask.params, dict):
        raise Problem(Code.BAD_PARAMETERS, f"service_params must be an object, not {type(ask.params).__name__}")
    tree = parameters.unfold(ask.params or {})
    stored = _read(places.folder / _STORED)
    if service.agent:
        return tree
    if ask.op.action == RESUME:
        if stored is None:
            raise Problem(Code.NOTHING_STORED, f"nothing is stored of {ask.user}/{ask.uuid}: use train.start")
        tree = parameters.overlaid(stored, tree)
    elif phase in (EVALUATE, PREDICT):
        if TRAIN in service.commands and stored is None:
            raise Problem(Code.NO_CONFIG, f"{ask.user}/{ask.uuid} was never trained: use train.start")
        if service.model and not (places.cache / service.model).exists():
            raise Problem(Code.NO_MODEL, f"training has left no {service.model!r}: see how it ended, and train again")
        tree = parameters.overlaid(stored or {}, tree)
    parameters.check_required(tree, service.required)
    return tree


def _unpack(tree: dict[str, Any], places: Places) -> None:
    images = parameters.read_images(tree)
    folder = places.images
    _remove(folder)
    folder.mkdir()
    paths = []
    for image in images:
        if image.url:
            paths.append(image.url)
        else:
            path = folder / image.name
            path.write_bytes(image.content)
            paths.append(str(path))
    tree["predict_images"] = paths


def _write_code(tree: dict[str, Any], places: Places) -> None:
    code = tree.get("code")
    if not isinstance(code, str) or not code.strip():
        raise Problem(Code.PARAMETER_MISSING, "service_params lacks 'code': the text of a Python program")
    if len(code) > MAX_CODE:
        raise Problem(Code.BAD_PARAMETERS, f"'code' has {len(code)} characters, at most {MAX_CODE} are taken")
    try:
        _replace(places.code, code.encode())
    except UnicodeEncodeError:
        raise Problem(Code.BAD_PARAMETERS, "'code' has half of a surrogate pair in it") from None


def _job(framework: Framework, ask: Ask, job: TaskJob, places: Places, settings: K12ai) -> JobSpec:
    service, limits = framework.service, framework.service.limits
    fields = {
        "config": job.config,
        "cache": job.cache,
        "phase": job.phase,
        "op": job.op,
        "user": job.user,
        "uuid": job.uuid,
        "python": sys.executable,
        "code_file": str(places.code),
    }
    env = {name: fill(text, fields) for name, text in service.env.items()}
    more = framework.call("environ", job)
    if isinstance(more, dict):
        env |= {str(name): str(value) for name, value in more.items()}
    board = parameters.get(job.params, "_k12.tb_logdir")
    labels = {"name": framework.name, "op": job.op, "user": job.user, "uuid": job.uuid}
    return JobSpec(
        command=_command(framework, job, fields),
        name=f"{job.op}-{job.user}-{job.uuid}"[:255],
        env={
            **env,
            "K12AI_CACHE_DIR": job.cache,
            "K12AI_CONFIG": job.config,
            **({"K12AI_DEVELOPER": "1"} if job.params.get("developer") is True else {}),
            **({"K12AI_TBLOG_DIR": board} if isinstance(board, str) else {}),
        },
        cwd=service.cwd or job.cache,
        resources=Resources(cores_per_task=limits.cores, gpus_per_task=limits.gpus, memory=limits.memory),
        limits=Limits(memory=limits.memory or None),
        time_limit=limits.timeout_s or None,
        stop=Stop(grace=settings.stop_grace + (RELAY_GRACE if service.agent else 0.0)),
        priority=service.priority,
        labels={LABEL + key: value for key, value in labels.items()},
        output=Output(max_size=settings.output_max or None),
        report=Report(rules=list(service.report), tensorboard=board if isinstance(board, str) and board else None),
        executor=service.executor,
        # It may not say anything before the server has told that it starts.
        hold=True,
    )


def _command(framework: Framework, job: TaskJob, fields: dict[str, str]) -> list[str]:
    service: Service = framework.service
    if service.agent:
        return [sys.executable, "-u", "-m", "runyard.relay", service.agent, job.service, job.op, job.config]
    given = framework.call("command", job)
    if given is None:
        return [fill(word, fields) for word in service.commands[job.phase]]
    if not isinstance(given, list) or not given or not all(isinstance(word, str) for word in given):
        raise Problem(Code.START_FAILED, f"command of {job.service} must give a list of texts")
    return given


# Files ----------------------------------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(path.read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return found if isinstance(found, dict) else None


def _write(path: Path, tree: dict[str, Any]) -> None:
    _replace(path, msgspec.json.format(msgspec.json.encode(tree), indent=2))


def _replace(path: Path, data: bytes) -> None:
    """In one piece: an earlier task may still read it."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_bytes(data)
    draft.replace(path)


def _remove_below(folder: Path, name: str) -> None:
    """In a folder of another account no link is followed: it would lead us where that account may not go."""
    if folder.stat().st_uid == os.geteuid():
        _remove(folder / name)
        return
    *parents, last = Path(name).parts
    here = os.open(folder, _FOLDER)
    try:
        for part in parents:
            inner = os.open(part, _FOLDER, dir_fd=here)
            os.close(here)
            here = inner
        try:
            os.unlink(last, dir_fd=here)
        except IsADirectoryError:
            shutil.rmtree(last, dir_fd=here)
    except FileNotFoundError:
        pass
    finally:
        os.close(here)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
