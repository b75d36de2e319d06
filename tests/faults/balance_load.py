"""Load on a balancer: requests of every kind at a steady rate, and what became of each.

The oracle is outside: an answer must be that of its own request, and whole.
"""

import asyncio
import contextlib
import os
import random
import struct
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

WORKERS = 24
PATIENCE_S = 30.0

# may be repeated: get, keyed, pieces, chunked; may not: plain; streams: events, websocket
REPEATABLE = ("get", "keyed", "pieces", "chunked")
_MIX = ("get", "get", "get", "keyed", "keyed", "plain", "plain", "pieces", "chunked")
GOING = 1012  # a WebSocket's way to say: come again, somebody else will have you


@dataclass(frozen=True)
class Outcome:
    """One request, from before it was sent until after its answer."""

    kind: str
    begun_s: float
    ended_s: float
    trouble: str = ""  # empty: the right answer came, whole
    had_begun: bool = False  # the head of the right answer had come: nobody may send it again


@dataclass
class Record:
    """All of them."""

    outcomes: list[Outcome] = field(default_factory=list)
    retries: int = 0  # by the balancer

    def counts(self) -> Counter[str]:
        return Counter(one.kind for one in self.outcomes)

    def failed(self, kinds: Iterable[str] | None = None) -> list[Outcome]:
        return [
            one for one in self.outcomes if one.trouble and (kinds is None or one.kind in kinds)
        ]

    def slowest_s(self, kinds: Iterable[str] = REPEATABLE) -> float:
        return max(one.ended_s - one.begun_s for one in self.outcomes if one.kind in kinds)


class Broken(Exception):
    """There was no right answer: why."""


class Caller:
    """One client's connection, kept for as long as the other side keeps it."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.has_head = False  # of the answer to the last question

    async def ask(self, kind: str, name: str) -> None:
        """Raises Broken unless the right answer comes."""
        self.has_head = False
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._ask(kind, name.encode())
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
            self.close()
            raise Broken(f"{type(error).__name__} {error}") from None
        except Broken:
            self.close()
            raise

    async def _ask(self, kind: str, name: bytes) -> None:
        reader, writer = await self._connected()
        writer.write(request_of(kind, name))
        if kind == "websocket":
            await _talk(reader, writer, name)
            self.close()
            return
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if head[9:12] != b"200":
            raise Broken(f"status {head[9:12].decode()}")
        self.has_head = True
        if b"transfer-encoding: chunked" in head:
            content = await _chunks(reader)
        else:
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            content = await reader.readexactly(length)
        if content != answer_to(kind, name):
            raise Broken(f"the answer to something else: {content[:60]!r}")
        if b"connection: close" in head:
            self.close()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            port = random.choice(self._ports)
            self._streams = await asyncio.open_connection("127.0.0.1", port)
        return self._streams

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def request_of(kind: str, name: bytes) -> bytes:
    path = {"events": b"/events", "pieces": b"/pieces", "websocket": b"/ws"}.get(kind, b"/echo")
    head = b"host: shop\r\nx-name: %b\r\n" % name
    if kind in ("get", "events", "pieces"):
        return b"GET %b HTTP/1.1\r\n%b\r\n" % (path, head)
    if kind == "websocket":
        more = b"upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
        return b"GET %b HTTP/1.1\r\n%b%bsec-websocket-key: %b\r\n\r\n" % (
            *(path, head, more),
            b"dGhlIHNhbXBsZSBub25jZQ==",
        )
    if kind != "plain":
        head += b"idempotency-key: %b\r\n" % name
    if kind == "chunked":
        head += b"transfer-encoding: chunked\r\n"
        return b"POST %b HTTP/1.1\r\n%b\r\n4\r\nbody\r\n0\r\n\r\n" % (path, head)
    return b"POST %b HTTP/1.1\r\n%bcontent-length: 4\r\n\r\nbody" % (path, head)


def answer_to(kind: str, name: bytes) -> bytes:
    if kind == "events":
        return b"data: %b\n\n" % name * 5
    return name + b"+" + (b"" if kind in ("get", "pieces") else b"body")


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    content = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        content += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return content


async def _talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: bytes) -> None:
    """Some messages to and fro. A server that goes may say so: that is an answer as well."""
    head = await reader.readuntil(b"\r\n\r\n")
    if head[9:12] != b"101":
        raise Broken(f"status {head[9:12].decode()}")
    for _ in range(5):
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(name))
        writer.write(bytes((0x82, 0x80 | len(name))) + mask + masked)
        code, length = await reader.readexactly(2)
        content = await reader.readexactly(length)
        if code == 0x88 and struct.unpack("!H", content[:2])[0] == GOING:
            return
        if code != 0x82 or content != name:
            raise Broken(f"frame {code:#x} {content[:60]!r}")
        await asyncio.sleep(0.01)


class Load:
    """Requests until `stop`; `ports` may be changed meanwhile."""

    def __init__(self, *ports: int, per_second: int = 2_000, streams: int = 3) -> None:
        self.ports = list(ports)
        self.record = Record()
        self._period_s = WORKERS / per_second
        self._streams = streams
        self.callers: list[Caller] = []
        self._is_over = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for number in range(WORKERS):
            self._tasks.append(asyncio.create_task(self._work(number)))
        for number in range(self._streams):
            for kind in ("events", "websocket"):
                self._tasks.append(asyncio.create_task(self._stream(kind, number)))

    async def stop(self) -> Record:
        self._is_over = True
        await asyncio.gather(*self._tasks)
        return self.record

    async def _work(self, number: int) -> None:
        caller, draw = Caller(self.ports), random.Random(number)
        self.callers.append(caller)
        with contextlib.closing(caller):
            await asyncio.sleep(draw.random() * self._period_s)
            due_s, count = time.monotonic(), 0
            while not self._is_over:
                count += 1
                await self._once(caller, draw.choice(_MIX), f"{number}.{count}")
                due_s = max(due_s + self._period_s, time.monotonic() - 1.0)
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))

    async def _stream(self, kind: str, number: int) -> None:
        count = 0
        while not self._is_over:
            count += 1
            with contextlib.closing(Caller(self.ports)) as caller:
                await self._once(caller, kind, f"{kind}.{number}.{count}")

    async def _once(self, caller: Caller, kind: str, name: str) -> None:
        begun_s, trouble = time.monotonic(), ""
        try:
            await caller.ask(kind, name)
        except Broken as error:
            trouble = str(error)
        self.record.outcomes.append(
            Outcome(kind, begun_s, time.monotonic(), trouble, caller.has_head)
        )
        if trouble:
            await asyncio.sleep(0.01)
