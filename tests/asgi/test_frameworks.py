"""What frameworks do with ASGI, through sockets: the same applications on our server and uvicorn.

That they pass on both says that they ask for nothing that only we do.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.endpoints import WebSocketEndpoint
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.httpsredirect import HTTPSRedirectMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from tests.asgi.servers import SERVERS
from tests.asgi.socket_client import WAIT_S, Denied, Disconnected, SocketClient, httpx

MB = 1 << 20


@pytest.fixture(params=SERVERS)
def client_of(request: pytest.FixtureRequest) -> Iterator[Any]:
    made: list[SocketClient] = []

    def make(app: Any, **options: Any) -> SocketClient:
        made.append(
            type("Client", (SocketClient,), {"serving": SERVERS[request.param]})(app, **options)
        )
        return made[-1]

    yield make
    for client in made:
        client.end()
        client.close()


def test_streams_files_and_statuses_without_a_body(client_of: Any, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 4_000)

    async def numbers(request: Request) -> Response:
        async def stream() -> AsyncIterator[bytes]:
            for number in range(200):
                yield b"%d\n" % number * 100

        return StreamingResponse(stream())

    async def status(request: Request) -> Response:
        return Response(status_code=request.path_params["code"], headers={"x-a": "b"})

    async def file(request: Request) -> Response:
        return FileResponse(tmp_path / "a.bin")

    app = Starlette(
        routes=[Route("/numbers", numbers), Route("/status/{code:int}", status), Route("/a", file)]
    )
    client = client_of(app)
    whole = b"".join(b"%d\n" % number * 100 for number in range(200))
    assert client.get("/numbers").content == whole
    for code in (204, 205, 304):
        answer = client.get(f"/status/{code}")
        assert (answer.status_code, answer.content, answer.headers["x-a"]) == (code, b"", "b")
    assert client.get("/a").content == bytes(range(256)) * 4_000
    part = client.get("/a", headers={"range": "bytes=256-259"})
    assert (part.status_code, part.content) == (206, b"\x00\x01\x02\x03")
    for path in ("/a", "/numbers"):
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b"")
    assert client.head("/a").headers["content-length"] == str(256 * 4_000)
    assert client.get("/numbers").content == whole  # the connection is where it should be


def test_lifespan_state_background_tasks_and_mounted_apps(client_of: Any) -> None:
    done: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[dict[str, Any]]:
        yield {"name": "life"}
        done.append("shutdown")

    async def told(request: Request) -> Response:
        async def later() -> None:
            done.append("background")

        told = {"path": request.url.path, "root": request.scope["root_path"]}
        task = BackgroundTask(later)
        return JSONResponse(told | {"name": request.state.name}, background=task)

    inner = Starlette(routes=[Route("/told", told)])
    app = Starlette(routes=[Mount("/inner", inner), Route("/told", told)], lifespan=lifespan)
    with client_of(app, root_path="/api") as client:
        told_there = client.get("/inner/told").json()
        assert told_there == {"path": "/api/inner/told", "root": "/api/inner", "name": "life"}
        assert client.get("/told").json()["root"] == "/api"
        assert done == ["background", "background"]
    assert done[2:] == ["shutdown"]


def test_websockets(client_of: Any) -> None:
    class Echo(WebSocketEndpoint):
        encoding = "text"

        async def on_connect(self, websocket: WebSocket) -> None:
            names = websocket.scope["subprotocols"]
            await websocket.accept(names[-1] if names else None, [(b"x-a", b"b")])

        async def on_receive(self, websocket: WebSocket, data: Any) -> None:
            if data == "close":
                await websocket.close(4001, "enough")
            else:
                await websocket.send_text(data * 2)

    async def deny(websocket: WebSocket) -> None:
        await websocket.send_denial_response(JSONResponse({"why": "no"}, status_code=402))

    async def refuse(websocket: WebSocket) -> None:
        await websocket.close(4003)

    left: list[int] = []

    async def wait(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            await websocket.receive_text()
        except WebSocketDisconnect as gone:
            left.append(gone.code)
            raise

    app = Starlette(
        routes=[
            WebSocketRoute("/echo", Echo),
            WebSocketRoute("/deny", deny),
            WebSocketRoute("/refuse", refuse),
            WebSocketRoute("/wait", wait),
        ]
    )
    client = client_of(app)
    with client.websocket_connect("/echo", ["one", "two"]) as socket:
        assert socket.accepted_subprotocol == "two"
        assert (b"x-a", b"b") in socket.extra_headers
        socket.send_text("ä" * 40_000)
        assert socket.receive_text() == "ä" * 80_000
        socket.send_text("close")
        with pytest.raises(Disconnected) as closed:
            socket.receive_text()
        assert (closed.value.code, closed.value.reason) == (4001, "enough")
    with pytest.raises(Denied) as denied, client.websocket_connect("/deny"):
        pass
    assert (denied.value.response.status_code, denied.value.response.json()) == (402, {"why": "no"})
    with pytest.raises(Denied) as denied, client.websocket_connect("/refuse"):
        pass
    assert denied.value.response.status_code == 403
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/wait") as socket:
        socket.close(3007)
    assert left == [3007]


def test_failures_before_and_after_the_start(client_of: Any) -> None:
    async def before(request: Request) -> Response:
        raise RuntimeError("secret")

    async def refused(request: Request) -> Response:
        raise HTTPException(409, "not now")

    async def after(request: Request) -> Response:
        async def stream() -> AsyncIterator[bytes]:
            yield b"x" * 10
            raise RuntimeError("secret")

        return StreamingResponse(stream())

    app = Starlette(
        routes=[Route("/before", before), Route("/refused", refused), Route("/after", after)]
    )
    # uvicorn closes a connection behind a failure without having said so
    client = client_of(app, raise_server_exceptions=False, headers={"connection": "close"})
    assert client.get("/before").status_code == 500
    assert b"secret" not in client.get("/before").content
    assert (client.get("/refused").status_code, client.get("/refused").text) == (409, "not now")
    with pytest.raises(httpx.TransportError):
        client.get("/after")
    assert client.get("/refused").status_code == 409


def test_middleware(client_of: Any) -> None:
    async def long(request: Request) -> Response:
        return PlainTextResponse("long " * 2_000)

    app = Starlette(
        routes=[Route("/long", long)],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=["testserver"]),
            Middleware(CORSMiddleware, allow_origins=["http://a.test"], allow_methods=["PUT"]),
            Middleware(GZipMiddleware),
        ],
    )
    client = client_of(app)
    answer = client.get("/long", headers={"accept-encoding": "gzip", "origin": "http://a.test"})
    assert answer.text == "long " * 2_000
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["access-control-allow-origin"] == "http://a.test"
    asks = {"origin": "http://a.test", "access-control-request-method": "PUT"}
    assert client.options("/long", headers=asks).headers["access-control-allow-methods"] == "PUT"
    assert client.get("/long", headers={"host": "other"}).status_code == 400
    redirecting = client_of(HTTPSRedirectMiddleware(app))
    moved = redirecting.get("/long", follow_redirects=False)
    assert (moved.status_code, moved.headers["location"]) == (307, "https://testserver/long")
    assert redirecting.get("https://testserver/long").status_code == 200


def test_long_uploads_wait_for_the_application(client_of: Any) -> None:
    async def count(request: Request) -> Response:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            await asyncio.sleep(0)
        return PlainTextResponse(str(size))

    async def ignore(request: Request) -> Response:
        return PlainTextResponse("no", status_code=413)

    app = Starlette(
        routes=[
            Route("/count", count, methods=["POST"]),
            Route("/ignore", ignore, methods=["POST"]),
        ]
    )
    client = client_of(app)
    assert client.post("/count", content=b"x" * (12 * MB)).text == str(12 * MB)
    pieces = (b"y" * 100_000 for _ in range(50))
    assert client.post("/count", content=pieces).text == str(5_000_000)
    assert client.post("/ignore", content=b"z" * 1_000).status_code == 413
    assert client.post("/count", content=b"x").text == "1"


def test_who_leaves_an_event_stream_is_noticed(client_of: Any) -> None:
    ended = threading.Event()

    async def events(request: Request) -> Response:
        async def stream() -> AsyncIterator[str]:
            try:
                yield "data: 1\n\n"
                await asyncio.Event().wait()
            finally:
                ended.set()

        return StreamingResponse(stream(), media_type="text/event-stream")

    client = client_of(Starlette(routes=[Route("/events", events)]), raise_server_exceptions=False)
    with client.stream("GET", "/events") as answer:
        assert next(answer.iter_lines()) == "data: 1"
    assert ended.wait(WAIT_S)


def test_django_answers_streams_and_takes_files(client_of: Any) -> None:
    django = pytest.importorskip("django")
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
    from django.urls import path

    async def told(request: Any) -> HttpResponse:
        return JsonResponse(
            {"method": request.method, "q": request.GET.get("q"), "a": request.COOKIES}
        )

    def upload(request: Any) -> HttpResponse:
        return HttpResponse(str(sum(len(part) for part in request.FILES["file"].chunks())))

    async def stream(request: Any) -> HttpResponse:
        async def parts() -> AsyncIterator[bytes]:
            for _ in range(50):
                yield b"a" * 1_000

        return StreamingHttpResponse(parts())

    urls = type(
        "urls", (), {"urlpatterns": [path("told", told), path("up", upload), path("s", stream)]}
    )
    if not settings.configured:
        settings.configure(
            ROOT_URLCONF=urls, ALLOWED_HOSTS=["testserver"], SECRET_KEY="tests", DEBUG=False
        )
        django.setup()
    client = client_of(get_asgi_application(), raise_server_exceptions=False)
    told_there = client.get("/told?q=%C3%A4", headers={"cookie": "a=b"}).json()
    assert told_there == {"method": "GET", "q": "ä", "a": {"a": "b"}}
    assert client.head("/told").content == b""
    assert client.post("/up", files={"file": b"x" * 3_000_000}).text == "3000000"
    assert client.get("/s").content == b"a" * 50_000
    assert client.get("/none").status_code == 404


def test_litestar_and_fastapi_websockets_and_events(client_of: Any) -> None:
    fastapi = pytest.importorskip("fastapi")
    litestar = pytest.importorskip("litestar")

    @litestar.websocket_listener("/double")
    async def double(data: dict[str, int]) -> dict[str, int]:
        return {name: value * 2 for name, value in data.items()}

    @litestar.get("/events", sync_to_thread=False)
    def events() -> litestar.response.ServerSentEvent:
        return litestar.response.ServerSentEvent(iter(["one", "two"]))

    client = client_of(litestar.Litestar([double, events], openapi_config=None))
    with client.websocket_connect("/double") as socket:
        socket.send_json({"a": 2})
        assert socket.receive_json() == {"a": 4}
    assert client.get("/events").text.count("data: ") == 2

    app = fastapi.FastAPI()

    @app.websocket("/sum")
    async def total(websocket: fastapi.WebSocket, start: int = 0) -> None:
        await websocket.accept()
        with contextlib.suppress(fastapi.WebSocketDisconnect):
            while True:
                start += await websocket.receive_json()
                await websocket.send_json(start)

    client = client_of(app)
    with client.websocket_connect("/sum?start=5") as socket:
        for number, wanted in ((1, 6), (10, 16)):
            socket.send_json(number)
            assert socket.receive_json() == wanted
