"""The ModelBox door of a running server (spec/modelbox.md, 1 and 3)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from runyard.client import Client
from runyard.model.errors import InvalidInput, NotFound
from tests.helpers import free_port, wait_until
from tests.system.modelbox import EXAMPLE, IDLE, PATH, SAFE_HEADERS, Door, code, graph, toml, unit
from tests.system.server import LOOPBACK, Server, alive, ask_until


@pytest.fixture(scope="module")
def door(server: Server) -> Iterator[Door]:
    with Door(server) as door:
        yield door


def test_the_example_of_the_document_with_curl(server: Server, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "flow-example").write_text(EXAMPLE.replace("54321", str(port)))
    url = server.url + PATH

    def curl(*arguments: str) -> str:
        command = ["curl", "-sS", "-m", "60", "-w", "|%{http_code}", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert curl("-X", "PUT", "--data", "@flow-example", url) == "|201"
    assert curl(f"{url}/flow-example") == '{"job_id":"flow-example","job_status":"RUNNING","job_error_msg":""}|200'
    assert curl("--data", "hello", f"http://localhost:{port}/example") == "hello|200"
    assert '{"job_id":"flow-example","job_status":"RUNNING","job_error_msg":""}' in curl(f"{url}/list/all")
    assert curl("-X", "DELETE", f"{url}/flow-example") == "|204"
    assert curl(f"{url}/flow-example") == (
        '{"error_code":"MODELBOX_002","error_msg":"request invalid, no such job"}|404'
    )
    with pytest.raises(httpx2.ConnectError):
        httpx2.post(f"http://{LOOPBACK}:{port}/example", content=b"x")


@pytest.mark.parametrize(
    ("method", "path", "status", "number"),
    [
        ("GET", "", 404, "002"),
        ("GET", "/", 404, "002"),
        ("GET", "/none", 404, "002"),
        ("GET", "/none/", 404, "002"),
        ("GET", "/list", 404, "002"),
        ("GET", "/list/foo", 500, "006"),
        ("GET", "/a/b", 500, "006"),
        ("GET", "/a/b/c/", 500, "006"),
        ("GET", "/%2e%2e%2fetc", 500, "006"),
        ("GET", "/..%00", 404, "002"),
        ("DELETE", "", 404, "002"),
        ("DELETE", "/", 404, "002"),
        ("DELETE", "/none", 404, "002"),
        ("DELETE", "/list/none", 404, "002"),
        ("DELETE", "/a/b/none", 404, "002"),
        ("PUT", "", 400, "006"),
        ("POST", "/", 400, "006"),
        ("PUT", "/below/it", 400, "006"),
        ("PATCH", "", 404, ""),
        ("OPTIONS", "", 404, ""),
        ("HEAD", "/none", 404, ""),
        ("PATCH", "/none", 404, ""),
    ],
)
def test_routes(door: Door, method: str, path: str, status: int, number: str) -> None:
    answer = door.http.request(method, PATH + path)
    assert answer.status_code == status
    assert all(name in answer.headers for name in SAFE_HEADERS)
    assert not any(name.startswith("access-control-") for name in answer.headers)
    if number:
        assert code(answer) == (status, number)
        assert answer.headers["content-type"] == "application/json"
    else:
        assert answer.content == b""


@pytest.mark.parametrize(
    ("body", "number"),
    [
        ("{", "006"),
        ("{}", "003"),
        ('{"job_id": "ab"}', "004"),
        ('{"job_id": "a", "job_graph": {}}', "007"),
        ('{"job_id": "../x", "job_graph": {}}', "007"),
        ('{"job_id": "ab", "job_graph": {}, "job_graph_format": "yaml"}', "006"),
        ('{"job_id": "ab", "job_graph": {}, "job_graph_format": "toml"}', "001"),
        ('{"job_id": "ab", "job_graph": 7}', "008"),
        ('{"job_id": "ab", "job_graph": "' + "#" * (5 << 20) + '"}', "008"),
    ],
)
def test_what_is_refused_leaves_nothing(door: Door, body: str, number: str) -> None:
    assert code(door.http.put(PATH, content=body)) == (400, number)
    assert code(door.get("ab")) == (404, "002")


def test_bodies_have_a_bound_and_foreign_pages_are_kept_out_in_this_doors_shape(door: Door) -> None:
    answer = door.http.put(PATH, content=b" " * (9 << 20))
    assert code(answer) == (413, "006")
    assert all(name in answer.headers for name in SAFE_HEADERS)
    assert code(door.http.put(PATH, content=b"{}", headers={"Origin": "http://evil.example"})) == (403, "006")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert code(door.http.post(PATH + "/", content=b'{"job_id": "ab"}', headers=form)) == (400, "004")


def test_a_graph_that_can_not_run_stays_as_failed(door: Door) -> None:
    bad = graph("digraph { a[flowunit=no_such_unit]; b[flowunit=base64_decoder]; a:x -> b:in_data }")
    answer = door.put("bad-one", bad)
    assert code(answer) == (400, "008")
    message = answer.json()["error_msg"]
    assert message.startswith("request invalid, job config is invalid., ")
    assert "no_such_unit" in message
    shown = door.get("bad-one").json()
    assert shown["job_status"] == "FAILED"
    assert message.endswith(shown["job_error_msg"])
    assert code(door.put("bad-one", graph())) == (400, "005")
    assert door.list()["bad-one"] == shown
    assert door.delete("bad-one") == 204
    assert door.delete("bad-one") == 404
    door.create("bad-one", graph())
    assert door.delete("list/bad-one") == 204


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, ""),
        ({"graph": {"graphconf": "digraph{}"}}, "graph.format is empty"),
        (graph("digraph {"), ""),
        ("no toml", ""),
        ("", "Flow not initialized."),
    ],
    ids=["empty", "no format", "broken dot", "broken toml", "blank"],
)
def test_documents_that_are_none_fail_with_their_reason(
    door: Door, request: pytest.FixtureRequest, given: object, says: str
) -> None:
    id = "no-" + request.node.callspec.id.replace(" ", "-")
    answer = door.put(id, given)
    assert code(answer) == (400, "008")
    assert says in answer.json()["error_msg"]
    assert answer.json()["error_msg"].endswith(door.until(id, "FAILED")["job_error_msg"])
    assert door.delete(id) == 204


def test_a_unit_that_can_not_be_opened_is_named(door: Door) -> None:
    port = free_port()
    echo = EXAMPLE.replace("54321", str(port))
    document = json.loads(echo)["job_graph"]
    door.create("first", document)
    answer = door.put("second", document)
    assert code(answer) == (400, "008")
    assert "httpserver_sync_receive" in answer.json()["error_msg"]
    assert door.until("second", "FAILED")["job_error_msg"] in answer.json()["error_msg"]
    assert door.delete("first") == 204
    assert door.delete("second") == 204


@pytest.mark.parametrize(
    ("opening", "says"),
    [
        ("raise OSError('the camera is away')", "the camera is away"),
        ("return modelbox.Status(modelbox.Status.StatusCode.STATUS_NOTFOUND, 'no model')", "no model"),
        ("sys.exit(3)", "3"),
        ("os._exit(7)", "exit code 7"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("import no_such_module", "no_such_module"),
    ],
    ids=["raises", "refuses", "exits", "ends", "kills", "imports"],
)
def test_units_that_misbehave(
    door: Door, request: pytest.FixtureRequest, tmp_path: Path, opening: str, says: str
) -> None:
    id = f"unit-{request.node.callspec.id}"
    answer = door.put(id, unit(tmp_path, id.replace("-", "_"), opening))
    assert code(answer) == (400, "008")
    assert says in answer.json()["error_msg"]
    assert says in door.until(id, "FAILED")["job_error_msg"]
    assert door.delete(id) == 204


def test_a_unit_that_hangs_delays_nobody_and_can_be_deleted(door: Door, tmp_path: Path) -> None:
    hanging = unit(tmp_path, "hanging", "threading.Event().wait()")
    with ThreadPoolExecutor(1) as threads:
        creation = threads.submit(door.put, "hangs", hanging)
        ask_until(lambda: door.status("hangs"), lambda status: status == "CREATEING", 60, "its creation")
        assert code(door.put("hangs", graph())) == (400, "005")
        door.create("another", graph())
        assert door.delete("another") == 204
        assert not creation.done()
        assert door.delete("hangs") == 204
        assert code(creation.result()) == (400, "008")
    assert door.status("hangs") == "404"


def test_of_many_that_create_one_id_exactly_one_wins(door: Door, client: Client) -> None:
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: door.put("contended", graph()), range(6)))
    assert sorted(answer.status_code for answer in answers) == [201] + [400] * 5
    assert {code(answer)[1] for answer in answers if answer.status_code == 400} == {"005"}
    assert len(list(client.jobs(name="contended"))) == 1
    # A create during the deletion waits for its end, or is told that the id is taken.
    with ThreadPoolExecutor(6) as threads:
        deletions = [threads.submit(door.delete, "contended") for _ in range(3)]
        creation = threads.submit(door.put, "contended", graph())
        statuses = sorted(deletion.result() for deletion in deletions)
    assert 204 in statuses
    assert set(statuses) <= {204, 404}
    answer = creation.result()
    assert answer.status_code == 201 or code(answer) in ((400, "005"), (400, "008"))
    door.delete("contended")
    assert door.status("contended") == "404"


def test_one_engine_many_doors(door: Door, client: Client) -> None:
    door.create("seen-by-all", toml())
    (job,) = client.jobs(name="seen-by-all")
    assert (job.kind, job.origin) == ("flow", "modelbox")
    # What else is listed came before.
    assert next(iter(door.list())) == "seen-by-all"
    pid = client.job(job.id).runs[0].pid
    assert pid is not None
    assert door.delete("seen-by-all") == 204
    assert not alive(pid)
    assert client.wait(job.id, 60).state == "cancelled"

    mine = client.submit_flow(name="from-native", flow={"graph": toml()})
    nameless = client.submit_flow(flow={"graph": toml()})
    door.until("from-native", "RUNNING")
    door.until(nameless.id, "RUNNING")
    assert {"from-native", nameless.id} <= door.list().keys()
    assert code(door.put("from-native", graph())) == (400, "005")
    assert door.delete(nameless.id) == 204
    client.cancel(mine.id)
    client.wait(mine.id, 60)
    assert door.status("from-native") == "404"
    assert door.status(nameless.id) == "404"
    command = client.submit(command=["sleep", "600"], name="no-flow")
    assert door.status("no-flow") == "404"
    client.cancel(command.id)


def test_a_process_that_is_killed_and_a_job_that_is_cancelled_elsewhere(door: Door, client: Client) -> None:
    door.create("victim", graph())
    (job,) = client.jobs(name="victim")
    client.signal(job.id, "SIGKILL")
    assert "SIGKILL" in door.until("victim", "FAILED")["job_error_msg"]
    client.restart(job.id)
    assert door.until("victim", "RUNNING")["job_error_msg"] == ""
    client.cancel(job.id)
    ask_until(lambda: door.status("victim"), lambda status: status == "404", 60, "the end of it")
    door.create("victim", graph())
    assert door.delete("victim") == 204


def test_flows_are_forked_from_a_process_that_is_warm(door: Door, client: Client) -> None:
    def is_warm(number: int) -> bool:
        door.create(f"warm{number}", graph())
        (job,) = client.jobs(name=f"warm{number}")
        pid = job.runs[0].pid
        assert pid is not None
        # However it was made, the agent knows it by its mark.
        marks = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert f"RUNYARD_RUN={job.id}.0.1".encode() in marks
        warm = b"--warm" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        client.signal(job.id, "SIGTERM")
        assert door.until(f"warm{number}", "SUCCEEDED")["job_error_msg"] == ""
        assert door.delete(f"warm{number}") == 204
        return warm

    numbers = iter(range(1000))
    wait_until(lambda: is_warm(next(numbers)), 60, "a warm start")


# The native API -----------------------------------------------------------------------------------------------------


def test_the_native_api_checks_first(client: Client) -> None:
    bad = {"flow": {"graph": toml("digraph {\n a[flowunit=base64_decoderr]\n}")}, "name": "never"}
    with pytest.raises(InvalidInput) as caught:
        client.submit_flow(bad)
    assert any("base64_decoder" in item["rule"] for item in caught.value.fields["errors"])
    assert list(client.jobs(name="never")) == []
    checked = client.check_flow(bad)
    assert [problem.node for problem in checked.problems if problem.node] != []
    assert checked.problems[0].line is not None
    sound = client.check_flow(flow={"graph": toml()})
    assert sound.problems == []
    assert {node.name: node.type for node in sound.nodes} == {"in1": "input", "d": "flowunit", "out1": "output"}
    assert len(sound.edges) == 2
    with pytest.raises(InvalidInput, match=r"flow\.path"):
        client.submit_flow(flow={"path": "/no/such/file.toml"})
    with pytest.raises(InvalidInput, match="is needed here"):
        client.submit_flow(command=["true"])


def test_statistics_and_graph_of_a_flow(client: Client, http: httpx2.Client) -> None:
    job = client.submit_flow(name="looked-at", flow={"graph": toml()})
    status = ask_until(lambda: client.flow_status(job.id), lambda status: status.statistics is not None, 60, "figures")
    assert status.flow_state == "running"
    assert {node.name for node in client.flow_graph("looked-at").nodes} == {"in1", "d", "out1"}
    sse = {"Accept": "text/event-stream"}
    with http.stream("GET", f"/api/v1/flows/{job.id}/statistics", params={"interval": 0.2}, headers=sse) as stream:
        events = (json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: "))
        assert next(events)["flow_state"] == "running"
        client.cancel(job.id)
        assert list(events)[-1]["state"] == "cancelled"
    plain = client.submit(command=["true"])
    with pytest.raises(NotFound, match="is no flow"):
        client.flow_graph(plain.id)
    assert http.get(f"/api/v1/flows/{job.id}/statistics", params={"interval": 0}).status_code == 400


# The command line ---------------------------------------------------------------------------------------------------


def test_submitting_from_the_command_line(server: Server, client: Client, tmp_path: Path) -> None:
    (tmp_path / "good.toml").write_text(toml())
    (tmp_path / "bad.toml").write_text(toml(IDLE.replace("base64_decoder", "base64")))
    submitted = server.run("flow", "submit", "--wait", "--name", "by-hand", str(tmp_path / "good.toml"))
    assert submitted.returncode == 0, submitted.stderr
    job = client.job(submitted.stdout.strip())
    assert (job.name, job.kind) == ("by-hand", "flow")
    client.cancel(job.id)
    refused = server.run("flow", "submit", str(tmp_path / "bad.toml"))
    assert refused.returncode == 2
    assert "base64" in refused.stderr
    checked = server.run("flow", "submit", "--check", str(tmp_path / "bad.toml"))
    assert checked.returncode == 1
    assert "base64" in checked.stderr


def test_watching_a_folder(server: Server, client: Client, door: Door, tmp_path: Path) -> None:
    (tmp_path / "DISABLED_not.toml").write_text(toml())
    (tmp_path / "watched.toml").write_text(toml())
    watcher = server.popen("flow", "watch", str(tmp_path), "--interval", "0.05")
    try:
        door.until("watched.toml", "RUNNING")
        (first,) = client.jobs(name="watched.toml")
        (tmp_path / "next").write_text(toml())
        door.until("next", "RUNNING")
        (tmp_path / "new").write_text(toml() + "# changed\n")
        (tmp_path / "new").replace(tmp_path / "watched.toml")
        wait_until(lambda: len(list(client.jobs(name="watched.toml"))) == 2, 60, "the job of the changed file")
        assert client.wait(first.id, 60).state == "cancelled"
        door.until("watched.toml", "RUNNING")
    finally:
        watcher.terminate()
        _, errors = watcher.communicate(timeout=60)
    assert watcher.returncode == 0
    assert f"job {first.id} is stopped" in errors
    (tmp_path / "next").unlink()
    again = server.run("flow", "watch", "--once", str(tmp_path))
    assert again.returncode == 0
    assert again.stdout == ""
    assert door.status("next") == "404"
    assert door.delete("watched.toml") == 204
    assert not any(job.name == "DISABLED_not.toml" for job in client.jobs(kind="flow"))
