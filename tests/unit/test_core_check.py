"""Taking specifications in: every refusal names field, value and rule; every spelling of a quantity is understood."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard.model import check
from runyard.model.errors import InvalidInput
from runyard.model.job import JobSpec, Lifecycle, Resources

OK: dict[str, Any] = {"command": ["true"]}


def refusal(raw: Any) -> dict[str, Any]:
    """What is said about the only thing that is wrong."""
    with pytest.raises(InvalidInput) as caught:
        check.build_spec(raw)
    (error,) = caught.value.fields["errors"]
    assert caught.value.detail == f"{error['field']}: {error['rule']}"
    assert error["rule"]
    return dict(error)


@pytest.mark.parametrize(
    ("change", "field", "value", "rule"),
    [
        ({"command": None}, "command", None, "exactly one"),
        ({"script": "x"}, "command", "['true']", "exactly one"),
        ({"command": None, "script": " \n"}, "script", " \n", "must not be empty"),
        ({"command": None, "script": "a\0b"}, "script", "a\0b", "NUL"),
        ({"command": None, "script": "x" * 131072}, "script", 131072, "at most 131071 bytes"),
        ({"command": []}, "command", "[]", "must name a program"),
        ({"command": [""]}, "command", "['']", "must name a program"),
        ({"command": ["x"] * 4097}, "command", 4097, "at most 4096 arguments"),
        ({"command": ["x", "a\0"]}, "command[1]", "a\0", "NUL"),
        ({"command": ["x", "é" * 65536]}, "command[1]", 131072, "at most 131071 bytes"),
        ({"command": ["x", "\ud800"]}, "command[1]", "'\\ud800'", "lone surrogate"),
        ({"name": ""}, "name", "", "1 to 255"),
        ({"name": "x" * 256}, "name", "x" * 200, "1 to 255"),
        ({"name": " x"}, "name", " x", "no space around"),
        ({"name": "a\tb"}, "name", "a\tb", "printable"),
        ({"name": "42"}, "name", "42", "must not be a number"),
        ({"env": {"": "x"}}, "env", "", "must not be empty"),
        ({"env": {"A=B": "x"}}, "env", "A=B", "must not be empty or contain"),
        ({"env": {"A": "\0"}}, "env.A", "A=\0", "NUL"),
        ({"env": {f"V{i}": "" for i in range(4097)}}, "env", 4097, "at most 4096"),
        ({"labels": {f"l{i}": "" for i in range(65)}}, "labels", 65, "at most 64"),
        ({"labels": {"a=b": "x"}}, "labels", "a=b", "must not contain `=`"),
        ({"labels": {"a": "x\ny"}}, "labels.a", "x\ny", "single line"),
        ({"labels": {"a": "x" * 1025}}, "labels.a", 1025, "at most 1024 bytes"),
        ({"cwd": "here"}, "cwd", "here", "absolute"),
        ({"cwd": "/" + "x" * 4096}, "cwd", 4097, "at most 4096 bytes"),
        ({"user": "a\nb"}, "user", "a\nb", "single line"),
        ({"group": "a\0b"}, "group", "a\0b", "NUL"),
        ({"umask": "9"}, "umask", "9", "octal"),
        ({"replicas": 0}, "replicas", 0, "between 1 and 10000"),
        ({"replicas": 10001}, "replicas", 10001, "between 1 and 10000"),
        ({"priority": -1_000_001}, "priority", -1_000_001, "between -"),
        ({"time_limit": 0}, "time_limit", 0.0, "between 0.001"),
        ({"time_limit": float("nan")}, "time_limit", "nan", "between"),
        ({"time_limit": "soon"}, "time_limit", "soon", "not a duration"),
        ({"lifecycle": "cron"}, "schedule", None, 'needed with lifecycle "cron"'),
        ({"schedule": {"cron": "@daily"}}, "schedule", "Schedule(", 'needed with lifecycle "cron"'),
        ({"lifecycle": "cron", "schedule": {"cron": "x" * 1001}}, "schedule.cron", 1001, "at most 1000"),
        ({"lifecycle": "cron", "schedule": {"cron": "x", "timezone": "a\nb"}}, "schedule.timezone", "a\nb", "single"),
        ({"after": ["x"] * 1001}, "after", 1001, "at most 1000"),
        ({"after": ["x", ""]}, "after[1]", "", "1 to 255"),
        ({"after": [{"job": " "}]}, "after[0]", " ", "no space around"),
        ({"stop": {"signal": "SIGNOPE"}}, "stop.signal", "SIGNOPE", "is no signal"),
        ({"stop": {"grace": 86401}}, "stop.grace", 86401.0, "between 0 and 86400"),
        ({"resources": {"nodes": -1}}, "resources.nodes", -1, "between 0"),
        ({"resources": {"tasks": 0}}, "resources.tasks", 0, "between 1"),
        ({"resources": {"cores_per_task": 100_001}}, "resources.cores_per_task", 100_001, "between 0"),
        ({"resources": {"gpus_per_task": -1}}, "resources.gpus_per_task", -1, "between 0"),
        ({"resources": {"memory": "-1"}}, "resources.memory", "-1", "not a size"),
        ({"restart": {"delay": -1}}, "restart.delay", -1.0, "between 0"),
        ({"restart": {"max_delay": "x"}}, "restart.max_delay", "x", "not a duration"),
        ({"restart": {"reset_after": -1}}, "restart.reset_after", -1.0, "between 0"),
        ({"restart": {"backoff": 0.5}}, "restart.backoff", 0.5, "between 1 and 1000"),
        ({"restart": {"max": -1}}, "restart.max", -1, "between 0"),
        ({"limits": {"nice": 20}}, "limits.nice", 20, "between -20 and 19"),
        ({"limits": {"cpus": 0}}, "limits.cpus", 0.0, "between 0.01"),
        ({"limits": {"open_files": 0}}, "limits.open_files", 0, "between 1"),
        ({"limits": {"core_size": -1}}, "limits.core_size", -1, "between 0"),
        # What types say.
        ({"replicas": "many"}, "replicas", "many", "Expected `int`"),
        ({"command": "true"}, "command", "true", "Expected `array"),
        ({"command": ["a", 1]}, "command[1]", 1, "Expected `str`"),
        ({"lifecycle": "never"}, "lifecycle", "never", "Invalid enum value"),
        ({"after": [{"job": "x", "condition": "y"}]}, "after[0].condition", "y", "Invalid enum value"),
        ({"comand": ["x"]}, "comand", "comand", "did you mean 'command'?"),
        ({"resources": {"cores": 1}}, "resources.cores", "cores", "unknown field"),
        ({"restart": {"polcy": "always"}}, "restart.polcy", "polcy", "did you mean 'policy'?"),
        ({"after": [{"jobs": "x"}]}, "after[0].jobs", "jobs", "did you mean 'job'?"),
        ({"zzz": 1}, "zzz", "zzz", "known fields: command, script"),
    ],
)
def test_each_refusal_names_field_value_and_rule(change: dict[str, Any], field: str, value: Any, rule: str) -> None:
    error = refusal({**OK, **change})
    assert error["field"] == field
    assert rule in error["rule"]
    if isinstance(value, str):
        assert str(error["value"]).startswith(value)
    else:
        assert error["value"] == value


@pytest.mark.parametrize("raw", [[], "x", None, 3])
def test_a_job_is_an_object(raw: Any) -> None:
    with pytest.raises(InvalidInput, match="a job is an object"):
        check.build_spec(raw)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b'{"command": ["a"],}', "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_not_json_is_refused(body: bytes, what: str) -> None:
    with pytest.raises(InvalidInput, match=what):
        check.decode_spec(body)


def test_quantities_may_be_numbers_or_words() -> None:
    words = {
        "command": ["x"],
        "time_limit": "1h30m",
        "restart": {"delay": "500ms", "max_delay": "2m", "reset_after": "1d"},
        "stop": {"grace": "3s"},
        "resources": {"memory": "2GiB"},
        "limits": {"file_size": "1k", "memory": "512M"},
    }
    numbers = {
        "command": ["x"],
        "time_limit": 5400,
        "restart": {"delay": 0.5, "max_delay": 120, "reset_after": 86400},
        "stop": {"grace": 3},
        "resources": {"memory": 2 << 30},
        "limits": {"file_size": 1024, "memory": 512 << 20},
    }
    spec = check.build_spec(words)
    assert spec == check.build_spec(numbers) == check.decode_spec(json.dumps(words).encode())
    assert spec == check.decode_spec(json.dumps(numbers).encode())
    assert words["time_limit"] == "1h30m", "what was given is left as it was"


def test_the_largest_values_are_taken() -> None:
    spec = JobSpec(
        command=["x"] * check.MAX_ARGS,
        name="n" * check.MAX_NAME,
        replicas=check.MAX_REPLICAS,
        priority=check.MAX_PRIORITY,
        time_limit=check.MAX_SECONDS,
        after=["x"] * check.MAX_AFTER,
        umask="0777",
        resources=Resources(memory=1 << 60),
    )
    assert check.check_spec(spec) is spec
    assert check.build_spec({"script": "echo\nhi"}).argv == ["/bin/sh", "-c", "echo\nhi", "sh"]
    cron = {**OK, "lifecycle": "cron", "schedule": {"cron": "@daily"}}
    assert check.build_spec(cron).lifecycle is Lifecycle.CRON


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
fields = st.sampled_from([*JobSpec.__struct_fields__, "unknown"])


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(raw=st.dictionaries(fields, values, max_size=4))
def test_whatever_is_given_is_taken_or_refused_with_its_reason(raw: dict[str, Any]) -> None:
    try:
        spec = check.build_spec({**OK, **raw})
    except InvalidInput as error:
        assert all(set(row) == {"field", "value", "rule"} and row["rule"] for row in error.fields["errors"])
        json.dumps(error.fields["errors"])
    else:
        assert check.check_spec(spec) is spec
