"""`perdure run` as it faces the internet: HTTPS, access log, trusted proxies, files, metrics; and
what becomes of everybody who is connected when the server is replaced, or killed, under load."""

import json
import os
import re
import signal
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
from tests.faults.supervised import WITHIN_S, Supervised, free_port, is_alive, until
from tests.unit.web.test_tls import make
from tests.unit.web.test_tls import pytestmark as needs_openssl
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

pytestmark = [pytest.mark.faults, needs_openssl]

APP = """
import asyncio

from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute

from perdure import Actor, App, Limits, expose, live, read


class Counter(Actor):
    count: int = 0

    @expose
    async def add(self, note: str = "") -> int:
        self.count += 1
        return self.count

    @expose
    @live
    async def view(self) -> int:
        return self.count

    @expose
    @read
    async def long(self) -> str:
        return "long " * 10_000


async def who(request):
    return JSONResponse([request.client.host, request.url.scheme])


async def events(request):
    drained = request.scope["extensions"]["perdure.draining"]["event"]

    async def stream():
        yield "data: hello\\n\\n"
        await drained.wait()
        yield "data: come back\\n\\n"

    return StreamingResponse(stream(), media_type="text/event-stream")


async def talk(websocket):
    await websocket.accept()
    await websocket.send_text("hello")
    await websocket.receive()


site = Starlette(
    routes=[Route("/who", who), Route("/events", events), WebSocketRoute("/talk", talk)]
)
app = App(Counter, mount=site, static={"/files": "public"}, compress=True)
"""


def trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Secure(Supervised):
    """The same, asked over HTTPS."""

    def connection(self) -> HTTPSConnection:
        return HTTPSConnection(self.host, self.port, timeout=WITHIN_S, context=trusting())

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        status, _, data = self.fetch(method, path, body, headers)
        return status, json.loads(data)

    def fetch(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        connection = self.connection()
        try:
            connection.request(method, path, json.dumps(body) if body else None, headers or {})
            reply = connection.getresponse()
            return reply.status, {n.lower(): v for n, v in reply.getheaders()}, reply.read()
        finally:
            connection.close()

    def certificate(self) -> bytes:
        """The name that a new handshake is shown."""
        connection = self.connection()
        try:
            connection.connect()
            assert isinstance(connection.sock, ssl.SSLSocket)
            shown = connection.sock.getpeercert(binary_form=True)
            assert shown is not None
            return next(name for name in (b"first", b"second") if name in shown)
        finally:
            connection.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Secure]:
    public = tmp_path / "public"
    public.mkdir()
    (public / "a.txt").write_text("plain " * 1_000)
    chain, key = make(tmp_path, "first")
    options = ["--tls-cert", chain, "--tls-key", key, "--access-log", "--log-format", "json"]
    options += ["--trust-proxy", "127.0.0.1", "--metrics", f"127.0.0.1:{free_port()}"]
    with Secure(tmp_path, APP, options=options) as server:
        server.wait_ready()
        yield server


class Load:
    """Clients that add to counters without pause, on connections that are kept or new."""

    def __init__(self, server: Secure, clients: int = 6) -> None:
        self._server = server
        self._over = threading.Event()
        self.answers: list[list[int]] = [[] for _ in range(clients)]
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(clients)]

    def _run(self, number: int) -> None:
        connection = self._server.connection()
        while not self._over.is_set():
            try:
                connection.request("POST", f"/counter/load-{number}/add", b"{}")
                reply = connection.getresponse()
                data = reply.read()
                assert reply.status == 200, data
                self.answers[number].append(json.loads(data))
            except (OSError, HTTPException, AssertionError) as error:
                self.failures.append(repr(error))
                connection.close()
            if number % 2:
                connection.close()
            self._over.wait(0.002)
        connection.close()

    def count(self) -> int:
        return sum(map(len, self.answers))

    def go_on(self, more: int = 100) -> None:
        """Returns when so many more were answered."""
        wanted = self.count() + more
        until(lambda: self.count() >= wanted, f"{more} more answers; failures: {self.failures}")


@contextmanager
def load(server: Secure) -> Iterator[Load]:
    running = Load(server)
    for thread in running._threads:
        thread.start()
    try:
        yield running
    finally:
        running._over.set()
        for thread in running._threads:
            thread.join()


def in_background(work: Callable[[], Any]) -> list[Any]:
    """Fills the list with what the work gives, when it ends."""
    given: list[Any] = []
    threading.Thread(target=lambda: given.append(work()), daemon=True).start()
    return given


def test_a_certificate_is_exchanged_under_load_and_no_request_fails(
    server: Secure, tmp_path: Path
) -> None:
    kept = server.connection()
    kept.request("GET", "/counter/a/view")
    kept.getresponse().read()
    with load(server) as clients:
        clients.go_on()
        assert server.certificate() == b"first"
        make(tmp_path, "second")
        until(lambda: server.certificate() == b"second", "the new certificate")
        clients.go_on()
        (tmp_path / "tls.pem").write_text("rubbish")
        server.wait_for_log("certificate not taken up")
        clients.go_on()
        assert server.certificate() == b"second"
    assert clients.failures == []
    kept.request("GET", "/counter/a/view")
    assert kept.getresponse().status == 200  # on the connection that saw the first one
    kept.close()


def test_everybody_is_told_of_a_replacement_and_no_request_fails(server: Secure) -> None:
    socket_end = in_background(lambda: _talk(server))
    view_end = in_background(lambda: server.fetch("GET", "/counter/a/view/live")[2])
    stream_end = in_background(lambda: server.fetch("GET", "/events")[2])
    old = server.server()
    with load(server) as clients:
        clients.go_on()
        os.kill(server.process.pid, signal.SIGHUP)
        until(lambda: not is_alive(old), "the old server to end")
        server.wait_ready()
        clients.go_on()
    assert clients.failures == []
    for answers in clients.answers:
        assert answers == list(range(1, len(answers) + 1))
    until(lambda: socket_end and view_end and stream_end, "all of them to be told")
    assert socket_end == [("hello", 1012)]
    assert re.search(rb"retry: \d+\n\n$", view_end[0]), view_end
    assert stream_end == [b"data: hello\n\ndata: come back\n\n"]


def _talk(server: Secure) -> tuple[str | bytes, int]:
    with connect(f"wss://{server.host}:{server.port}/talk", ssl=trusting()) as socket:
        said = socket.recv(WITHIN_S)
        try:
            socket.recv(WITHIN_S)
        except ConnectionClosed as closed:
            return said, closed.rcvd.code if closed.rcvd else 1006
    return said, 0


def test_a_stop_says_so_for_a_while_and_answers_all_who_come_meanwhile(server: Secure) -> None:
    kept = server.connection()
    kept.request("GET", "/-/ready")
    assert kept.getresponse().read() == b'{"ok":true}'
    os.kill(server.process.pid, signal.SIGTERM)
    statuses, is_over = [], False
    while not is_over:
        try:
            status, headers, _ = server.fetch("GET", "/-/ready")
            statuses.append(status)
            if status == 503:
                assert headers["connection"] == "close"
                added, said = server.ask("POST", "/counter/stop/add", {"note": "x"})
                assert (added, said) == (200, statuses.count(503))
        except OSError:
            is_over = True
    kept.close()
    assert statuses.count(503) > 3
    assert statuses == sorted(statuses)
    assert server.wait() == 0


def test_a_killed_server_loses_nothing_that_it_acknowledged(server: Secure) -> None:
    with load(server) as clients:
        for _ in range(3):
            clients.go_on()
            killed = server.server()
            os.kill(killed, signal.SIGKILL)
            server.server(other_than=killed)
            server.wait_ready()
        clients.go_on()
    assert len(clients.failures) <= 3 * len(clients.answers)  # what was under way
    for number, answers in enumerate(clients.answers):
        assert answers == sorted(set(answers))  # nothing acknowledged was lost or counted twice
        _, count = server.ask("GET", f"/counter/load-{number}/view")
        assert len(answers) <= count <= len(answers) + len(clients.failures)


def test_the_log_tells_who_asked_for_what_and_no_secret(server: Secure) -> None:
    secret = "tr0ub4dor"
    headers = {
        "X-Forwarded-For": "203.0.113.7",
        "X-Forwarded-Proto": "https",
        "X-Request-Id": "from-the-proxy",
        "Cookie": f"session={secret}",
        "Authorization": f"Bearer {secret}",
    }
    assert server.ask("GET", f"/who?token={secret}", None, headers)[1] == ["203.0.113.7", "https"]
    status, got, _ = server.fetch("POST", "/counter/a/add", {"note": secret}, headers)
    assert (status, got["x-request-id"]) == (200, "from-the-proxy")
    server.ask("POST", "/counter/a/add", {"nonsense": secret}, headers)
    server.ask("GET", f"/counter/a/none?{secret}", None, headers)

    def lines() -> list[dict[str, Any]]:
        found = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
        return [line for line in found if line.get("request_id") == "from-the-proxy"]

    until(lambda: len(lines()) == 4, "four lines")
    assert [(one["method"], one["path"], one["status"]) for one in lines()] == [
        ("GET", "/who", 200),
        ("POST", "/counter/a/add", 200),
        ("POST", "/counter/a/add", 422),
        ("GET", "/counter/a/none", 404),
    ]
    assert {one["client"] for one in lines()} == {"203.0.113.7"}
    assert secret not in server.log()


def test_files_compression_and_metrics(server: Secure) -> None:
    status, headers, body = server.fetch("GET", "/files/a.txt")
    assert (status, body) == (200, b"plain " * 1_000)
    again = server.fetch("GET", "/files/a.txt", None, {"If-None-Match": headers["etag"]})
    assert (again[0], again[2]) == (304, b"")
    assert server.fetch("GET", "/files/a.txt", None, {"Range": "bytes=0-4"})[2] == b"plain"
    assert server.fetch("GET", "/files/../counter.py")[0] == 404
    _, headers, body = server.fetch("GET", "/counter/a/long", None, {"Accept-Encoding": "gzip"})
    assert headers["content-encoding"] == "gzip"
    assert len(body) < 5_000
    port = int(server.options[server.options.index("--metrics") + 1].rpartition(":")[2])
    told = HTTPConnection("127.0.0.1", port, timeout=WITHIN_S)
    told.request("GET", "/-/metrics")
    text = told.getresponse().read().decode()
    told.close()
    assert re.search(r'^perdure_http_replies_total\{status="2xx"\} [1-9]', text, re.MULTILINE), text
    assert server.fetch("GET", "/-/metrics", None, {"X-Forwarded-For": "203.0.113.7"})[0] == 404
