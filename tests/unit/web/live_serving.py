"""An App on a real socket, and clients of its live views."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, NamedTuple

from websockets.asyncio.client import connect

from perdure import Actor, App, expose, live
from perdure.base.merge_patch import apply
from perdure.web.server import Server


class Board(Actor):
    """Holds anything that JSON can."""

    content: dict[str, Any] = {}
    title: Annotated[str, live] = "empty"
    moves: Annotated[int, live] = 0
    hidden: int = 0

    @expose
    async def put(self, content: dict[str, Any], title: str = "empty") -> None:
        self.content = content
        self.title = title
        self.moves += 1

    @expose
    @live
    async def view(self, only: str = "") -> dict[str, Any]:
        if only == "trouble":
            raise RuntimeError("secret")
        return {name: value for name, value in self.content.items() if name.startswith(only)}

    @expose
    async def hide(self) -> None:
        self.hidden += 1


class Event(NamedTuple):
    """One event, its data decoded."""

    event: str
    id: str
    data: Any


class EventClient:
    """Reads Server-Sent Events as the specification says, and nothing else."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.comments = 0
        self.retries: list[int] = []
        self.value: Any = None
        self.token = ""

    async def read_head(self) -> None:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = dict(line.split(": ", 1) for line in lines[1:] if line)

    async def body(self) -> Any:
        return json.loads(await self.reader.readexactly(int(self.headers["content-length"])))

    async def event(self) -> Event | None:
        """The next event, or None at the end of the stream."""
        fields: dict[str, str] = {}
        while line := await self.reader.readline():
            assert line.endswith(b"\n")
            name, _, value = line.decode().removesuffix("\n").partition(":")
            if name:
                fields[name] = value.removeprefix(" ")
            elif not line.strip() and "data" in fields:
                return self._taken(Event(fields["event"], fields.get("id", ""), fields["data"]))
            elif line.startswith(b":"):
                self.comments += 1
            if name == "retry":
                self.retries.append(int(value))
        return None

    def _taken(self, event: Event) -> Event:
        event = event._replace(data=json.loads(event.data))
        if event.event == "snapshot":
            self.value = event.data
        elif event.event == "patch":
            self.value = apply(self.value, event.data)
        self.token = event.id
        return event


@asynccontextmanager
async def serving(app: App, **options: Any) -> AsyncIterator[tuple[int, Server]]:
    """The App, which runs, on a port of its own."""
    bound = socket.create_server(("127.0.0.1", 0))
    port: int = bound.getsockname()[1]
    server = Server(app, app.site, app.limits, sweep_period_s=0.02, drain_grace_s=0, **options)
    await server.start([bound])
    try:
        yield port, server
    finally:
        await server.close()


@asynccontextmanager
async def watching(
    port: int, target: str, headers: dict[str, str] | None = None, *, method: str = "GET"
) -> AsyncIterator[EventClient]:
    """A client of an event stream, behind its response's head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    writer.write(f"{method} {target} HTTP/1.1\r\nhost: a\r\n{lines}\r\n".encode())
    client = EventClient(reader, writer)
    try:
        await client.read_head()
        yield client
    finally:
        writer.close()


def socket_to(port: int, target: str, **options: Any) -> connect:
    """A WebSocket client."""
    return connect(f"ws://127.0.0.1:{port}{target}", proxy=None, **options)


async def until(condition: Any) -> None:
    """Wait for what time brings."""
    while not condition():
        await asyncio.sleep(0.005)
