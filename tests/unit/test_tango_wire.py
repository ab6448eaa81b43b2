"""The protocol's words: every row of the tables in spec/tango.md 1.2 to 1.7."""

from __future__ import annotations

import pytest

from runyard.api.tango.address import report_path
from runyard.project.container import canonical, deploy_container
from runyard.project.update import numbers_of, read_update
from runyard.project.wire import (
    MANAGER_OPERATIONS,
    MEMBER_OPERATIONS,
    START,
    STATUS_REQUEST,
    STOP,
    BadReport,
    Kind,
    MemberState,
    UrlStyle,
    bare,
    identities,
    is_whole,
    read_reply,
    read_report,
    read_target,
    target_of,
)

READY, STARTED, RUNNING = MemberState.READY, MemberState.STARTED, MemberState.RUNNING
STOPPED, FAILED, COMPLETED = MemberState.STOPPED, MemberState.FAILED, MemberState.COMPLETED


@pytest.mark.parametrize(
    ("operation", "status", "body", "kind", "state"),
    [
        # The test vectors.
        (START, 200, b"starting", Kind.YES, None),
        (START, 200, b'"starting"', Kind.YES, None),
        (START, 200, b'\xef\xbb\xbf"started"\r\n', Kind.YES, None),
        (START, 200, b"Error\nTraceback ...", Kind.NO, None),
        (START, 200, b'{"status_code":400,"detail":"failed","headers":null}', Kind.NO, None),
        (START, 200, b"", Kind.EMPTY, None),
        (START, 200, b'""', Kind.EMPTY, None),
        # What a framework says for a call that was done: nothing may be started anew.
        (START, 200, b"null", Kind.GARBLED, None),
        (START, 202, b"", Kind.GARBLED, None),
        (START, 204, b"", Kind.GARBLED, None),
        (STOP, 200, b'"finished"', Kind.YES, None),
        (STOP, 200, b"null", Kind.EMPTY, None),
        (STATUS_REQUEST, 204, b"", Kind.STATE, READY),
        (STATUS_REQUEST, 208, b'"completed"', Kind.STATE, COMPLETED),
        (STATUS_REQUEST, 410, b'"failed"', Kind.STATE, FAILED),
        (STATUS_REQUEST, 404, b'{"detail":"Service not found"}', Kind.STATE, READY),
        (START, 404, b'{"detail":"Service not found"}', Kind.NO, None),
        (STOP, 404, b'{"detail":"Service not found"}', Kind.NO, None),
        *(
            (operation, 404, b'{"detail":"Not Found"}', Kind.NO_OPERATION, None)
            for operation in sorted(MEMBER_OPERATIONS)
        ),
        *((operation, 404, b"<!DOCTYPE html>...", Kind.NO_OPERATION, None) for operation in sorted(MEMBER_OPERATIONS)),
        (START, 404, b"", Kind.NO_OPERATION, None),
        # The map of tokens.
        *((START, 200, token, Kind.YES, None) for token in (b"starting", b"started", b"running", b"success", b"OK")),
        (START, 200, b"resumed", Kind.YES, None),
        *((START, 200, token, Kind.NO, None) for token in (b"error", b"failed", b"fail")),
        *((STOP, 200, token, Kind.YES, None) for token in (b"finished", b"stopped", b"stopping", b"success", b"ok")),
        (STOP, 200, b"completed", Kind.YES, None),
        *((STOP, 200, token, Kind.NO, None) for token in (b"error", b"failed")),
        *((STATUS_REQUEST, 200, state.encode(), Kind.STATE, state) for state in MemberState),
        (STATUS_REQUEST, 200, b"starting", Kind.STATE, STARTED),
        (STATUS_REQUEST, 200, b"finished", Kind.STATE, COMPLETED),
        *(
            (STATUS_REQUEST, 200, token, Kind.STATE, RUNNING)
            for token in (b"stopping", b"resumed", b"building", b"preparing")
        ),
        (STATUS_REQUEST, 200, b"paused", Kind.STATE, STOPPED),
        *((STATUS_REQUEST, 200, token, Kind.GARBLED, None) for token in (b"unknown", b"error", b"x" * 51, b"<html>")),
        # The codes.
        (START, 400, b'{"detail":"Service already running"}', Kind.NO, None),
        (START, 400, b"started", Kind.NO, None),
        (STATUS_REQUEST, 400, b"failed", Kind.STATE, FAILED),
        (STATUS_REQUEST, 400, b"?", Kind.GARBLED, None),
        (START, 406, b'"failed"', Kind.NO, None),
        (START, 422, b'{"detail":[{"loc":["query"]}]}', Kind.NO, None),
        *((operation, 500, b"<html>", Kind.CRASHED, None) for operation in sorted(MEMBER_OPERATIONS)),
        # Quoting styles, and what is no reply.
        (STATUS_REQUEST, 200, b"'running'\n", Kind.STATE, RUNNING),
        (STATUS_REQUEST, 200, b'{"status":"running"}', Kind.STATE, RUNNING),
        (STATUS_REQUEST, 200, b'{"state":"completed","detail":"x"}', Kind.STATE, COMPLETED),
        (START, 200, b"{broken", Kind.GARBLED, None),
        (START, 200, b"[" * 5000, Kind.GARBLED, None),
        (START, 200, b'{"a":' * 3000, Kind.GARBLED, None),
        (STATUS_REQUEST, 200, b"\xff\xfe\x00", Kind.GARBLED, None),
        (STATUS_REQUEST, 200, b"", Kind.EMPTY, None),
    ],
)
def test_replies(operation: str, status: int, body: bytes, kind: Kind, state: MemberState | None) -> None:
    reply = read_reply(operation, status, body)
    assert (reply.kind, reply.state) == (kind, state)
    assert len(reply.text) < 80 and reply.text.isprintable()


def test_a_start_that_is_refused_because_it_runs_already_says_so() -> None:
    assert read_reply(START, 406, b"failed").already
    assert not read_reply(START, 400, b"failed").already


def test_a_reply_that_is_whole_need_not_be_waited_for() -> None:
    assert all(is_whole(body) for body in (b"starting", b'"started"', b"error"))
    assert not any(is_whole(body) for body in (b"", b"start", b"<html>", b"x" * 100))


# Addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/start", "user_id=u&project_id=7"),
        ("/start/", "user_id=u&project_id=7&"),
        ("/", "start&user_id=u&project_id=7&"),
        ("/", "start=&user_id=u&project_id=7"),
        ("/", "start?user_id=u&project_id=7"),
        ("/", "user_id=u&&project_id=7&start"),
        ("/start", "project_id=7&user_id=u&run_id=9"),
        ("/start", "userid=u&projectid=7"),
        ("/start", "user_id=u&user_id=other&project_id=7"),
        ("/start", "user_id=%75&project_id=%37"),
        ("/start", "stop&user_id=u&project_id=7"),
    ],
)
def test_every_spelling_of_a_call_is_understood(path: str, query: str) -> None:
    operation, given = read_target(path, query, MEMBER_OPERATIONS)
    assert operation == "start"
    assert (given["user_id"], given["project_id"]) == ("u", "7")


@pytest.mark.parametrize("query", ["", "user_id=u", "starts", "&&&", "=start", "start=1"])
def test_what_names_no_operation_is_none(query: str) -> None:
    assert read_target("/", query, MEMBER_OPERATIONS)[0] is None
    assert read_target("/other", "start&" + query, MEMBER_OPERATIONS)[0] is None


@pytest.mark.parametrize("text", ["", '""', "''", " ", "None", "null", "undefined", '"null"'])
def test_empty_ids(text: str) -> None:
    assert bare(text) == ""


def test_calls_are_sent_with_the_user_first() -> None:
    assert target_of(START, identities("a b", "7"), UrlStyle.PATH) == "/start?user_id=a%20b&project_id=7"
    assert target_of(STOP, identities("u", "7") | {"run": "1"}, UrlStyle.QUERY) == "/?stop&user_id=u&project_id=7&run=1"
    assert target_of(STATUS_REQUEST, identities("", ""), UrlStyle.PATH) == "/status_request?user_id=&project_id="


@pytest.mark.parametrize(
    ("path", "query", "route"),
    [
        ("/status_report", b"container_id=bms", "/status_report"),
        ("/status_report/", b"", "/status_report"),
        ("/", b"status_report&container_id=bms", "/status_report"),
        ("/", b"status_report=&container_id=bms", "/status_report"),
        ("/", b"status_report?container_id=bms", "/status_report"),
        ("/status_update", b"", "/status_update"),
        ("/", b"status_update&x=1", "/status_update"),
        ("/", b"", None),
        ("/", b"status_reporter=1", None),
        ("/api/v1/jobs", b"status_report", None),
        ("/start", b"", None),
    ],
)
def test_only_reports_are_reports(path: str, query: bytes, route: str | None) -> None:
    assert report_path(path, query) == route


# Reports ----------------------------------------------------------------------------------------------------------

FULL = {"container_id": "bms", "user_id": "u", "project_id": "7", "status": "success"}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, COMPLETED),
        ({"status": "'success'"}, COMPLETED),
        ({"status": '"completed"'}, COMPLETED),
        ({"status": "Failed"}, FAILED),
        ({"status": "error"}, FAILED),
        ({"status": "stopped"}, STOPPED),
        ({"status": "started"}, STARTED),
        ({"status": "running"}, RUNNING),
        ({"status": "resumed"}, RUNNING),
        ({"status": "stopping"}, None),
        ({"status": "", "result": "success"}, COMPLETED),
        ({"status": "failed", "result": "success"}, FAILED),
    ],
)
def test_reports(change: dict[str, str], status: MemberState | None) -> None:
    assert read_report(FULL | change).status == status


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"container_id": ""}, "container_id"),
        ({"user_id": '""'}, "user_id"),
        ({"project_id": "undefined"}, "project_id"),
        ({"status": ""}, "status"),
        ({"status": "well"}, "status"),
        ({"user_id": "x" * 300}, "user_id"),
    ],
)
def test_reports_that_say_too_little_are_refused(change: dict[str, str], what: str) -> None:
    with pytest.raises(BadReport, match=what):
        read_report(FULL | change)


def test_a_report_is_read_from_its_address() -> None:
    query = "status_report&container_id=%27bms%27&user_id=%22u%22&project_id=7&status=success&extra=1&"
    report = read_report(read_target("/", query, MANAGER_OPERATIONS)[1])
    assert (report.container, report.user, report.project, report.status) == ("bms", "u", "7", COMPLETED)


@pytest.mark.parametrize(
    ("name", "target", "id"),
    [
        *((name, "", "vis2code") for name in ("vis2code", "viz2code", "visualization")),
        *((name, "", "code_gen") for name in ("codeGen", "codegen", "CODE_GEN", "deploy_codegen")),
        *((name, "", "autonn_resnet") for name in ("autonn-resnet", "autonn_resnet")),
        ("labeling", "", "labelling"),
        ("autonn_bb", "", "backbone_nas"),
        ("autonn_nk", "", "neck_nas"),
        ("kube_deploy", "", "k8s_deploy"),
        ("imagedeploy", "GCP", "cloud_deploy"),
        ("imagedeploy", "k8s_jetson_nano", "k8s_deploy"),
        ("imagedeploy", "galaxy_s22", "ondevice_deploy"),
        ("other", "", None),
    ],
)
def test_aliases(name: str, target: str, id: str | None) -> None:
    assert canonical(name, target) == id


@pytest.mark.parametrize("target", ["pc", "PC_Web", "jetson_agx_orin", "odroid_n2", "ondevice", "anything"])
def test_what_is_no_cloud_is_a_device(target: str) -> None:
    assert deploy_container(target) == "ondevice_deploy"


# Telemetry --------------------------------------------------------------------------------------------------------


def test_updates_have_only_numbers_that_browsers_know() -> None:
    text = '{"box": Infinity, "obj": -Infinity, "cls": NaN, "deep": [1e999], "class": 3, "mAP50-95": 0.5, '
    text += '"n": 123456789012345678}'
    kind, content = read_update({"update_id": "finetue_loss", "update_content": text})
    assert kind == "finetune_loss"
    assert content == {
        "box": None,
        "obj": None,
        "cls": None,
        "deep": [None],
        "class_type": 3,
        "mAP50_95": 0.5,
        "n": "123456789012345678",
    }
    assert read_update({"update_id": "x", "update_content": {"a": float("inf")}}) == ("x", {"a": None})
    assert read_update({"update_id": "x"}) == ("x", {})
    # Keys as well are text that can be stored and sent.
    text = '{"\\ud800": {"\\udfff": 1}}'
    assert read_update({"update_id": "x", "update_content": text}) == ("x", {"?": {"?": 1}})
    assert read_update({"update_id": "x", "update_content": "[1]"}) == ("x", {"value": [1]})


def test_the_numbers_of_an_update_are_points_of_curves() -> None:
    content = {"epoch": 3, "box": 0.5, "cls": None, "done": True, "name": "x", "\n": 1, "k" * 101: 1}
    body = {"values": {"autonn.train_loss.epoch": 3, "autonn.train_loss.box": 0.5}, "step": 3}
    assert numbers_of("autonn", "train_loss", content) == body
    assert numbers_of("autonn", "x", {"a": 1, "epoch": "2"}) == {"values": {"autonn.x.a": 1}}
    assert numbers_of("autonn", "system", {"torch": "2"}) is None


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"update_id": ""},
        {"update_id": "x" * 65},
        {"update_id": "x", "update_content": "{"},
        {"update_id": "x", "update_content": "x" * 70_000},
        {"update_id": "x", "update_content": {"a": list(range(2000))}},
        {"update_id": "x", "update_content": '{"a":' * 20_000},
    ],
)
def test_updates_that_can_not_be_read_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(BadReport):
        read_update(dict(values))


def test_an_update_with_half_a_surrogate_pair_can_be_stored() -> None:
    content = r'{"a\ud800": 1, "b": {"c\udfff": "\ud800"}}'
    assert read_update({"update_id": "x", "update_content": content}) == ("x", {"a?": 1, "b": {"c?": "?"}})
