"""Live views on the wire: our own server, Server-Sent Events and WebSockets."""

import asyncio
import json
import random
import socket
from typing import Any

import pytest
from starlette.requests import HTTPConnection
from tests.unit.web.live_serving import Board, Event, serving, socket_to, until, watching
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from perdure import Actor, App, Caller, Limits, expose, live, owner
from perdure.base.merge_patch import apply
from perdure.store.memory import MemoryStore
from perdure.testing import async_test, running, spin

VIEW = "/board/a/view"


@async_test
async def test_a_stream_is_a_snapshot_and_then_patches() -> None:
    async with running(Board) as app, serving(app) as (port, server):
        async with watching(port, f"{VIEW}/live") as client:
            assert client.status == 200
            assert client.headers["content-type"] == "text/event-stream"
            assert client.headers["cache-control"] == "no-store, no-transform"
            assert client.headers["connection"] == "close"
            assert (await client.event())[0::2] == ("snapshot", {})  # type: ignore[index]
            await Board.at("a").put({"tea": "one\nand another", "mug": 1})
            await client.event()
            await Board.at("a").put({"tea": "one\nand another", "mug": 2})
            event = await client.event()
            assert event == Event("patch", client.token, {"mug": 2})
            assert client.value == {"tea": "one\nand another", "mug": 2}
            assert len(client.retries) == 1
            assert server.statistics().connections == 1
        await until(lambda: app.statistics()["live_subscribers"] == 0)
        assert server.statistics().connections == 0


@async_test
async def test_arguments_come_as_the_query_and_live_fields_have_a_stream_of_their_own() -> None:
    async with running(Board) as app, serving(app) as (port, _):
        await Board.at("a").put({"tea": 1, "mug": 2}, "shop")
        async with watching(port, f"{VIEW}/live?only=t") as client:
            await client.event()
            assert client.value == {"tea": 1}
        async with watching(port, "/board/a/live") as client:
            await client.event()
            assert client.value == {"title": "shop", "moves": 1}


@async_test
async def test_what_cannot_be_watched_is_refused_with_a_problem() -> None:
    async with running(Board, limits=Limits(live_topics_max=1)) as app, serving(app) as (port, _):
        refused = [
            (f"{VIEW}/live?onyl=t", 422, "bad-arguments"),
            ("/board/a/put/live", 404, "not-found"),
            ("/board/a/nothing/live", 404, "not-found"),
            ("/board/%00/live", 400, "invalid-key"),
            ("/board/a/view/more/live", 404, "not-found"),
        ]
        for target, status, kind in refused:
            async with watching(port, target) as client:
                assert client.status == status
                assert (await client.body())["type"].endswith(kind)
        async with watching(port, f"{VIEW}/live", method="HEAD") as client:
            assert (client.status, client.headers["allow"]) == (405, "GET")
        headers = {"origin": "http://elsewhere"}
        async with watching(port, f"{VIEW}/live", headers) as client:
            assert client.status == 403
        async with watching(port, f"{VIEW}/live"), watching(port, "/board/a/live") as client:
            assert (client.status, client.headers["retry-after"]) == (503, "1")
            assert (await client.body())["type"].endswith("overloaded")


@async_test
async def test_an_error_is_the_last_event() -> None:
    async with running(Board) as app, serving(app) as (port, _):
        async with watching(port, f"{VIEW}/live?only=trouble") as client:
            event = await client.event()
            assert event is not None
            assert (event.event, event.data["status"]) == ("error", 500)
            assert "secret" not in json.dumps(event)
            assert await client.event() is None
        async with socket_to(port, f"{VIEW}/live?only=trouble") as web_socket:
            assert json.loads(await web_socket.recv())["data"]["status"] == 500
            with pytest.raises(ConnectionClosedError):
                await web_socket.recv()
            assert web_socket.close_code == 1011
        assert app.statistics()["live_subscribers"] == 0


@async_test
async def test_a_stream_behind_pipelined_calls_waits_for_their_replies() -> None:
    async with running(Board) as app, serving(app) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        call = b'POST /board/a/put HTTP/1.1\r\nhost: a\r\ncontent-length: 13\r\n\r\n{"content":{}'
        call = call.replace(b"13", b"14") + b"}"
        watch = b"GET /board/a/live HTTP/1.1\r\nhost: a\r\n\r\n"
        writer.write(call + call + watch + call)
        received = b""
        while b"data: " not in received:
            received += await reader.read(4096)
        assert received.count(b"200 OK") == 3
        assert b'data: {"title":"empty","moves":' in received.splitlines()[-2]
        writer.close()
        await until(lambda: app.statistics()["live_subscribers"] == 0)


@async_test
async def test_random_disconnects_leave_no_gap_and_repeat_nothing() -> None:
    dice = random.Random(7)
    async with running(Board) as app, serving(app) as (port, _):
        truth: list[Any] = [{}]

        async def change() -> None:
            content = dict(truth[-1])
            name = dice.choice("abcdef")
            if dice.random() < 0.3:
                content.pop(name, None)
            else:
                content[name] = dice.choice([None, 1, "x" * 30, [1, None], {"y": dice.random()}])
            truth.append(content)
            await Board.at("a").put(content)

        async with watching(port, f"{VIEW}/live") as keeper:
            value, token, seen, resumed = None, "", 0, 0
            for visit in range(60):
                headers = {"last-event-id": token} if token and visit % 2 else {}
                target = f"{VIEW}/live" + (f"?last_event_id={token}" if not headers else "")
                async with watching(port, target, headers) as client:
                    client.value, client.token = value, token
                    for _ in range(dice.randrange(4)):
                        await change()
                    while json.dumps(client.value) != json.dumps(truth[-1]):
                        event = await client.event()
                        assert event is not None
                        resumed += event.event == "patch"
                        known = [json.dumps(one, sort_keys=True) for one in truth]
                        seen = known.index(json.dumps(client.value, sort_keys=True), seen)
                        if client.value == truth[-1]:
                            break
                    value, token = client.value, client.token
                for _ in range(dice.randrange(3)):
                    await change()
            while keeper.value != truth[-1]:
                await keeper.event()
            assert resumed > 20


@async_test
async def test_a_slow_reader_costs_one_frame_and_gets_the_newest_when_it_reads() -> None:
    async with running(Board) as app, serving(app) as (port, server):
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
        await asyncio.get_running_loop().sock_sendall(
            raw, f"GET {VIEW}/live HTTP/1.1\r\nhost: a\r\n\r\n".encode()
        )
        await until(lambda: app.statistics()["live_subscribers"] == 1)
        (stream,) = server._shared.connections
        held = 0
        async with watching(port, f"{VIEW}/live") as fast:
            for n in range(120):
                await Board.at("a").put({"n": n, "text": f"{n}" * 60_000})
                while (fast.value or {}).get("n") != n:
                    await fast.event()
                held = max(held, stream.transport.get_write_buffer_size())  # type: ignore[attr-defined]
        assert 0 < held < 200_000  # a single frame; all would have been 18 MB
        reader, writer = await asyncio.open_connection(sock=raw, limit=1 << 24)
        numbers = []
        while not numbers or numbers[-1] < 119:
            line = await reader.readline()
            if line.startswith(b"data: "):
                numbers.append(json.loads(line[6:]).get("n", -1))
        assert numbers == sorted(set(numbers))
        assert len(numbers) < 100
        writer.close()


@async_test
async def test_a_reader_that_takes_nothing_is_cut() -> None:
    limits = Limits(write_timeout_s=0.2)
    async with running(Board, limits=limits) as app, serving(app) as (port, server):
        async with watching(port, f"{VIEW}/live") as client:
            client.writer.transport.pause_reading()
            for n in range(1000):
                await Board.at("a").put({"n": n, "text": f"{n}" * 50_000})
                await spin(10)
                if not server.statistics().connections:
                    break
            await until(lambda: not server.statistics().connections)
        assert app.statistics()["live_subscribers"] == 0


@async_test
async def test_a_silent_stream_gives_signs_of_life() -> None:
    limits = Limits(live_heartbeat_s=0.05)
    async with running(Board, limits=limits) as app, serving(app) as (port, _):
        async with watching(port, f"{VIEW}/live") as client:
            reading = asyncio.create_task(client.event())
            await reading
            reading = asyncio.create_task(client.event())
            await until(lambda: client.comments >= 3)
            reading.cancel()
        async with socket_to(port, f"{VIEW}/live", ping_interval=None) as web_socket:
            await web_socket.recv()
            pings = []
            web_socket.protocol.logger.info = lambda *_: None
            receive = web_socket.protocol.recv_frame
            web_socket.protocol.recv_frame = lambda frame: (pings.append(frame), receive(frame))[1]  # type: ignore[method-assign]
            await until(lambda: len(pings) >= 2)


@async_test
async def test_a_drain_sends_streams_and_sockets_away() -> None:
    async with running(Board) as app, serving(app) as (port, server):
        async with (
            watching(port, f"{VIEW}/live") as client,
            socket_to(port, f"{VIEW}/live") as web_socket,
        ):
            await client.event()
            await web_socket.recv()
            await server.drain(grace_s=0)
            assert await client.event() is None
            assert len(client.retries) == 2
            with pytest.raises(ConnectionClosedError):
                await web_socket.recv()
            assert web_socket.close_code == 1012
        assert app.statistics()["live_subscribers"] == 0


@async_test
async def test_the_stop_of_the_app_does_so_too() -> None:
    app = App(Board, store=MemoryStore())
    async with (
        app,
        serving(app) as (port, _),
        watching(port, f"{VIEW}/live") as client,
        socket_to(port, f"{VIEW}/live") as web_socket,
    ):
        await client.event()
        await web_socket.recv()
        await app.stop()
        assert await client.event() is None
        with pytest.raises(ConnectionClosedError):
            await web_socket.recv()
        assert web_socket.close_code == 1012


@async_test
async def test_a_restarted_app_says_nothing_to_whom_nothing_is_new() -> None:
    store = MemoryStore()
    async with running(Board, store=store) as app, serving(app) as (port, _):
        await Board.at("a").put({"tea": 1})
        async with watching(port, f"{VIEW}/live") as client:
            await client.event()
            token = client.token
    async with (
        running(Board, store=store) as app,
        serving(app) as (port, _),
        watching(port, f"{VIEW}/live", {"last-event-id": token}) as client,
    ):
        client.value = {"tea": 1}
        await until(lambda: app.statistics()["live_subscribers"] == 1)
        await spin()
        await Board.at("a").put({"tea": 1, "mug": 2, "text": "x" * 30})
        event = await client.event()
        assert event is not None
        assert event.event == "patch"
        assert client.value == {"tea": 1, "mug": 2, "text": "x" * 30}


@async_test
async def test_a_socket_says_the_same_in_messages_and_goes_on_where_it_was() -> None:
    async with running(Board) as app, serving(app) as (port, _):
        async with socket_to(port, f"{VIEW}/live") as keeper:
            for text in ("x" * 10, "y" * 200, "z" * 70_000):  # the three lengths of a frame
                await Board.at("a").put({"text": text, "constant": "c" * 30})
                while True:
                    message = json.loads(await keeper.recv())
                    assert message.keys() == {"event", "id", "data"}
                    if message["data"].get("text") == text:
                        break
            await keeper.send("whatever")
            token = message["id"]
            await Board.at("a").put({"constant": "c" * 30})
            value = {"text": "z" * 70_000, "constant": "c" * 30}
            async with socket_to(port, f"{VIEW}/live?last_event_id={token}") as back:
                message = json.loads(await back.recv())
                assert (message["event"], message["data"]) == ("patch", {"text": None})
                assert apply(value, message["data"]) == {"constant": "c" * 30}
        await until(lambda: app.statistics()["live_subscribers"] == 0)


class Diary(Actor):
    pages: int = 0

    @expose(access=owner)
    @live
    async def read_pages(self) -> int:
        assert self.caller is None
        return self.pages


async def _by_name(connection: HTTPConnection) -> Caller | None:
    if (name := connection.headers.get("x-name")) == "crash":
        raise RuntimeError("secret")
    return Caller(name) if name else None


@async_test
async def test_access_is_checked_as_for_calls_on_both_ways() -> None:
    app = App(Diary, Board, identify=_by_name, store=MemoryStore())
    async with app, serving(app) as (port, _):
        target = "/diary/ann/read_pages/live"
        for name, status in ((None, 401), ("bob", 403), ("crash", 500)):
            headers = {"x-name": name} if name else {}
            async with watching(port, target, headers) as client:
                assert client.status == status
            with pytest.raises(InvalidStatus) as refusal:
                await socket_to(port, target, additional_headers=headers)
            assert refusal.value.response.status_code == status
        async with watching(port, "/board/a/live") as client:  # fields: the app's default
            assert client.status == 401
        with pytest.raises(InvalidStatus):
            await socket_to(port, target, additional_headers={"x-name": "ann"}, origin="http://b")
        async with watching(port, target, {"x-name": "ann"}) as client:
            await client.event()
            assert client.value == 0
        async with socket_to(port, target, additional_headers={"x-name": "ann"}) as web_socket:
            assert json.loads(await web_socket.recv())["data"] == 0
        assert app.statistics()["live_subscribers"] == 0


@async_test
async def test_the_browsers_module_is_served_and_cached() -> None:
    async with running(Board) as app, serving(app) as (port, _):
        async with watching(port, "/-/live.js") as client:
            assert client.status == 200
            assert client.headers["content-type"].startswith("text/javascript")
            size = int(client.headers["content-length"])
            assert b"export function live" in await client.reader.readexactly(size)
            assert size < 5 << 10
            tag = client.headers["etag"]
        async with watching(port, "/-/live.js", {"if-none-match": tag}) as client:
            assert client.status == 304
