"""The HTTP units in running flows."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from runyard.flow.buffer import Buffer
from runyard.flow.configuration import Configuration
from runyard.flow.document import parse_document
from runyard.flow.runtime.runner import FlowRun, load_flow
from runyard.flow.status import FlowError, StatusCode
from runyard.flow.unit import DataContext, FlowUnit
from runyard.flow.unit_library import Port, UnitInfo, UnitLibrary
from runyard.flow.units.http.receive import HttpAsync, HttpSyncReceive
from runyard.flow.units.http.reply import CONTENT_TYPES
from tests.helpers import wait_until

PATIENCE = 60
GATE_OPTIONS = 'endpoint="http://127.0.0.1:0"'
Process = Callable[[DataContext], Any]


def graph(receive: str, middle: str = "middle", reply: str = "") -> str:
    return f"""digraph {{
        receive[flowunit=httpserver_sync_receive, {receive}]
        middle[flowunit={middle}]
        reply[flowunit=httpserver_sync_reply {reply}]
        receive:out_request_info -> middle:in
        middle:out -> reply:in_reply_info
    }}"""


ASYNC = """digraph {
    receive[flowunit=httpserver_async, endpoint="http://127.0.0.1:0", max_requests=2]
    middle[flowunit=sink]
    receive:out_request_info -> middle:in
}"""


@contextmanager
def running(dot: str, process: Process, *, stream: bool = False, outputs: tuple[str, ...] = ("out",)) -> Iterator[str]:
    """The flow with that function as its middle unit; where it listens."""

    class Middle(FlowUnit):
        def process(self, data_ctx: DataContext) -> Any:
            return process(data_ctx)

    library = UnitLibrary()
    for name, ports in (("middle", outputs), ("sink", ())):
        info = UnitInfo(
            name,
            type="function",
            inputs=(Port("in"),),
            outputs=tuple(map(Port, ports)),
            flow_stream=stream,
            factory=Middle,
        )
        library.add(info)
    flow = load_flow(parse_document(json.dumps({"graph": {"format": "graphviz", "graphconf": dot}})), library=library)
    flow.open()
    try:
        flow.start()
        yield url_of(flow)
    finally:
        flow.stop()


def url_of(flow: FlowRun) -> str:
    unit = next(node.unit for node in flow.machine.nodes if node.name == "receive")
    return str(unit.url)


def describe(data_ctx: DataContext) -> None:
    for buffer in data_ctx.input("in") or ():
        text = {key: buffer.get(key) for key in ("size", "method", "uri", "headers", "endpoint")}
        data_ctx.output("out").push_back(
            json.dumps(text | {"text": buffer.as_object(), "kind": str(type(buffer.data))})
        )


class Gate:
    """A unit that answers when it is told to."""

    def __init__(self) -> None:
        self.inside = 0
        self.open = threading.Event()
        self._lock = threading.Lock()

    def process(self, data_ctx: DataContext) -> None:
        with self._lock:
            self.inside += len(data_ctx.input("in") or ())
        assert self.open.wait(PATIENCE)
        if data_ctx._ports:
            data_ctx.output("out").extend(data_ctx.input("in") or ())


@pytest.fixture(scope="module")
def http() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=PATIENCE) as client:
        yield client


@pytest.fixture(scope="module")
def described() -> Iterator[str]:
    """A flow below a path that answers with what it was asked."""
    with running(
        graph('endpoint="http://127.0.0.1:0/api/", time_out_ms=30000', reply=", content_type=json"), describe
    ) as url:
        yield url


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_the_meta_of_a_request(http: httpx2.Client, described: str, method: str) -> None:
    assert described.endswith("/api")
    body = "" if method == "GET" else "grüße"
    answer = http.request(method, f"{described}/below?a=1&b=%20", content=body, headers={"X-Mark": "here"})
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    assert answer.headers["x-frame-options"] == "DENY"
    told = answer.json()
    headers = {key.lower(): value for key, value in told["headers"].items()}
    assert (told["size"], told["method"], told["uri"]) == (len(body.encode()), method, "/api/below?a=1&b=%20")
    assert told["endpoint"] == "http://127.0.0.1:0/api/" and headers["x-mark"] == "here"
    assert told["text"] == body, "the body is text for Python"


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "HEAD", "PATCH"])
def test_other_methods_are_refused(http: httpx2.Client, described: str, method: str) -> None:
    answer = http.request(method, described)
    assert answer.status_code == 405 and answer.headers["allow"] == "POST, GET, DELETE, PUT"
    assert "x-frame-options" not in answer.headers and answer.content == b""


def test_health_is_there_only_without_a_path(http: httpx2.Client, described: str) -> None:
    assert http.get(httpx2.URL(described).join("/health")).status_code == 404
    assert http.get(f"{described}/health").json()["uri"] == "/api/health", "that one goes into the flow"
    with running(graph(GATE_OPTIONS), describe) as url:
        for method in ("GET", "POST", "PUT", "DELETE"):
            answer = http.request(method, f"{url}/health")
            assert (answer.status_code, answer.content) == (200, b'{"message":"success","status":200}')
        assert http.get(f"{url}/health?").json()["uri"] == "/health?"
        assert http.get(f"{url}/health/x").json()["uri"] == "/health/x"


def test_the_limit_of_unanswered_requests(http: httpx2.Client) -> None:
    gate = Gate()
    with (
        running(graph(f"{GATE_OPTIONS}, max_requests=2, time_out=30", "middle"), gate.process) as url,
        ThreadPoolExecutor(3) as pool,
    ):
        waiting = [pool.submit(http.post, url, content=str(number)) for number in range(3)]
        wait_until(lambda: gate.inside == 3, PATIENCE)
        refused = http.post(url, content="one too many")
        assert (refused.status_code, refused.content) == (429, b"") and refused.headers["x-frame-options"] == "DENY"
        gate.open.set()
        assert [each.result(PATIENCE).text for each in waiting] == ["0", "1", "2"]
        assert http.post(url, content="again").text == "again"


def test_the_time_for_a_reply(http: httpx2.Client) -> None:
    gate = Gate()
    with running(graph(f"{GATE_OPTIONS}, time_out_ms=50"), gate.process) as url:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda number: http.post(url, content=str(number)), range(4)))
        assert {(answer.status_code, answer.content) for answer in answers} == {(408, b"")}
        wait_until(lambda: gate.inside == 4, PATIENCE)
        # What the flow replies now is too late, and must not become the answer of a later request.
        gate.open.set()
    gate.open.set()


def test_an_error_that_nobody_sees_ends_in_the_time_out(http: httpx2.Client) -> None:
    def fail(data_ctx: DataContext) -> StatusCode:
        return StatusCode.STATUS_FAULT

    with running(graph(f"{GATE_OPTIONS}, time_out_ms=50"), fail) as url:
        assert http.post(url, content="x").status_code == 408


def test_a_second_reply_is_ignored(http: httpx2.Client) -> None:
    def twice(data_ctx: DataContext) -> None:
        for _ in data_ctx.input("in") or ():
            for text in ("first", "second"):
                result = Buffer(text)
                result.set("status", 500)
                result.set("headers", {"X-Mine": "1"})
                data_ctx.output("out").push_back(result)

    with running(graph(f"{GATE_OPTIONS}, time_out_ms=30000"), twice, stream=True) as url:
        for _ in range(20):
            answer = http.post(url, content="x")
            assert (answer.status_code, answer.text) == (200, "first") and "x-mine" not in answer.headers


def test_a_client_that_waits_when_the_flow_stops(http: httpx2.Client) -> None:
    gate = Gate()
    with ThreadPoolExecutor(1) as pool:
        with running(graph(f"{GATE_OPTIONS}, time_out_ms=30000"), gate.process) as url:
            waiting = pool.submit(http.post, url, content="x")
            wait_until(lambda: gate.inside == 1, PATIENCE)
            threading.Timer(0.05, gate.open.set).start()
        assert waiting.result(PATIENCE).status_code in (200, 503)
    with pytest.raises(httpx2.ConnectError):
        http.post(url)


def test_many_clients_and_big_bodies(http: httpx2.Client) -> None:
    def echo(data_ctx: DataContext) -> None:
        data_ctx.output("out").extend(data_ctx.input("in") or ())

    limit = 3_000_000
    with running(graph(f"{GATE_OPTIONS}, time_out_ms=30000, max_body_bytes={limit}"), echo) as url:
        bodies = [bytes([number]) * (number * 5000) for number in range(60)]
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda body: http.post(url, content=body), bodies))
        assert [answer.content for answer in answers] == bodies
        assert http.post(url, content=b"x" * limit).content == b"x" * limit
        assert http.post(url, content=b"x" * (limit + 1)).status_code == 413


def test_the_asynchronous_unit_answers_at_once(http: httpx2.Client) -> None:
    gate = Gate()
    seen: list[str] = []

    def take(data_ctx: DataContext) -> None:
        gate.process(data_ctx)
        seen.extend(str(buffer) for buffer in data_ctx.input("in") or ())

    with running(ASYNC, take) as url:
        assert http.get(f"{url}/health").status_code == 200
        for number in range(2):
            answer = http.post(url, content=str(number))
            assert (answer.status_code, answer.content) == (202, b"") and answer.headers["x-frame-options"] == "DENY"
        assert http.post(url, content="one too many").status_code == 429
        gate.open.set()
        wait_until(lambda: sorted(seen) == ["0", "1"], PATIENCE)
        wait_until(lambda: http.post(url, content="2").status_code == 202, PATIENCE)
        wait_until(lambda: "2" in seen, PATIENCE)


@pytest.mark.parametrize("name", sorted(CONTENT_TYPES))
def test_content_types(name: str) -> None:
    from runyard.flow.units.http.reply import HttpSyncReply

    assert HttpSyncReply().open(Configuration({"content_type": name})) is None


# Options ------------------------------------------------------------------------------------------------------------


@contextmanager
def opened(unit: HttpSyncReceive | HttpAsync, **options: str) -> Iterator[Any]:
    unit.open(Configuration({"endpoint": "http://127.0.0.1:0"} | options))
    try:
        yield unit
    finally:
        unit.close()


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({}, 5.0),
        ({"time_out_ms": "250"}, 0.25),
        ({"time_out": "5"}, 5.0),
        ({"time_out": "999"}, 999.0),
        ({"time_out": "1000"}, 1.0),
        ({"time_out": "5000"}, 5.0),
        ({"time_out": "7", "time_out_ms": "300"}, 0.3),
    ],
)
def test_time_outs(options: dict[str, str], seconds: float) -> None:
    with opened(HttpSyncReceive(), **options) as unit:
        assert unit.time_out == seconds


def test_the_documents_name_of_the_endpoint() -> None:
    with opened(HttpSyncReceive(), endpoint="", request_url="http://127.0.0.1:0/example") as unit:
        assert unit.url.endswith("/example")
    with opened(HttpSyncReceive(), endpoint="http://127.0.0.1:0/a", request_url="http://127.0.0.1:0/b") as unit:
        assert unit.url.endswith("/a")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"endpoint": "localhost"}, StatusCode.STATUS_BADCONF, "must be http"),
        ({"time_out_ms": "0"}, StatusCode.STATUS_BADCONF, "time_out_ms"),
        ({"time_out": "soon"}, StatusCode.STATUS_BADCONF, "time_out"),
        ({"max_requests": "-1"}, StatusCode.STATUS_BADCONF, "max_requests"),
        ({"max_requests": str(10**30)}, StatusCode.STATUS_BADCONF, "max_requests"),
        ({"keepalive_timeout_sec": "0"}, StatusCode.STATUS_BADCONF, "keepalive_timeout_sec"),
        ({"cert": "cert.pem"}, StatusCode.STATUS_BADCONF, "not https"),
        ({"endpoint": "https://127.0.0.1:0"}, StatusCode.STATUS_BADCONF, "certificate file is invalid."),
        (
            {"endpoint": "https://127.0.0.1:0", "cert": "/absent"},
            StatusCode.STATUS_BADCONF,
            "certificate file is invalid.",
        ),
        ({"endpoint": "http://192.0.2.1:0"}, StatusCode.STATUS_FAULT, "Cannot assign requested address"),
    ],
)
def test_bad_options(options: dict[str, str], code: StatusCode, words: str) -> None:
    with pytest.raises(FlowError) as caught, opened(HttpSyncReceive(), **options):
        pass
    assert caught.value.status.code() == code and words in str(caught.value)


def test_an_address_that_is_taken_fails_the_flow() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(FlowError) as caught, running(graph(f'endpoint="http://127.0.0.1:{port}"'), describe):
            pass
    text = str(caught.value)
    assert caught.value.status.code() == StatusCode.STATUS_FAULT
    assert "receive" in text and f"127.0.0.1:{port}" in text and "Address already in use" in text


def test_flows_share_a_port_by_path_and_let_it_go(http: httpx2.Client) -> None:
    with opened(HttpAsync()) as one:
        port = httpx2.URL(one.url).port
        with pytest.raises(FlowError, match="another node serves /"), opened(HttpAsync(), endpoint=one.url):
            pass
        with running(graph(f'endpoint="http://127.0.0.1:{port}/deep"'), describe) as url:
            assert http.get(url).json()["uri"] == "/deep"
        assert http.get(f"{one.url}/health").status_code == 200
        listeners = one.server.listeners
        assert ("127.0.0.1", port) in listeners
    assert ("127.0.0.1", port) not in listeners


def test_https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key, password = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "password"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "1"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-passout", "pass:secret"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True, timeout=60)
    password.write_text("secret\n")
    monkeypatch.setenv("KEY_PASSWORD", "secret")
    files = {"endpoint": "https://127.0.0.1:0", "cert": str(cert), "key": str(key)}

    for options, words in (
        ({"key": ""}, "key file is invalid."),
        ({"key": str(tmp_path)}, "key file is invalid."),
        ({}, "password not set"),
        ({"passwd": "secret"}, "password key not set"),
        ({"passwd": "secret", "key_pass": "x"}, "plain, env or file"),
        ({"passwd": "wrong", "key_pass": "plain"}, "certificate file is invalid."),
        ({"passwd": "NO_SUCH_VARIABLE", "key_pass": "env"}, "NO_SUCH_VARIABLE"),
        ({"passwd": str(tmp_path / "absent"), "key_pass": "file"}, "absent"),
    ):
        with pytest.raises(FlowError) as caught, opened(HttpSyncReceive(), **(files | options)):
            pass
        assert caught.value.status.code() == StatusCode.STATUS_BADCONF and words in str(caught.value)

    for how, passwd in (("env", "KEY_PASSWORD"), ("file", str(password))):
        with opened(HttpSyncReceive(), **files, passwd=passwd, key_pass=how):
            pass
    told = ", ".join(f'{name}="{value}"' for name, value in (files | {"passwd": "secret", "key_pass": "plain"}).items())
    with running(graph(told), describe) as url:
        trusting = ssl.create_default_context(cafile=str(cert))
        with httpx2.Client(verify=trusting, timeout=PATIENCE) as client:
            assert [client.post(url, content=text).json()["text"] for text in ("one", "two")] == ["one", "two"]
