"""Submissions in every shape that a client has sent, and what is wrong with bad ones (spec/flux-restful.md, 1.8)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runyard.api.flux.answer import Refused
from runyard.api.flux.banner import banner
from runyard.api.flux.submission import Server, Submission, job_of, read_flags, read_submission
from runyard.config import parse
from runyard.model.job import Resources

BIG = Server(nodes=4, gpus=True)


def read(query: dict[str, Any] | None = None, body: Any = None, server: Server = BIG, **more: Any) -> Submission:
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_submission(query or {}, content, server, **more)


def refused(query: dict[str, Any] | None = None, body: Any = None, server: Server = BIG, **more: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        read(query, body, server, **more)
    return caught.value


def errors(query: dict[str, Any], server: Server = BIG, **more: Any) -> list[str]:
    refusal = refused({"command": "true"} | query, None, server, **more)
    assert refusal.status == 400 and refusal.body["Message"] == "Invalid submit request"
    found: list[str] = refusal.body["Errors"]
    return found


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ({"command": "echo 'hi there'", "num_tasks": "2", "envars": '{"A": "b"}'}, None),
        ({"command": "echo 'hi there'", "num_tasks": "2", "envars": "{'A': 'b'}"}, None),
        ({"command": "echo 'hi there'", "num_tasks": "2"}, {"A": "b"}),
        ({"command": "echo 'hi there'", "num_tasks": "2"}, {"envars": {"A": "b"}}),
        (None, {"command": "echo 'hi there'", "num_tasks": 2, "envars": {"A": "b"}}),
        (None, {"command": ["echo", "hi there"], "num_tasks": "2", "envars": {"A": "b"}, "num_nodes": None}),
        ({"num_tasks": "2"}, {"command": ["echo", "hi there"], "num_tasks": 7, "envars": {"A": "b"}, "user": "x"}),
        ({"command": "echo 'hi there'", "num_tasks": "2", "workdir": "", "num_nodes": "", "runtime": ""}, {"A": "b"}),
    ],
)
def test_every_generation_of_clients_is_understood(query: dict[str, str] | None, body: Any) -> None:
    assert read(query, body) == Submission(argv=["echo", "hi there"], num_tasks=2, envars={"A": "b"})


def test_all_parameters_reach_the_job() -> None:
    asked = read(
        body={
            "command": ["a", 1, 2.5],
            "num_tasks": 4,
            "cores_per_task": 3,
            "gpus_per_task": 1,
            "num_nodes": 2,
            "exclusive": "yes",
            "option_flags": "mpi=none k=v,x=",
            "workdir": "/tmp",
            "runtime": "1.5h",
            "envars": {"N": 1},
        }
    )
    spec = job_of(asked)
    assert (spec.command, spec.cwd, spec.env, spec.time_limit) == (["a", "1", "2.5"], "/tmp", {"N": "1"}, 5400.0)
    assert spec.resources == Resources(nodes=2, tasks=4, cores_per_task=3, gpus_per_task=1, exclusive=True)
    assert spec.labels == {"flux.option.mpi": "none", "flux.option.k": "v", "flux.option.x": ""}


def test_a_launcher_reserves_nothing_and_a_missing_folder_is_said() -> None:
    assert job_of(read({"command": "nextflow run x", "is_launcher": "true"})).resources == Resources()
    spec = job_of(read({"command": "pwd", "workdir": "/nowhere"}), missing_folder=True)
    assert spec.cwd == "/tmp" and spec.argv[-1] == "pwd" and "/nowhere" in spec.argv


@pytest.mark.parametrize("query", [{}, {"command": ""}, {"num_tasks": "1"}])
def test_a_command_is_minimally_required(query: dict[str, str]) -> None:
    assert refused(query).body == {"Message": "A 'command' is minimally required."}
    assert refused(None, {"command": []}).status == 400


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"command": "echo 'x"}, "No closing quotation"),
        ({"command": " "}, "'command' is required."),
        ({"num_nodes": "5", "num_tasks": "9"}, "The server only has 4 nodes, you requested 5"),
        ({"option_flags": "-ompi=x"}, "Please provide keys without -o, -ompi is invalid."),
        ({"option_flags": "mpi"}, "Please provide options as key=value, mpi is invalid."),
        ({"runtime": "-3"}, "Runtime must be >= 0, found -3"),
        ({"gpus_per_task": "0"}, "Parameter gpus_per_task must be >= 1"),
        ({"num_tasks": "0"}, "task count must be a integer >= 1"),
        ({"cores_per_task": "-1"}, "cores per task must be an integer >= 1"),
        ({"num_nodes": "2"}, "node count must not be greater than task count"),
        ({"exclusive": "1"}, "exclusive can only be set with a node count"),
        ({"envars": "[1]"}, "Environment variables must be key/value pairs (dict)"),
        ({"envars": "{'A': {'b': 1}}"}, "Environment variables must be key/value pairs (dict)"),
        ({"envars": "__import__('os')"}, "Environment variables must be key/value pairs (dict)"),
        ({"envars": "{'A=B': 'c'}"}, "Environment variables have names of letters, digits and _, A=B is invalid."),
        ({"workdir": "../etc"}, "workdir must be an absolute path, ../etc is invalid."),
    ],
)
def test_a_broken_rule_is_named(query: dict[str, str], text: str) -> None:
    assert errors(query) == [text]


def test_all_broken_rules_are_named_at_once() -> None:
    found = errors({"num_tasks": "0", "gpus_per_task": "1", "runtime": "-1", "option_flags": "x"}, Server())
    assert len(found) == 4 and "This server does not support gpus: gpus_per_task cannot be set." in found
    assert errors({"envars": '{"LD_PRELOAD": "x"}'}, restricted=True) == [
        "Environment variable LD_PRELOAD cannot be set on this server."
    ]
    wrong = refused(None, {"command": "x", "option_flags": 3}).body["Errors"]
    assert wrong == ["Please provide option args as a dictionary, type <class 'int'> is invalid."]


@pytest.mark.parametrize(
    ("query", "body", "kind", "where"),
    [
        ({"command": "x", "num_tasks": "two"}, None, "int_parsing", ["query", "num_tasks"]),
        ({"command": "x", "num_tasks": "9" * 5000}, None, "int_parsing", ["query", "num_tasks"]),
        ({"command": "x", "exclusive": "maybe"}, None, "bool_parsing", ["query", "exclusive"]),
        ({"command": "x", "runtime": "nan"}, None, "int_parsing", ["query", "runtime"]),
        (None, {"command": "x", "num_tasks": True}, "int_parsing", ["body", "num_tasks"]),
        (None, {"command": "x", "num_tasks": [1]}, "int_parsing", ["body", "num_tasks"]),
        (None, {"command": {"a": 1}}, "string_type", ["body", "command"]),
        (None, {"command": ["a", ["b"]]}, "string_type", ["body", "command"]),
        (None, {"command": "x", "workdir": 5}, "string_type", ["body", "workdir"]),
        (None, [1], "dict_type", ["body"]),
        (None, b'{"command": ', "json_invalid", ["body"]),
        (None, b"[" * 100_000, "json_invalid", ["body"]),
        (None, b"\xff\xfe", "json_invalid", ["body"]),
    ],
)
def test_what_cannot_be_read_is_unprocessable(
    query: dict[str, str] | None, body: Any, kind: str, where: list[str]
) -> None:
    refusal = refused(query, body)
    (problem,) = refusal.body["detail"]
    assert (refusal.status, problem["type"], problem["loc"]) == (422, kind, where)


def test_what_no_process_can_get_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        job_of(read({"command": "echo", "envars": json.dumps({"A": "x" * 200_000})}))
    assert caught.value.status == 400
    with pytest.raises(Refused):
        job_of(read(None, {"command": ["a\0b"]}))


def test_a_literal_is_never_evaluated_and_costs_little() -> None:
    for text in ("(" * 50_000, "-" * 50_000 + "1", "{'a':" * 10_000, "9" * 60_000, "x" * 70_000):
        assert errors({"envars": text}) == ["Environment variables must be key/value pairs (dict)"]


def test_options_of_the_server_give_way() -> None:
    usual = read_flags("-ompi=openmpi@5 -okey=value,plain=1 nonsense")
    assert usual == {"mpi": "openmpi@5", "key": "value", "plain": "1"}
    assert read({"command": "x", "option_flags": "key=mine"}, option_flags=usual).option_flags == usual | {
        "key": "mine"
    }


def test_what_the_environment_says_is_heard_and_its_secrets_are_not_shown() -> None:
    config, _ = parse(env={"FLUX_OPTION_FLAGS": "-ompi=none"})
    assert config.doors.flux.option_flags == "-ompi=none"
    text = banner({"FLUX_USER": "me", "FLUX_TOKEN": "s3cret"}, require_auth=True, multi_user=False)
    assert "Require auth: True" in text and "Secret key: unset" in text and "s3cret" not in text
    longer = banner({"FLUX_USER": "me", "FLUX_TOKEN": "s3cret" * 9}, require_auth=True, multi_user=False)
    assert longer == text


def test_a_number_that_is_too_long_for_an_environment() -> None:
    (error,) = errors({"envars": "{'A': 0x" + "f" * 5000 + "}"})
    assert error == "Environment variables are texts, the number A is too long."
