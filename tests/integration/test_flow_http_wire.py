"""The HTTP server of flows, without a flow: what goes over the wire."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runyard.flow.units.http import wire
from runyard.flow.units.http.listener import BadEndpoint, Endpoint, Limits, Route, Server, Tls
from runyard.flow.units.http.wire import Exchange
from tests.helpers import wait_until

LOOPBACK = "127.0.0.1"
LIMITS = Limits(max_body=100_000)
Handler = Callable[[Exchange], None]


def echo(exchange: Exchange) -> None:
    exchange.answer(200, exchange.body, b"text/plain")


def deeper(exchange: Exchange) -> None:
    exchange.answer(200, b"deeper")


def describe(exchange: Exchange) -> None:
    text = f"{exchange.method} {exchange.target} {sorted(exchange.headers.items())} {exchange.body!r}"
    exchange.answer(200, text.encode(), b"text/plain")


@contextmanager
def serving(
    path: str, handler: Handler, limits: Limits = LIMITS, tls: Tls | None = None, port: int = 0
) -> Iterator[Route]:
    scheme = "https" if tls else "http"
    route = Server.join(Endpoint(scheme, LOOPBACK, port, path), handler, tls, limits)
    try:
        yield route
    finally:
        route.listener.server.leave(route)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with (
        serving("/echo", echo) as one,
        serving("/echo/deeper", deeper, port=one.port),
        serving("/describe", describe, port=one.port),
    ):
        yield one.port


def connect(port: int) -> socket.socket:
    return socket.create_connection((LOOPBACK, port), timeout=60)


def exchange(port: int, *pieces: bytes) -> bytes:
    """All that comes back, up to the end of the connection, when these pieces are sent one by one."""
    with connect(port) as client:
        for piece in pieces:
            client.sendall(piece)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_a_target_that_is_no_url_does_not_stop_the_connection(port: int) -> None:
    first, strange = b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n", b"GET //[bad://x HTTP/1.1\r\nHost: x\r\n\r\n"
    answers = exchange(port, first + strange + first)
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"404", b"200"]


def read_answer(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One answer of a connection that stays open."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65536)
        assert more, data
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += client.recv(65536)
    return int(first.split()[1]), headers, body


def request(path: str, body: bytes = b"", method: str = "POST", more: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def test_an_answer_has_the_safe_headers_and_the_connection_stays(port: int) -> None:
    with connect(port) as client:
        for body in (b"one", b"", b"\0binary\xff"):
            client.sendall(request("/echo", body))
            status, headers, answer = read_answer(client)
            assert (status, answer) == (200, body)
            assert headers["referrer-policy"] == "strict-origin-when-cross-origin"
            assert headers["content-security-policy"] == (
                "default-src 'self'  data: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; frame-ancestors 'none'"
            )
            assert headers["x-frame-options"] == "DENY" and headers["connection"] == "keep-alive"
            assert headers["content-type"] == "text/plain" and re.fullmatch(r"\w{3}, .* GMT", headers["date"])


def test_requests_in_pieces_in_chunks_and_in_a_row(port: int) -> None:
    whole = request("/echo", b"hello")
    answer = exchange(port, *(whole[at : at + 1] for at in range(len(whole))))
    assert answer.count(b"HTTP/1.1 200 OK") == 1 and answer.endswith(b"\r\n\r\nhello")
    chunked = (
        b"PUT /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n"
    )
    assert exchange(port, chunked).endswith(b"\r\n\r\nhello world")
    pipeline = b"".join(request("/echo", b"%d;" % number) for number in range(200))
    answers = exchange(port, pipeline)
    assert re.findall(rb"(\d+);", answers) == [b"%d" % number for number in range(200)], "in order"
    assert answers.count(b"HTTP/1.1 200") == 200


def test_the_request_as_the_handler_sees_it(port: int) -> None:
    sent = b"DELETE /describe/x%20y?a=b&c HTTP/1.1\r\nHost: h\r\nX-Two: 1\r\nX-Two: 2\r\n\r\n"
    answer = exchange(port, sent)
    assert answer.endswith(b"DELETE /describe/x%20y?a=b&c [('Host', 'h'), ('X-Two', '1, 2')] b''")
    upgrade = b"GET /describe HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
    answer = exchange(port, upgrade)
    assert b"HTTP/1.1 200" in answer and b"Connection: close" in answer, "the wish for HTTP/2 is not granted"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"GET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", False),
        (b"GET /echo HTTP/1.0\r\n\r\n", False),
        (b"GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
    ],
)
def test_the_connection_ends_if_the_client_says_so(port: int, sent: bytes, kept: bool) -> None:
    with connect(port) as client:
        client.sendall(sent)
        status, headers, _ = read_answer(client)
        assert status == 200 and headers["connection"] == ("keep-alive" if kept else "close")
        if not kept:
            assert client.recv(1) == b""


@pytest.mark.parametrize(
    ("target", "status", "body"),
    [
        ("/echo", 200, b"x"),
        ("/echo/", 200, b"x"),
        ("/echo/below/it?q=1", 200, b"x"),
        ("//echo", 200, b"x"),
        ("/%65cho", 200, b"x"),
        ("http://other/echo", 200, b"x"),
        ("/echo/deeper/still", 200, b"deeper"),
        ("/echoes", 404, b""),
        ("/", 404, b""),
        ("/ECHO", 404, b""),
        ("*", 404, b""),
    ],
)
def test_the_deepest_path_wins(port: int, target: str, status: int, body: bytes) -> None:
    with connect(port) as client:
        client.sendall(request(target, b"x"))
        found, headers, answer = read_answer(client)
    assert (found, answer) == (status, body) and "x-frame-options" in headers


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"no http at all\r\n\r\n", 400),
        (b"GET /echo HTTP/9.9\r\n\r\n", 400),
        (b"BREW /echo HTTP/1.1\r\n\r\n", 405),
        (b"POST /echo HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\0\1\0\1\xfc\3\3", 400),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /echo HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /echo HTTP/1.1\r\n" + b"".join(b"X%d: x\r\n" % at for at in range(300)) + b"\r\n", 431),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 100001\r\n\r\n", 413),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 413),
        (b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n186A1\r\n" + b"x" * 100_001, 413),
    ],
)
def test_what_is_not_acceptable_is_refused_and_the_connection_ends(port: int, sent: bytes, status: int) -> None:
    answer = exchange(port, sent)
    assert answer.startswith(b"HTTP/1.1 %d " % status) and b"Connection: close" in answer
    assert answer.count(b"HTTP/1.1") == 1
    assert exchange(port, request("/echo", b"still there")).endswith(b"still there")


def test_a_client_that_waits_for_a_go_ahead_gets_it(port: int) -> None:
    with connect(port) as client:
        client.sendall(b"POST /echo HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"ok")
        assert read_answer(client)[2] == b"ok"
        client.sendall(b"POST /echo HTTP/1.1\r\nContent-Length: 200000\r\nExpect: 100-continue\r\n\r\n")
        assert read_answer(client)[0] == 413


def test_a_big_answer_to_a_slow_reader_holds_nobody_up(port: int) -> None:
    body = b"x" * 100_000
    with connect(port) as slow:
        sender = threading.Thread(target=slow.sendall, args=(request("/echo", body) * 150,), daemon=True)
        sender.start()
        assert exchange(port, request("/echo", b"quick")).endswith(b"quick")
        received = 0
        while received < 150 * len(body):
            received += len(slow.recv(1 << 20))
        sender.join(60)


def test_a_client_that_goes_is_forgotten() -> None:
    taken: list[Exchange] = []
    with serving("", taken.append) as route:
        listener = route.listener
        client = connect(route.port)
        client.sendall(request("/", b"x" * 1000))
        wait_until(lambda: taken, 60, "the request")
        assert listener.held == 1000
        # Without this a close looks like the end of what the client has to say: it may still wait for the answer.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        wait_until(lambda: not listener.wires, 60, "the end of the connection")
        assert listener.held == 0
        listener.server.call(_answering(taken[0]))
        assert taken[0].answered


def _answering(exchange: Exchange) -> Callable[[], object]:
    async def answer() -> None:
        assert not exchange.answer(200)

    return answer


def test_silent_clients_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "REQUEST_TIME", 0.05)
    with serving("", echo, Limits(keepalive=0.05)) as route, connect(route.port) as idle:
        assert idle.recv(1) == b""
    with serving("", echo) as route, connect(route.port) as slow:
        slow.sendall(b"POST / HTTP/1.1\r\nContent-")
        assert read_answer(slow)[0] == 408
        assert slow.recv(1) == b""


def test_two_routes_of_one_path_and_other_settings_are_refused(port: int) -> None:
    with pytest.raises(BadEndpoint, match="another node serves /echo"), serving("/echo", echo, port=port):
        pass
    with (
        pytest.raises(BadEndpoint, match="another scheme or certificate"),
        serving("/tls", echo, tls=Tls("c", "k"), port=port),
    ):
        pass
    with (
        socket.create_server((LOOPBACK, 0)) as other,
        pytest.raises(OSError, match="already in use"),
        serving("", echo, port=other.getsockname()[1]),
    ):
        pass
    with pytest.raises(OSError, match="no host name"):
        Server.join(Endpoint("http", "x" * 300, 0, ""), echo, None, LIMITS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://127.0.0.1:8080", Endpoint("http", "127.0.0.1", 8080, "")),
        ("http://localhost:54321/example", Endpoint("http", "localhost", 54321, "/example")),
        (" http://0.0.0.0:80/a/b/ ", Endpoint("http", "0.0.0.0", 80, "/a/b")),
        ("https://[::1]:443/", Endpoint("https", "::1", 443, "")),
        ("http://host", Endpoint("http", "host", 80, "")),
        ("https://host/x", Endpoint("https", "host", 443, "/x")),
        ("ftp://host", None),
        ("127.0.0.1:8080", None),
        ("http://", None),
        ("http://host:99999", None),
        ("http://host:x", None),
        ("http://host:80/x?y=z", None),
        ("http://me:secret@host:80", None),
        ("http://[::1:80", None),
        ("", None),
    ],
)
def test_endpoints(text: str, expected: Endpoint | None) -> None:
    if expected is None:
        with pytest.raises(BadEndpoint, match="is invalid"):
            Endpoint.parse(text)
    else:
        assert Endpoint.parse(text) == expected


def test_https(tmp_path: Path) -> None:
    import ssl

    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "1"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-passout", "pass:secret"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True, timeout=60)
    with pytest.raises(ssl.SSLError):
        Tls(str(cert), str(key), "wrong").context()
    with serving("", echo, tls=Tls(str(cert), str(key), "secret")) as route:
        trusting = ssl.create_default_context(cafile=str(cert))
        with trusting.wrap_socket(connect(route.port), server_hostname=LOOPBACK) as client:
            for body in (b"secret", b"x" * 90_000):
                client.sendall(request("/", body))
                answer = b""
                while not answer.endswith(body):
                    answer += client.recv(65536)
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        with connect(route.port) as plain:
            plain.sendall(request("/"))
            assert not plain.recv(100).startswith(b"HTTP/1.1 200")
