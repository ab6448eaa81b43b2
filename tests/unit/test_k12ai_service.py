"""The record of a service, its templates, and the parameters of a task (spec/k12ai.md, 1.3 and 3.8)."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from runyard.config import parse
from runyard.model.errors import ConfigError
from runyard.model.framework import read_services
from runyard.training import parameters
from runyard.training.parameters import Problem
from runyard.training.template import fill

TRAIN = {"commands": {"train": ["{python}", "t.py", "--config", "{config}"]}}


def test_a_record_in_the_configuration() -> None:
    text = """
[services.k12nlp]
commands.train = ["{python}", "train.py", "{config}"]
commands.evaluate = ["./eval", "{cache}/output"]
cwd = "nlp"
schema = "schema/nlp.json"
env = { OUT = "{cache}/out" }
limits = { memory = "8G", gpus = 1, timeout_s = "2h" }
resume = { flag = "network.resume", ckpt = "output/ckpts" }
[[services.k12nlp.report]]
pattern = 'loss=(?P<loss>\\S+)'
"""
    config, origins = parse(text, path="/etc/c.toml")
    service = config.services["k12nlp"]
    assert service.cwd == "/etc/nlp" and service.schema == "/etc/schema/nlp.json"
    assert (service.limits.memory, service.limits.timeout_s) == (8 << 30, 7200.0)
    assert service.report[0].pattern and origins["services"].kind == "file"
    config, _ = parse(env={"RUNYARD_SERVICES": '{"a": {"agent": "http://h:8119"}}'})
    assert config.services["a"].agent == "http://h:8119"


@pytest.mark.parametrize(
    ("table", "part"),
    [
        ([], "services are tables"),
        ("{", "expected a JSON object"),
        ({"a": 5}, "services are tables"),
        ({"a/b": TRAIN}, "the name of a service"),
        ({"..": TRAIN}, "the name of a service"),
        ({"a": {}}, "exactly one of commands and agent"),
        ({"a": {**TRAIN, "agent": "http://h"}}, "exactly one of commands and agent"),
        ({"a": {"agent": "ftp://h"}}, "must be an address"),
        ({"a": {"commands": {"run": ["x"]}}}, "there is no such phase"),
        ({"a": {"commands": {"train": []}}}, "must name a program"),
        ({"a": {"commands": {"train": "x"}}}, "Expected `array`"),
        ({"a": {"commands": {"train": ["x", "{nothing}"]}}}, "there is no field {nothing}"),
        ({"a": {**TRAIN, "env": {"A=B": "x"}}}, "can't be the name of a variable"),
        ({"a": {**TRAIN, "env": {"A": "{secret}"}}}, "there is no field {secret}"),
        ({"a": {**TRAIN, "model": "/etc/passwd"}}, "below the project's cache"),
        ({"a": {**TRAIN, "resume": {"ckpt": "../x"}}}, "below the project's cache"),
        ({"a": {**TRAIN, "limits": {"memory": "lots"}}}, "limits.memory"),
        ({"a": {**TRAIN, "limits": {"gpus": -1}}}, "must not be negative"),
        ({"a": {**TRAIN, "limts": {}}}, "limts"),
    ],
)
def test_errors_in_a_record_teach(table: Any, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_services(table, "services")
    assert part in caught.value.detail


def test_templates() -> None:
    fields = {"config": "/c {cache}", "cache": "/k"}
    assert fill("--c={config} {cache} {{config}} {other}", fields) == "--c=/c {cache} /k {config} {other}"


def test_dotted_keys_become_a_tree() -> None:
    assert parameters.unfold({"a.b.c": 1, "a": {"b": {"d": 2}}, "x": [{"y.z": 1}]}) == {
        "a": {"b": {"c": 1, "d": 2}},
        "x": [{"y.z": 1}],
    }
    assert parameters.unfold({"a": 1, "a.b": 2}) == {"a": {"b": 2}}
    assert parameters.unfold({"a.b": 2, "a": 1}) == {"a": 1}
    with pytest.raises(Problem):
        parameters.unfold({".".join("a" * 50): 1})


def test_stored_parameters_give_way() -> None:
    assert parameters.overlaid({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": 4}) == {"a": {"b": 3, "c": 2}, "d": 4}


def test_reserved_entries_are_taken_out() -> None:
    tree = parameters.unfold({"_k12.tb_logdir": "tb", "developer": True, "lr": 0.1})
    assert parameters.configuration(tree) == {"lr": 0.1}
    assert parameters.get(tree, "_k12.tb_logdir") == "tb" and parameters.get(tree, "lr.x") is None
    parameters.put(tree, "network.resume", True)
    assert tree["network"] == {"resume": True}


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, 100213),
        ({"_k12.predict_images": "x"}, 100215),
        ({"_k12.predict_images": []}, 100215),
        ({"_k12.predict_images": [5]}, 100215),
        ({"_k12.predict_images": [{"name": "a", "content": "***"}]}, 100215),
        ({"_k12.predict_images": [{"name": "a", "content": ""}]}, 100215),
    ],
)
def test_pictures_that_are_none(given: dict[str, Any], code: int) -> None:
    with pytest.raises(Problem) as caught:
        parameters.read_images(parameters.unfold(given))
    assert caught.value.code == code


def test_pictures() -> None:
    content = base64.b64encode(b"PNG").decode()
    given = [
        {"name": "../../etc/x.png", "content": f"data:image/png;base64,{content}"},
        {"name": "../../etc/x.png", "content": content},
        {"content": "https://h/a.png"},
    ]
    found = parameters.read_images({"_k12": {"predict_images": given}})
    assert [image.content for image in found[:2]] == [b"PNG", b"PNG"]
    assert [image.name for image in found] == ["0000-.._.._etc_x.png", "0001-.._.._etc_x.png", "0002-image"]
    assert found[2].url == "https://h/a.png"


def test_required_parameters() -> None:
    parameters.check_required({"a": {"b": 0}}, ["a.b"])
    for name, code in (("a.c", 100233), ("_k12.data.dataset_name", 100216)):
        with pytest.raises(Problem) as caught:
            parameters.check_required({"a": {"b": 1}}, [name])
        assert caught.value.code == code
