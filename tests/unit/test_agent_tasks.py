"""Who gets what in a run of several tasks, what its launch says, and what its starter tells."""

from __future__ import annotations

from typing import Any

import pytest

from runyard.agent.child import Account, Guise
from runyard.agent.tasks import Order, Report, decode_order, layout
from runyard.core.commands import StartRun
from runyard.core.record import JobRecord, Replica
from runyard.model.ids import RunKey, f58
from runyard.model.job import JobSpec, Resources, Stop
from runyard.model.node import Share
from runyard.model.secrets import is_secret
from runyard.model.wire import Launch, Place, Tasks, decode_to_agent, encode_frame
from runyard.service.launch import launch_message


def test_ranks_count_through_the_nodes_and_parts_are_equal() -> None:
    tasks = list(layout([(2, [0, 1, 2, 3], [0, 1]), (1, [8, 9], None)]))
    assert [(t.rank, t.local_id, t.node_rank) for t in tasks] == [(0, 0, 0), (1, 1, 0), (2, 0, 1)]
    assert [t.cores for t in tasks] == [[0, 1], [2, 3], [8, 9]]
    assert [t.gpus for t in tasks] == [[0], [1], None]
    assert tasks[1].env == {
        "RUNYARD_TASK_RANK": "1", "RUNYARD_TASK_LOCAL_ID": "1", "RUNYARD_NODE_RANK": "0", "RUNYARD_CORES": "2,3",
        "FLUX_TASK_RANK": "1", "FLUX_TASK_LOCAL_ID": "1", "CUDA_VISIBLE_DEVICES": "1",
    }  # fmt: skip
    assert "CUDA_VISIBLE_DEVICES" not in tasks[2].env


def test_fewer_cores_than_tasks_are_shared_and_no_gpu_is_no_gpu() -> None:
    tasks = list(layout([(3, [4, 5], [])]))
    assert [t.cores for t in tasks] == [[4, 5]] * 3
    assert {t.env["CUDA_VISIBLE_DEVICES"] for t in tasks} == {""}
    assert [t.cores for t in layout([(2, None, None)])] == [None, None]
    assert list(layout([(0, [1], None)])) == []


def test_an_order_survives_its_pipe() -> None:
    account = Account(1, 2, [2, 3], {"HOME": "/h"})
    guise = Guise(["prog", "ä"], {"A": "\udcff"}, "/", 0o22, (64, 128), [0], 5, {"nofile": 7}, account)
    order = Order(guise, "u", None, "/cg", "/out", 15, 2.5, 30.0, [(2, [0, 1], None)])
    back = decode_order(order.encode())
    assert back.guise == guise and back._replace(guise=guise, places=order.places) == order
    assert list(layout(back.places))[1].cores == [1]


def test_a_report_comes_in_pieces() -> None:
    report = Report()
    report.feed(b'{"up": tr')
    assert not report.up
    report.feed(b'ue}\n{"reason": "r", "max_rss": 3}\n')
    assert (report.up, report.failed, report.reason, report.max_rss) == (True, None, "r", 3)
    with pytest.raises(ValueError):
        report.feed(b"nonsense\n")


def start(shares: list[Share], spec: dict[str, Any], **resources: Any) -> Launch:
    job = JobSpec(command=["prog"], resources=Resources(**resources), **spec)
    record = JobRecord(
        id=77, spec=job, kind="batch", origin="native", owner="me", submitted_at=0.0, replicas=[Replica()]
    )
    return launch_message(StartRun(RunKey(77, 0, 1), record, shares), lambda run: ("/o", "/e"))


def test_a_launch_of_several_tasks() -> None:
    shares = [Share("a", [0, 1], [3, 4], 0, tasks=2), Share("b", [5, 6], [0, 1], 0, tasks=2)]
    launch = start(shares, {"stop": Stop(after_failure=2.0)}, nodes=2, tasks=3, cores_per_task=1, gpus_per_task=1)
    assert launch.tasks == Tasks([Place(2, [0, 1], [3, 4]), Place(1, [5, 6], [0, 1])], 2.0)
    assert {name: launch.env[name] for name in launch.env if "TASK" in name or "NODE" in name or "FLUX" in name} == {
        "RUNYARD_TASKS": "3", "RUNYARD_NODES": "a,b",
        "FLUX_JOB_ID": f58(77), "FLUX_JOB_SIZE": "3", "FLUX_JOB_NNODES": "2",
    }  # fmt: skip
    frame = encode_frame([launch])
    assert decode_to_agent(frame[4:]) == [launch]
    own = start(shares[:1], {"env": {"CUDA_VISIBLE_DEVICES": "9"}}, tasks=2, gpus_per_task=1)
    assert own.tasks == Tasks([Place(2, [0, 1], None)], 30.0) and own.env["CUDA_VISIBLE_DEVICES"] == "9"


def test_one_task_is_one_process_as_ever() -> None:
    launch = start([Share("a", [], [], 0)], {})
    assert launch.tasks is None and launch.env == {"RUNYARD_REPORT": "/o.rep"}
    whole = start([Share("a", [0, 1, 2], [], 0, exclusive=True, tasks=2)], {}, tasks=2, exclusive=True)
    assert whole.tasks == Tasks([Place(2, [0, 1, 2], None)], 30.0)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("FLUX_TOKEN", True), ("FLUX_SECRET_KEY", True), ("FLUX_USER", True), ("RUNYARD_TOKEN", True),
        ("RUNYARD_STORE__URL", True), ("RUNYARD_DOORS__FLUX__PORT", True), ("RUNYARD_URL", False), ("MY__VAR", False),
        ("FLUX_URI", False),
    ],
)  # fmt: skip
def test_what_stays_with_the_server(name: str, kept: bool) -> None:
    assert is_secret(name) is kept
