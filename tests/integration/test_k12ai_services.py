"""Services from entry points, and how a task is prepared: files, hooks, command (spec/k12ai.md, 1.3, 3.8 and 4.3)."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from runyard.model.errors import ConfigError
from runyard.model.framework import Service
from runyard.service.frameworks import Framework, Frameworks, TaskJob, made
from runyard.service.preparation import give_to, prepare
from runyard.settings import K12ai
from runyard.training.operation import OPERATIONS
from runyard.training.parameters import Problem
from runyard.training.request import Ask


def ask(op: str = "train.start", params: Any = None, user: str = "u1") -> Ask:
    return Ask(op=OPERATIONS[op], user=user, service="mine", uuid="p1", params=params or {}, app="a")


class Tuned:
    """What a package brings."""

    service = {"commands": {"train": ["train", "{config}"]}, "limits": {"cores": 2, "gpus": 1, "memory": "1G"}}

    def prepare(self, job: TaskJob) -> None:
        Path(job.cache, "prepared").write_text(job.op)

    def command(self, job: TaskJob) -> list[str]:
        return ["tuned", job.phase, job.config]

    def environ(self, job: TaskJob) -> dict[str, str]:
        return {"LR": str(job.params["lr"])}

    def map_error(self, err_type: str, err_text: str) -> int:
        return 100302

    def memstat(self, params: Any) -> Any:
        error = MemoryError("too much")
        error.code = params  # type: ignore[attr-defined]
        raise error


def test_a_class_with_hooks(tmp_path: Path) -> None:
    framework = made("mine", Tuned)
    spec = prepare(framework, ask(params={"lr": 0.5, "limits.x": 1}), tmp_path, K12ai(stop_grace=7.0))
    folder = tmp_path / "u1" / "p1"
    assert spec.command == ["tuned", "train", str(folder / "train.json")]
    assert json.loads((folder / "train.json").read_text()) == {"lr": 0.5, "limits": {"x": 1}}
    assert (folder / "cache" / "prepared").read_text() == "train.start"
    assert spec.env["LR"] == "0.5" and spec.cwd == str(folder / "cache")
    assert (spec.resources.cores_per_task, spec.resources.gpus_per_task, spec.resources.memory) == (2, 1, 1 << 30)
    assert (spec.limits.memory, spec.stop.grace, spec.hold) == (1 << 30, 7.0, True)
    assert spec.labels["k12ai.service.name"] == "mine" and spec.name == "train.start-u1-p1"
    for given, code in ((None, 100901), (404, 100901), (100212, 100212)):
        with pytest.raises(Problem) as caught:
            framework.call("memstat", given)
        assert caught.value.code == code
    # What the hooks can do alone needs no command.
    assert prepare(framework, ask("predict.start"), tmp_path, K12ai()).command is not None


def test_a_record_without_hooks() -> None:
    assert made("a", {"commands": {"train": ["x"]}}).service.commands == {"train": ["x"]}
    assert made("a", Service(agent="http://h")).service.agent == "http://h"
    unusable: list[Any] = [5, {"commands": {}}, type("Empty", (), {})]
    for bad in unusable:
        with pytest.raises(ConfigError):
            made("a", bad)


def test_what_is_configured_goes_first() -> None:
    own = Service(commands={"runcode": ["mine"]})
    frameworks = Frameworks({"k12pyr": own, "b": own})
    assert [framework.name for framework in frameworks.all()] == ["b", "k12pyr"]
    found = frameworks.get("k12pyr")
    assert found is not None and found.service is own and frameworks.get("nothing") is None
    assert Frameworks({}).get("k12pyr") is not None


def test_a_checkpoint_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    framework = made("mine", {"commands": {"train": ["x"]}, "resume": {"ckpt": "ckpt"}})
    cache = tmp_path / "root" / "u1" / "p1" / "cache"
    cache.mkdir(parents=True)
    os.symlink(precious, cache / "ckpt")
    prepare(framework, ask(), tmp_path / "root", K12ai())
    assert (precious / "file").exists() and not (cache / "ckpt").is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_whoever_owns_a_project_does_not_own_the_server(tmp_path: Path) -> None:
    framework = made("mine", {"commands": {"train": ["x"]}, "resume": {"ckpt": "out/ckpt"}})
    nobody, folder = pwd.getpwnam("nobody").pw_uid, tmp_path / "root" / "u1" / "p1"

    def start() -> None:
        prepare(framework, ask(), tmp_path / "root", K12ai())
        give_to(folder, "nobody")

    start()
    owners = {path.name: path.stat().st_uid for path in (folder, *folder.iterdir())}
    # Where the server itself writes, nobody else puts links.
    assert owners == {"p1": 0, "stored.json": 0, "cache": nobody, "train.json": nobody}
    ckpt = folder / "cache" / "out" / "ckpt"
    ckpt.mkdir(parents=True)
    (ckpt / "1").touch()
    precious = tmp_path / "precious"
    os.link(ckpt / "1", precious)
    start()
    assert not ckpt.exists() and ckpt.parent.stat().st_uid == nobody
    os.link(precious, folder / "cache" / "link")
    ckpt.parent.rmdir()
    (tmp_path / "elsewhere" / "ckpt").mkdir(parents=True)
    os.symlink(tmp_path / "elsewhere", ckpt.parent)
    with pytest.raises(OSError, match=r"Too many levels|Not a directory"):
        start()
    give_to(folder, "nobody")
    assert (tmp_path / "elsewhere" / "ckpt").exists() and precious.stat().st_uid == 0


@pytest.mark.parametrize(
    ("op", "params", "code"),
    [
        ("evaluate.start", {}, 100902),
        ("train.resume", {}, 100214),
        ("train.start", {"_k12.tb_logdir": "x\0y"}, 100202),
    ],
)
def test_what_can_not_be_prepared(tmp_path: Path, op: str, params: dict[str, Any], code: int) -> None:
    framework = Framework("mine", Service(commands={"train": ["x"]}))
    with pytest.raises(Problem) as caught:
        prepare(framework, ask(op, params), tmp_path, K12ai())
    assert caught.value.code == code and caught.value.text


def test_a_user_code_of_its_own(tmp_path: Path) -> None:
    framework = Frameworks({}).get("k12pyr")
    assert framework is not None
    spec = prepare(framework, ask("runcode.start", {"code": "print(1)"}), tmp_path, K12ai())
    assert spec.command is not None and Path(spec.command[-1]).read_text() == "print(1)"
    refused: list[dict[str, Any]] = [
        {},
        {"code": 5},
        {"code": " "},
        {"code": "x" * 1_000_001},
        {"code": "'\ud800'"},
    ]
    for bad in refused:
        with pytest.raises(Problem):
            prepare(framework, ask("runcode.start", bad), tmp_path, K12ai())
