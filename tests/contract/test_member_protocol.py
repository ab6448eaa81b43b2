"""One suite that every member satisfies: the tests' own, a wrapped program, a Python function, a Python class."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.manager import FakeManager
from tests.system.member_rig import USER, Rig, call, rig, spell

FORMS = ("path", "query", "hybrid")


@pytest.fixture(scope="module", params=["fake", "program", "function", "class"])
def member(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with FakeManager() as manager, rig(request.param, tmp_path_factory.mktemp("member"), manager.url) as made:
        yield made


@pytest.mark.parametrize("form", FORMS)
def test_a_task_runs_to_its_end_and_can_be_started_again(member: Rig, form: str) -> None:
    project = f"run-{form}"
    assert member.say("status_request", project, form=form) == "ready"
    for good in (True, False):
        assert member.say("start", project, form=form) == "starting"
        member.until(project, "running")
        # A second start is refused, and the task goes on.
        assert member.say("start", project, form=form) == "error"
        assert member.say("status_request", project, form=form) == "running"
        # Whether it is ready is asked without ids, and has nothing to do with its tasks.
        assert member.say("status_request", form=form) == "ready"
        member.end(project, good)
        member.until(project, "completed" if good else "failed")
        assert member.say("stop", project, form=form) == "finished"
        assert member.say("status_request", project, form=form) == ("completed" if good else "failed")
        member.again(project)


@pytest.mark.parametrize("form", FORMS)
def test_a_task_is_stopped(member: Rig, form: str) -> None:
    project = f"stop-{form}"
    assert member.say("stop", project, form=form) == "error", "it never saw this project"
    assert member.say("start", project, form=form) == "starting"
    # At once: most likely it has not even begun.
    assert member.say("stop", project, form=form) == "finished"
    member.until(project, "stopped")
    assert member.say("stop", project, form=form) == "finished"
    assert member.say("start", project, form=form) == "starting"
    member.until(project, "running")
    assert member.say("stop", project, form=form) == "finished"
    member.until(project, "stopped")


@pytest.mark.parametrize(
    "query",
    [
        "user_id=&project_id=",
        "user_id=%22%22&project_id=%22%22",
        "user_id=&project_id=&",
        "",
        "project_id=null&&user_id=None&v_suffix=2",
    ],
)
@pytest.mark.parametrize("form", ["/status_request?{}", "/?status_request&{}", "/status_request/?{}"])
def test_readiness_is_asked_in_many_spellings(member: Rig, form: str, query: str) -> None:
    assert call(member.url, form.format(query)) == (200, "ready")


@pytest.mark.parametrize("ids", [("", "7"), (USER, ""), ("", "")])
def test_a_start_without_ids_is_an_error(member: Rig, ids: tuple[str, str]) -> None:
    assert call(member.url, spell("start", *ids)) == (200, "error")


def test_parameters_are_read_by_name_and_the_first_counts(member: Rig) -> None:
    target = f"/start?project_id=named&userid={USER}&user_id=other&project_id=second"
    assert call(member.url, target, **{"Content-Type": "text/plain", "Accept": "text/html"}) == (200, "starting")
    member.until("named", "running")
    assert member.say("status_request", "second") == "ready"
    assert member.say("stop", "named") == "finished"
    member.until("named", "stopped")


def test_there_are_no_other_paths(member: Rig) -> None:
    assert call(member.url, f"/resume?user_id={USER}&project_id=7")[0] == 404
    assert call(member.url, "/start/now")[0] == 404
