"""Definitions of projects, the document's chains, the addresses of members, and the files that members share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from runyard.model.errors import ConfigError, InvalidInput
from runyard.project.definition import build_project, condition_met
from runyard.project.files import (
    project_info,
    read_deployment,
    read_neural_net,
    read_project_info,
    read_yaml,
)
from runyard.project.places import Claim, Places
from runyard.service.projects import Projects, addresses
from runyard.settings import Tango
from runyard.store.output import OutputFiles


def chain(**fields: Any) -> list[str]:
    return [step.container for step in build_project({"name": "p", **fields}, "u").steps]


@pytest.mark.parametrize(
    ("fields", "containers"),
    [
        ({}, "bms backbone_nas code_gen ondevice_deploy"),
        ({"labelling": True, "visualiser": True}, "labelling bms vis2code backbone_nas code_gen ondevice_deploy"),
        ({"nas_type": "neck_nas", "target": "GCP"}, "bms neck_nas code_gen cloud_deploy"),
        ({"target": "k8s"}, "bms backbone_nas code_gen cloud_deploy"),
        ({"chain": "g3", "target": "k8s"}, "bms yoloe code_gen k8s_deploy"),
        ({"chain": "g3", "task_type": "classification"}, "bms autonn_resnet code_gen ondevice_deploy"),
        ({"chain": "g4", "user_editing": True}, "autonn code_gen user_edit ondevice_deploy"),
        ({"chain": "g4", "task_type": "segmentation", "learning_type": "continual_learning"}, "autonn_cl"),
    ],
)
def test_chains(fields: dict[str, Any], containers: str) -> None:
    assert chain(**fields) == containers.split()


def test_steps_follow_the_one_above_and_go_by_their_ids() -> None:
    steps = [
        {"container": "codeGen", "url": "http://h:1"},
        {"container": "imagedeploy"},
        {"container": "x", "after": []},
    ]
    project = build_project({"name": "p", "target": "aws", "steps": steps, "heartbeat": "500ms"}, "a b")
    assert [(step.container, step.after) for step in project.steps] == [
        ("code_gen", []),
        ("cloud_deploy", ["code_gen"]),
        ("x", []),
    ]
    assert (project.user_id, project.heartbeat) == ("a_b", 0.5)


def test_conditions_compare_as_text() -> None:
    steps = [{"container": "x", "command": ["y"], "when": {"visualiser": "true", "target": ["PC", "cloud"]}}]
    for fields, met in (({"visualiser": True}, True), ({}, False), ({"visualiser": True, "target": "aws"}, False)):
        project = build_project({"name": "p", "steps": steps, **fields}, "u")
        assert condition_met(project, project.steps[0]) is met


@pytest.mark.parametrize("value", [math.nan, math.inf, 1 << 70, -(1 << 70), 1 << 10_000])
def test_numbers_that_can_not_be_kept_as_json_are_refused(value: float) -> None:
    with pytest.raises(InvalidInput, match=r"info\.x"):
        build_project({"name": "p", "info": {"x": value}}, "u")


def test_circles_are_refused() -> None:
    steps = [{"container": name, "command": ["x"], "after": [after]} for name, after in (("a", "b"), ("b", "a"))]
    with pytest.raises(InvalidInput, match="wait for each other"):
        build_project({"name": "p", "steps": steps}, "u")


def test_addresses(tmp_path: Path) -> None:
    env = {"TANGO_CODE_GEN_URL": "http://b:2", "TANGO_MINE_URL": "http://c:3", "TANGO_PM_URL": "x", "OTHER": "y"}
    found = addresses(["bms = http://a:1", "codeGen=http://z:9"], env)
    assert found == {"bms": "http://a:1", "code_gen": "http://b:2", "mine": "http://c:3"}
    for bad in (["bms"], ["bms=ftp://x"], ["bms=http://user:secret@x"]):
        with pytest.raises(ConfigError):
            addresses(bad, {})
    with pytest.raises(ConfigError, match="docker_host"):
        Projects(Tango(docker_host="::1"), OutputFiles(tmp_path), tmp_path, "node")


def test_a_member_works_for_one_and_the_others_line_up() -> None:
    places = Places()
    one, two, three = (Claim(number, "a", 1) for number in (1, 2, 3))
    assert places.ask("h:1", one, 1) and places.ask("h:1", one, 1)
    assert not places.ask("h:1", two, 1) and not places.ask("h:1", three, 1)
    assert places.holder("h:1", two) == 1 and places.holder("h:1", one) is None
    assert places.ask("h:2", two, 1)
    assert places.give("h:1", 9, "a") == []
    # One gets it, and no newcomer comes in between.
    assert places.give("h:1", 1, "a") == [two]
    assert not places.ask("h:1", one, 1) and places.holder("h:1", three) == 2
    # Who is gone waits no more.
    assert places.give("h:1", 3, "a") == []
    assert places.give("h:1", 2, "a") == [one]
    assert places.give("h:1", 1, "a") == []


def test_a_member_that_works_for_several_takes_as_many_as_each_allows() -> None:
    places = Places()
    for number in (1, 2):
        assert places.ask("h:1", Claim(number, "a", 1), 2)
    alone, beside = Claim(3, "a", 1), Claim(4, "a", 1)
    assert not places.ask("h:1", alone, 1) and not places.ask("h:1", beside, 2)
    assert places.give("h:1", 1, "a") == [beside]
    assert places.give("h:1", 2, "a") == []
    assert places.give("h:1", 4, "a") == [alone]


# Files ------------------------------------------------------------------------------------------------------------


def test_project_info_is_read_as_it_was_written() -> None:
    project = build_project(
        {
            "name": "p",
            "target": "Odroid_N2",
            "dataset": "coco128",
            "user_editing": True,
            "info": {"nfs_ip": "10.0.0.1"},
        },
        "u",
    )
    text = project_info(project)
    assert [line for line in text.splitlines() if line.startswith("#")] == ["# common", "# autonn", "# deploy"]
    assert "user_editing: yes" in text
    values = read_project_info(text)
    assert values["target_info"] == "odroid_n2" and values["memory"] == 2 and values["acc"] == "opencl"
    assert values["nfs_ip"] == "10.0.0.1" and values["user_editing"] is True


def test_every_spelling_is_read() -> None:
    assert read_project_info("target_ip: 1.2.3.4\nuser_editing: 'no'\n") == {
        "target_hostip": "1.2.3.4",
        "user_editing": False,
    }
    deployment = read_deployment(
        "build: {components: {custom_packages: {atp: [x], papi: [y]}}}\ndeploy: {workdir: /w, k8s: {nfsip: h}}\n"
    )
    assert deployment["build"]["components"]["custom_packages"] == {"apt": ["x"], "pypi": ["y"]}
    assert deployment["deploy"]["work_dir"] == "/w" and deployment["deploy"]["k8s"] == {"nfs_ip": "h"}
    assert read_neural_net("weight_file: best.pt\nextra: 1\n")["weight_file"] == ["best.pt"]
    assert read_yaml("", "x") == {}


def test_files_become_values_that_json_has() -> None:
    text = (
        'a: .inf\nb: 99999999999999999999\nc: 2020-01-01\nd: !!set {x}\n"\\ud800": "\\ud800"\ne: [&x {y: null}, *x]\n'
    )
    expected = {"a": None, "b": "9" * 20, "c": "2020-01-01", "d": ["x"], "?": "?", "e": [{"y": None}, {"y": None}]}
    assert read_yaml(text, "x") == expected


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "- a",
        "a: b: c",
        "x" * (1 << 21),
        "!!python/object/apply:os.system [id]",
        "\x00",
        "a: &a [*a]",
        "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20)),
        "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 20)),
    ],
)
def test_files_that_can_not_be_read_are_named(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"x\.yaml"):
        read_yaml(text, "x.yaml")


def test_a_network_without_weights_is_none() -> None:
    with pytest.raises(InvalidInput, match="weight_file"):
        read_neural_net("nc: 3\n")
