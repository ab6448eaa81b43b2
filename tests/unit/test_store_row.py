"""How specifications and records lie in rows; and the pure part of retention."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.model.ids import RunKey
from runyard.model.job import Dependency, JobSpec, Limits, Resources, Restart, RestartPolicy, Stop
from runyard.model.state import BY_CODE, CODE, State
from runyard.store import row
from runyard.store.retention import surplus_runs

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
specs = st.builds(
    JobSpec,
    command=st.none() | st.lists(texts, max_size=3),
    script=st.none() | texts,
    name=st.none() | texts,
    env=st.dictionaries(texts, texts, max_size=2),
    umask=st.none() | st.just("022"),
    replicas=st.integers(1, 5),
    restart=st.none() | st.builds(Restart, policy=st.sampled_from(RestartPolicy), max=st.none() | st.integers(0, 9)),
    after=st.lists(texts | st.builds(Dependency, job=texts), max_size=2),
    resources=st.builds(Resources, nodes=st.integers(0, 4), memory=st.integers(0, 1 << 50)),
    time_limit=st.none() | st.floats(0, 1e9),
    stop=st.builds(Stop, grace=st.floats(0, 1e5)),
    priority=st.integers(-(1 << 40), 1 << 40),
    hold=st.booleans(),
    labels=st.dictionaries(texts, texts, max_size=2),
    limits=st.builds(Limits, nice=st.none() | st.integers(-20, 19), cpus=st.none() | st.floats(0.1, 64)),
    executor=st.sampled_from(["local", "slurm"]),
)


@given(specs)
def test_a_specification_comes_back_as_it_was(spec: JobSpec) -> None:
    stored = row.encode_spec(spec)
    assert msgspec.json.decode(stored, type=JobSpec) == spec
    assert row.labels_of(stored) == spec.labels


def test_what_is_at_its_default_takes_no_room() -> None:
    assert row.encode_spec(JobSpec(command=["true"])) == b'{"command":["true"]}'


def test_the_defaults_that_stored_jobs_rely_on_have_not_changed() -> None:
    # Stored specifications leave out what is at its default. If this fails, either undo the change of the default, or
    # write a migration that puts the old value into the specifications that lack one, and only then change this text.
    assert msgspec.json.encode(JobSpec()).decode() == (
        '{"command":null,"script":null,"flow":null,"name":null,"env":{},"cwd":null,"user":null,"group":null,"umask":null,'
        '"replicas":1,"lifecycle":"once","schedule":null,"restart":null,"after":[],"resources":{"nodes":0,"tasks":1,'
        '"cores_per_task":0,"gpus_per_task":0,"memory":0,"exclusive":false},"time_limit":null,"stop":{"signal":'
        '"SIGTERM","grace":10.0,"after_failure":30.0},"priority":0,"hold":false,"labels":{},"limits":{"cpu_time":null,"file_size":null,'
        '"open_files":null,"processes":null,"address_space":null,"core_size":null,"stack":null,"nice":null,'
        '"memory":null,"cpus":null},"output":{"merge":false,"max_size":null},"report":{"lines":true,'
        '"rules":[],"tensorboard":null},"executor":"local"}'
    )


def test_the_numbers_of_the_states_have_not_changed() -> None:
    # They are on people's disks.
    assert {code: str(state) for code, state in BY_CODE.items()} == {
        0: "pending",
        1: "starting",
        2: "running",
        3: "stopping",
        4: "succeeded",
        5: "failed",
        6: "cancelled",
        7: "timed_out",
    }
    assert set(CODE) == set(State)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (JobSpec(command=["echo", "a b"]), "echo a b"),
        (JobSpec(script="set -e\nmake"), "set -e\nmake"),
        (JobSpec(script="x" * 5000), "x" * row.COMMAND_TEXT),
    ],
)
def test_the_text_to_search_in(spec: JobSpec, text: str) -> None:
    assert row.command_text(spec) == text


@given(st.sets(st.tuples(st.integers(0, 3), st.integers(1, 9))), st.integers(0, 12))
def test_surplus_runs_are_the_oldest_and_never_a_replicas_last(runs: set[tuple[int, int]], most: int) -> None:
    keys = [RunKey(1, replica, attempt) for replica, attempt in runs]
    surplus = set(surplus_runs(keys, most))
    last = {max(key for key in keys if key.replica == replica) for replica in {key.replica for key in keys}}
    assert not surplus & last
    left = [key for key in keys if key not in surplus]
    assert len(left) <= max(most, 0) + len(last)
    assert len(left) >= min(most, len(keys))
    for gone in surplus:
        newer = [key for key in keys if (key.attempt, key.replica) > (gone.attempt, gone.replica)]
        assert len(newer) >= most
