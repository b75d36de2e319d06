"""ASGI applications, bare ones and three frameworks."""

import asyncio
import contextlib
import http.client
import json
from pathlib import Path

import pytest
from tests.unit.web.serving import (
    GOOD,
    WAIT_S,
    errors_of,
    length_app,
    read_all,
    read_until,
    responses_of,
    running,
)

from perdure.base.errors import PerdureError
from perdure.base.limits import Limits
from perdure.web.asgi import Lifespan

GET = b"GET /app HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


def answering(*messages, fail=False):
    """An app that sends these messages, and then fails or returns."""

    async def app(scope, receive, send):
        for message in messages:
            await send(message)
        if fail:
            raise RuntimeError("secret")

    return app


def start(status=200, *headers):
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data=b"", *, more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


def test_the_scope_is_complete():
    scopes = []

    async def app(scope, receive, send):
        scopes.append(scope)
        await length_app(scope, receive, send)

    request = b"GET /a%20b/%c3%a4?c=%20d HTTP/1.1\r\nHost: a\r\nX-Y: z\r\nConnection: close\r\n\r\n"
    with running(app, state={"shared": 1}, root_path="/below") as server:
        server.talk(request)
    (scope,) = scopes
    assert scope.pop("client")[0] == "127.0.0.1"
    assert scope.pop("server") == ("127.0.0.1", server.port)
    assert list(scope.pop("extensions")) == ["perdure.draining"]
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/below/a b/ä",
        "raw_path": b"/below/a%20b/%c3%a4",
        "query_string": b"c=%20d",
        "root_path": "/below",
        "headers": [(b"host", b"a"), (b"x-y", b"z"), (b"connection", b"close")],
        "state": {"shared": 1},
    }


def test_a_response_in_one_piece_gets_a_length_and_one_in_many_is_chunked():
    with running(answering(start(), body(b"one"))) as server:
        (whole,) = responses_of(server.talk(LAST))
    with running(answering(start(), body(b"one", more=True), body(b"two"))) as server:
        (parts,) = responses_of(server.talk(LAST))
        old = server.talk(b"GET / HTTP/1.0\r\n\r\n")
    assert whole.headers[b"content-length"] == b"3"
    assert parts.headers[b"transfer-encoding"] == b"chunked"
    assert parts.body == b"onetwo"
    assert b"chunked" not in old
    assert old.endswith(b"\r\n\r\nonetwo")


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_content_send_none(status):
    app = answering(start(status, (b"content-length", b"3")), body(b"abc"))
    with running(app) as server:
        first, second = responses_of(server.talk(GET + GOOD))
    assert (first.status, first.body, second.status) == (status, b"", 200)


@pytest.mark.parametrize(
    "app",
    [
        answering(start(), body(b"abc")),
        answering(start(200, (b"content-length", b"3")), body(b"abc")),
        answering(start(), body(b"a", more=True), body(b"bc")),
    ],
)
def test_head_gets_the_headers_only(app):
    with running(app) as server:
        data = server.talk(GET.replace(b"GET", b"HEAD") + GOOD)
    first, second = responses_of(data, to_head=True)
    assert first.status == second.status == 200
    assert first.headers.keys() & {b"content-length", b"transfer-encoding"}


@pytest.mark.parametrize(
    "messages",
    [
        [start(200, (b"x", b"a\r\nset-cookie: b")), body()],
        [start(200, (b"x", b"a\nb")), body()],
        [start(200, (b"x", b"a\x00b")), body()],
        [start(200, (b"x\r\ny", b"a")), body()],
        [start(200, (b"x:", b"a")), body()],
        [start(200, (b"", b"a")), body()],
        [start(99), body()],
        [start("200"), body()],
        [start(), start()],
        [body()],
        [start(200, (b"content-length", b"x")), body()],
        [start(200, (b"content-length", b"3")), body(b"abcd")],
        [{"type": "http.response.tea"}],
        [],
        [start()],
    ],
)
def test_an_app_that_breaks_the_rules_before_its_head_is_out_is_a_500(messages, caplog):
    with running(answering(*messages)) as server:
        first, second = responses_of(server.talk(GET + GOOD))
    assert (first.status, second.status) == (500, 200)
    assert first.json() == {
        "type": "urn:perdure:problem:internal",
        "title": "Internal error",
        "status": 500,
    }
    assert errors_of(caplog)


def test_an_app_that_fails_before_its_response_is_a_500(caplog):
    with running(answering(start(), fail=True)) as server:
        first, second = responses_of(server.talk(GET + GOOD))
    assert (first.status, second.status) == (500, 200)
    assert b"secret" not in first.body
    assert errors_of(caplog) == ["asgi app failed"]


@pytest.mark.parametrize(
    "app",
    [
        answering(start(), body(b"abc", more=True), fail=True),
        answering(start(), body(b"abc", more=True)),
        answering(start(200, (b"content-length", b"9")), body(b"abc", more=True), body()),
    ],
)
def test_an_app_that_fails_inside_its_response_cuts_the_connection(app, caplog):
    with running(app) as server, server.connect() as client:
        client.sendall(GET + GOOD)
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(65536):
                data += part
        assert not data.endswith(b"0\r\n\r\n")
        assert b"good" not in data
        assert len(responses_of(server.talk(GOOD))) == 1
    assert errors_of(caplog)


def test_connection_close_of_the_app_is_obeyed():
    with running(answering(start(200, (b"connection", b"close")), body(b"abc"))) as server:
        (response,) = responses_of(server.talk(GET))
    assert response.headers[b"connection"] == b"close"


def test_a_body_comes_in_pieces_and_reading_pauses_while_nobody_takes_them():
    go = asyncio.Event()

    async def app(scope, receive, send):
        await go.wait()
        await length_app(scope, receive, send)

    size = 8 << 20
    with running(app) as server, server.connect() as client:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        client.sendall(head % size)
        client.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < size:
                sent += client.send(b"x" * min(65536, size - sent))
        assert sent < size
        client.settimeout(WAIT_S)
        server.call(go.set)
        client.sendall(b"x" * (size - sent))
        (response,) = responses_of(read_all(client))
    assert response.body == b"%d" % size


def test_an_app_that_answers_without_reading_the_body_closes_the_connection():
    with running(answering(start(413), body(b"no"))) as server:
        request = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
        (response,) = responses_of(server.talk(request))
    assert response.status == 413
    assert response.headers[b"connection"] == b"close"


def test_send_waits_while_the_client_does_not_read():
    sent = []

    async def app(scope, receive, send):
        await send(start())
        for i in range(100):
            await send(body(b"x" * 100_000, more=True))
            sent.append(i)
        await send(body())

    with running(app) as server, server.connect() as client:
        client.sendall(LAST)
        server.wait_until(lambda: sent)
        first = read_until(client, b"\r\n\r\n")
        assert len(sent) < 100
        (response,) = responses_of(first + read_all(client))
    assert len(response.body) == 100 * 100_000


def test_an_app_hears_that_the_client_left_and_its_send_fails_from_then_on():
    heard = []

    async def app(scope, receive, send):
        await send(start())
        await send(body(b"abc", more=True))
        await receive()
        heard.append(await receive())
        try:
            while True:
                await send(body(b"abc", more=True))
                await asyncio.sleep(0)
        except ConnectionResetError as error:
            heard.append(error)
            raise

    with running(app) as server:
        with server.connect() as client:
            client.sendall(GET)
            read_until(client, b"abc")
        server.wait_until(lambda: len(heard) == 2)
        server.wait_until(lambda: server.server.statistics().asgi_tasks == 0)
    assert heard[0] == {"type": "http.disconnect"}


def test_receive_after_the_response_says_disconnect():
    heard = []

    async def app(scope, receive, send):
        await length_app(scope, receive, send)
        heard.append(await receive())

    with running(app) as server:
        assert len(responses_of(server.talk(GET + GOOD))) == 2
        server.wait_until(lambda: heard)
    assert heard == [{"type": "http.disconnect"}]


def test_lifespan_starts_shares_state_and_stops():
    events = []

    async def app(scope, receive, send):
        for phase in ("startup", "shutdown"):
            events.append((await receive())["type"])
            scope["state"]["ready"] = True
            await send({"type": f"lifespan.{phase}.complete"})

    async def main():
        lifespan = Lifespan(app)
        await lifespan.startup()
        assert lifespan.state == {"ready": True}
        await lifespan.shutdown()
        await lifespan.shutdown()

    asyncio.run(main())
    assert events == ["lifespan.startup", "lifespan.shutdown"]


def test_lifespan_failure_is_an_error_and_an_app_without_lifespan_is_not():
    async def failing(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    async def silent(scope, receive, send):
        raise KeyError(scope["method"])

    async def main():
        with pytest.raises(PerdureError, match="no database"):
            await Lifespan(failing).startup()
        lifespan = Lifespan(silent)
        await lifespan.startup()
        await lifespan.shutdown()

    asyncio.run(main())


# --- frameworks


def _request(server, method, path, content=b"", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, content, named)
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def test_starlette_forms_streams_events_files_and_lifespan(tmp_path: Path):
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    (tmp_path / "a.txt").write_bytes(b"0123456789" * 20_000)
    ended = []

    async def form(request: Request):
        async with request.form() as fields:
            return JSONResponse(dict(fields.items()) | request.state._state)

    async def events(request: Request):
        async def stream():
            try:
                yield "data: 1\n\n"
                await asyncio.Event().wait()
            finally:
                ended.append(True)

        return StreamingResponse(stream(), media_type="text/event-stream")

    @contextlib.asynccontextmanager
    async def lifespan(app):
        yield {"life": "long"}

    app = Starlette(
        routes=[
            Route("/form", form, methods=["POST"]),
            Route("/events", events),
            Mount("/files", StaticFiles(directory=tmp_path)),
        ],
        lifespan=lifespan,
    )
    life = Lifespan(app)
    asyncio.run(_started(life))
    with running(app, state=life.state) as server:
        kind = "application/x-www-form-urlencoded"
        _, answer, _ = _request(server, "POST", "/form", b"a=1&b=%20", content_type=kind)
        assert json.loads(answer) == {"a": "1", "b": " ", "life": "long"}
        assert _request(server, "GET", "/files/a.txt")[1] == b"0123456789" * 20_000
        assert _request(server, "GET", "/files/a.txt", range="bytes=3-5")[:2] == (206, b"345")
        assert _request(server, "GET", "/none")[0] == 404
        with server.connect() as client:
            client.sendall(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"text/event-stream" in read_until(client, b"data: 1\n\n")
        server.wait_until(lambda: ended)


async def _started(life: Lifespan) -> None:
    await life.startup()
    await life.shutdown()


def test_fastapi_validates_uploads_and_streams():
    from fastapi import FastAPI, UploadFile
    from fastapi.responses import StreamingResponse

    app = FastAPI()

    @app.post("/items/{item}")
    async def item(item: int, body: dict[str, int]) -> dict[str, int]:
        return {"item": item} | body

    async def upload(file: UploadFile) -> int:
        return len(await file.read())

    app.post("/upload")(upload)

    @app.get("/stream")
    def stream() -> StreamingResponse:
        return StreamingResponse(b"x" * 1000 for _ in range(100))

    with running(app) as server:
        json_type = {"content_type": "application/json"}
        status, answer, _ = _request(server, "POST", "/items/7", b'{"a": 1}', **json_type)
        assert (status, json.loads(answer)) == (200, {"item": 7, "a": 1})
        assert _request(server, "POST", "/items/x", b"{}", **json_type)[0] == 422
        assert _request(server, "GET", "/stream")[1] == b"x" * 100_000
        form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        form += b"y" * 500_000 + b"\r\n--b--\r\n"
        kind = "multipart/form-data; boundary=b"
        assert _request(server, "POST", "/upload", form, content_type=kind)[:2] == (200, b"500000")


def test_litestar_answers_json_and_streams():
    litestar = pytest.importorskip("litestar")
    from litestar.response import Stream

    @litestar.post("/echo", status_code=200)
    async def echo(request: litestar.Request) -> dict[str, int]:
        return await request.json()

    @litestar.get("/stream", sync_to_thread=False)
    def stream() -> Stream:
        return Stream(iter([b"a" * 1000] * 50))

    app = litestar.Litestar([echo, stream], openapi_config=None)
    with running(app, limits=Limits()) as server:
        status, answer, _ = _request(
            server, "POST", "/echo", b'{"a": 1}', content_type="application/json"
        )
        assert (status, json.loads(answer)) == (200, {"a": 1})
        assert _request(server, "GET", "/stream")[1] == b"a" * 50_000
        assert _request(server, "GET", "/none")[0] == 404
