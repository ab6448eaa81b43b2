"""What `/k12ai/platform/stats` is asked, in all its forms, and the figures in K12AI's words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runyard.api.k12ai import stats
from runyard.api.k12ai.stats import Scope, read_query
from runyard.core.record import JobRecord
from runyard.model.check import build_spec
from runyard.model.job import Limits
from runyard.telemetry.container import Container
from runyard.telemetry.gpu import Gpu, GpuProcess, GpuSample
from runyard.telemetry.history import UsagePoint
from runyard.telemetry.host import Disk, HostSample, Memory
from runyard.training.reply import Refusal

ALL = {"cpus", "gpus", "disks", "containers"}
LATE = {"op": "query", "user": "u1", "service_uuid": "p42"}
LABELS = {
    "k12ai.service.name": "k12cv", "k12ai.service.op": "train.start",
    "k12ai.service.user": "u1", "k12ai.service.uuid": "p42",
}  # fmt: skip


@pytest.mark.parametrize(
    ("body", "sections"),
    [
        ({}, ALL),
        ({"query": {}}, ALL),
        ({"query": None}, ALL),
        ({"query": ""}, ALL),
        # What `query` leaves out is wanted, what `service_params` leaves out is not (spec 1.9).
        ({"query": {"disks": False}}, ALL - {"disks"}),
        ({"query": {"cpus": True, "gpus": True, "disks": False, "containers": True}}, ALL - {"disks"}),
        ({"query": {"services": True}}, ALL | {"services"}),
        ({"query": '{"gpus": false, "cpus": null}'}, ALL - {"gpus"}),
        ({**LATE, "service_params": {}}, ALL),
        ({**LATE, "service_params": {"cpus": True}}, {"cpus"}),
        ({**LATE, "service_params": '{"services": true}'}, {"services"}),
        ({**LATE, "service_params": {"cpus": False}}, set()),
        ({**LATE, "service_params": {"cpus": 1, "gpus": "true", "disks": 0, "containers": "False"}}, {"cpus", "gpus"}),
        ({"query": {"cpus": False}, "service_params": {"cpus": True}}, ALL - {"cpus"}),
        ({"query": {"unknown": 7}}, ALL),
    ],
)
def test_the_sections_that_are_asked_for(body: dict[str, Any], sections: set[str]) -> None:
    assert read_query(body, "k12ai").sections == sections


@pytest.mark.parametrize(
    ("body", "late", "later", "scope"),
    [
        ({}, False, False, Scope()),
        ({"username": "test", "password": "test", "async": True, "query": {}}, False, True, Scope()),
        ({"query": {}, "user": "u1", "service_uuid": "p42", "isasync": True}, False, True, Scope()),
        (LATE, True, False, Scope("u1", "p42")),
        ({**LATE, "service_uuid": "0"}, True, False, Scope("u1")),
        ({**LATE, "service_uuid": "*"}, True, False, Scope("u1")),
        ({"op": "query", "user": "u1"}, True, False, Scope("u1")),
        ({**LATE, "user": "*"}, True, False, Scope()),
        ({**LATE, "user": "all"}, True, False, Scope()),
        ({"op": "query", "service_params": {"cpus": True}, "isasync": 1, "async": False}, True, True, Scope()),
        ({"op": None, "async": None}, True, False, Scope()),
    ],
)
def test_both_forms_of_the_request(body: dict[str, Any], late: bool, later: bool, scope: Scope) -> None:
    query = read_query(body, "k12ai")
    assert (query.late, query.later, query.scope, query.app) == (late, later, scope, "k12ai")


def test_who_asks_is_the_user_else_the_username_else_admin() -> None:
    assert [read_query(body, "k12ai").user for body in ({"user": "a", "username": "b"}, {"username": "b"}, {})] == [
        "a", "b", "admin",
    ]  # fmt: skip
    query = read_query({"appId": "app", "token": {"any": 1}, "service_uuid": "p"}, "k12ai")
    assert (query.app, query.token, query.uuid) == ("app", {"any": 1}, "p")


@pytest.mark.parametrize(
    ("body", "code", "word"),
    [
        ({"op": "q"}, 100102, "op"),
        ({"op": ["query"]}, 100102, "op"),
        ({"op": "container.stop"}, 100102, "query"),
        ({"user": 7}, 100102, "user"),
        ({"username": []}, 100102, "username"),
        ({"user": "x" * 300}, 100102, "user"),
        ({"service_uuid": 5}, 100102, "service_uuid"),
        ({"query": 5}, 100102, "query"),
        ({"query": [1]}, 100102, "query"),
        ({"query": "{"}, 100101, "query"),
        ({"query": "[" * 5000}, 100101, "query"),
        ({"service_params": "[]", "op": "query"}, 100102, "service_params"),
        ({"query": {"cpus": "maybe"}}, 100102, "cpus"),
        ({"query": {"cpus": {}}}, 100102, "cpus"),
        ({"query": {"cpus": 2}}, 100102, "cpus"),
        ({"async": "later"}, 100102, "async"),
        ({"appId": "a,b"}, 100102, "appId"),
        ({"token": json.loads("[" * 33 + "]" * 33)}, 100102, "token"),
        ({"token": "x" * 70_000}, 100102, "token"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_the_name_of_its_key(body: dict[str, Any], code: int, word: str) -> None:
    with pytest.raises(Refusal) as refused:
        read_query(body, "k12ai")
    assert refused.value.code == code
    assert word in str(refused.value.data)


def test_a_scope_takes_exactly_its_own() -> None:
    assert Scope().takes({})
    assert Scope("u1").takes(LABELS) and Scope("u1", "p42").takes(LABELS)
    assert not Scope("u2").takes(LABELS) and not Scope("u1", "p4").takes(LABELS) and not Scope("u1").takes({})


# The answer -------------------------------------------------------------------------------------------------------


def job(**spec: Any) -> JobRecord:
    return JobRecord(
        id=99, spec=build_spec({"command": ["x"], **spec}), kind="batch", origin="k12ai", owner="ann",
        submitted_at=1.0, started_at=1.5,
    )  # fmt: skip


def test_the_host_in_the_words_of_the_document_and_of_its_successors() -> None:
    host = HostSample(
        cpu_percent=47.4, cpus=[63.6, 31.1], load=(0, 0, 0), memory_total=9, memory_used=9, disk_total=9, disk_free=9
    )
    assert stats.cpu_fields(host, Memory(25276510208, 1465008128, 23811502080, 5.8)) == {
        "cpu_percent": 47.4, "cpu_percent_list": [63.6, 31.1],
        "cpu_memory_total": 25276510208, "cpu_memory_usage": 1465008128, "cpu_memory_free": 23811502080,
        "cpu_memory_percent": 5.8, "cpu_memory_total_MB": 24105.559, "cpu_memory_usage_MB": 1397.141,
        "cpu_memory_free_MB": 22708.418,
    }  # fmt: skip
    gpu = Gpu(
        index=0, uuid="GPU-1", name="GPU-X", percent=22.0,
        memory_total=24032313344, memory_used=646971392, memory_free=23385341952,
    )  # fmt: skip
    assert stats.gpu_fields(gpu) == {
        "index": 0, "uuid": "GPU-1", "name": "GPU-X", "gpu_percent": 22.0,
        "gpu_memory_total": 24032313344, "gpu_memory_usage": 646971392, "gpu_memory_free": 23385341952,
        "gpu_memory_percent": 2.69, "gpu_memory_total_MB": 22919.0, "gpu_memory_usage_MB": 617.0,
        "gpu_memory_free_MB": 22302.0,
    }  # fmt: skip
    assert stats.disk_fields(Disk(path="/", total=10, used=4, percent=40.0)) == {
        "path": "/", "disk_total": 10, "disk_usage": 4, "disk_percent": 40.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("gpus", "shown"), [({}, {}), ({"gpus": []}, {"gpus": []}), ({"gpus": [1]}, {"gpus": 1}), ({"gpus": [1, 2]},) * 2]
)
def test_the_only_gpu_of_a_host_may_stand_for_the_list(gpus: dict[str, Any], shown: dict[str, Any]) -> None:
    assert stats.only_gpu(gpus) == shown


def test_a_container_with_what_its_processes_have_of_the_gpus() -> None:
    box = Container(
        id="0123456789ab" + "c" * 52, labels=LABELS, cpu_percent=116.66,
        memory_total=4143292416, memory_used=355155968, pid=7, started_at="2026-11-22T08:00:00Z", pids=[7, 8],
    )  # fmt: skip
    gpus = GpuSample([], [GpuProcess(pid=8, gpu=0, memory=646971392, percent=22.0, memory_percent=2.0)])
    expected = {
        "id": "0123456789ab", "op": "train.start", "user": "u1", "service_uuid": "p42", "cpu_percent": 116.66,
        "cpu_memory_total": 4143292416, "cpu_memory_usage": 355155968, "cpu_memory_percent": 8.57,
        "cpu_memory_total_MB": 3951.352, "cpu_memory_usage_MB": 338.703,
        "gpu_percent": 22.0, "gpu_memory_percent": 2.0, "gpu_memory_usage": 646971392, "gpu_memory_usage_MB": 617.0,
    }  # fmt: skip
    assert stats.container_fields(box, gpus) == expected
    # A task that is a plain process looks the same.
    point = UsagePoint(
        at=0, cpu_percent=116.66, cpu_seconds=1, memory=355155968, io_read=0, io_write=0, processes=2,
        gpu_percent=22.0, gpu_memory=646971392, gpu_memory_percent=2.0,
    )  # fmt: skip
    task = job(labels=LABELS)
    load = stats.job_fields(task, point, 4143292416)
    assert load == expected | {"id": stats.job_container(99)}
    assert stats.container_service(box, gpus) == {
        "id": "0123456789ab", "name": "k12cv", "op": "train.start", "user": "u1", "service_uuid": "p42",
        "service_pid": 7, "service_starttime": "2026-11-22T08:00:00Z", "service_gpu_memory_usage_MB": 617.0,
    }  # fmt: skip
    assert stats.job_service(task, 55, 0)["service_starttime"] == "1970-01-01T00:00:01.500000Z"


def test_a_job_of_another_door_is_its_owners_and_has_its_limit_and_nothing_yet() -> None:
    record = job(name="web")
    record.spec = build_spec({"command": ["x"], "name": "web", "limits": {"memory": 1 << 20}})
    assert record.spec.limits == Limits(memory=1 << 20)
    load = stats.job_fields(record, None, 1 << 30)
    assert (load["op"], load["user"], load["service_uuid"]) == ("", "ann", "web")
    assert (load["cpu_memory_total"], load["cpu_memory_usage"], load["cpu_memory_percent"]) == (1 << 20, 0, 0.0)
    assert len(load["id"]) == 12 and int(load["id"], 16) >= 0
    assert load["id"] == stats.job_container(99) != stats.job_container(98)
