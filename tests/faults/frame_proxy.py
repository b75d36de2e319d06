"""A proxy between processes that loses, delays, doubles and swaps what passes, as a seed says.

It knows the frames between processes of a cluster, so it can do so frame by frame; of any other
stream it only can cut connections after some bytes: then the other end has got the question, and
nobody gets the answer.
"""

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Protocol, Self

from tests.faults.supervised import free_port, until

_HANDSHAKE = struct.Struct(">H")
_FRAME = struct.Struct(">II")
_DELAY_MAX_S = 0.2

Address = tuple[str, int]


class Cut(Exception):
    """Raised by a stream to end its connection at once, in both directions."""


class Bytes(Protocol):
    """What one direction of one connection does to what passes."""

    def take(self, data: bytes) -> Iterator[tuple[float, bytes]]:
        """What to send instead, each after a pause in seconds. Raises Cut."""
        ...


class Passing:
    """Everything passes."""

    def take(self, data: bytes) -> Iterator[tuple[float, bytes]]:
        yield 0.0, data


class Silencing:
    """Everything passes until it is silenced; then nothing does, and nobody is told."""

    def __init__(self, is_silent: threading.Event) -> None:
        self._is_silent = is_silent

    def take(self, data: bytes) -> Iterator[tuple[float, bytes]]:
        if not self._is_silent.is_set():
            yield 0.0, data


class Cutting:
    """The connection ends when so many bytes have passed; what is above is lost."""

    def __init__(self, after_bytes: int, faults: Counter[str]) -> None:
        self._left = after_bytes
        self._faults = faults

    def take(self, data: bytes) -> Iterator[tuple[float, bytes]]:
        if len(data) >= self._left:
            self._faults["cut"] += 1
            yield 0.0, data[: self._left]
            raise Cut
        self._left -= len(data)
        yield 0.0, data


class Holding:
    """What contains these bytes is held up, and what is behind it on its connection."""

    def __init__(self, mark: bytes, pause_s: float, faults: Counter[str]) -> None:
        self._mark = mark
        self._pause_s = pause_s
        self._faults = faults

    def take(self, data: bytes) -> Iterator[tuple[float, bytes]]:
        is_meant = self._mark in data
        self._faults["held"] += is_meant
        yield self._pause_s if is_meant else 0.0, data


class Mangling:
    """Of a hundred frames some are cut, doubled, swapped, delayed or dropped.

    Args:
        messages: of the handshake that come first, and pass as they are.
        rates: per fault how many frames of a hundred.
    """

    def __init__(
        self,
        messages: int,
        rates: dict[str, float],
        choices: random.Random,
        faults: Counter[str],
    ) -> None:
        self._messages = messages
        self._rates = rates
        self._choices = choices
        self._faults = faults
        self._held = b""
        self._swapped = b""

    def take(self, data: bytes) -> Iterator[tuple[float, bytes]]:
        self._held += data
        while whole := self._whole():
            if self._messages > 0:
                self._messages -= 1
                yield 0.0, whole
            else:
                yield from self._mangled(whole)

    def _whole(self) -> bytes:
        """The next message or frame, if all of it is there."""
        header = _HANDSHAKE if self._messages > 0 else _FRAME
        if len(self._held) < header.size:
            return b""
        end = header.size + int(header.unpack_from(self._held)[0])
        if len(self._held) < end:
            return b""
        whole, self._held = self._held[:end], self._held[end:]
        return whole

    def _mangled(self, frame: bytes) -> Iterator[tuple[float, bytes]]:
        fault = self._choose()
        if fault is not None:
            self._faults[fault] += 1
        if fault == "swap" and not self._swapped:
            self._swapped = frame
            return
        if fault == "cut":
            yield 0.0, frame[: self._choices.randrange(len(frame))]
            raise Cut
        if fault != "drop":
            yield self._choices.random() * _DELAY_MAX_S if fault == "delay" else 0.0, frame
        if fault == "double":
            yield 0.0, frame
        if self._swapped:
            swapped, self._swapped = self._swapped, b""
            yield 0.0, swapped

    def _choose(self) -> str | None:
        at = self._choices.random() * 100
        for fault, rate in self._rates.items():
            at -= rate
            if at < 0:
                return fault
        return None


class Proxy:
    """Listens on loopback and connects through, in a thread of its own.

    Args:
        target: where to; with `ports`, that many ports from this one on.
        streams: makes what happens to a connection: from who dialled, and back to it.
    """

    def __init__(
        self,
        target: Address,
        streams: Callable[[], tuple[Bytes, Bytes]] = lambda: (Passing(), Passing()),
        *,
        ports: int = 1,
    ) -> None:
        self.target = target
        self.is_open = True  # else who dials is cut off at once
        self.connections = 0
        self.streams = streams
        self.address = ("127.0.0.1", _first_of_free_ports(ports))  # where it listens
        self._ports = ports
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._stopping = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        until(lambda: len(self._servers) == self._ports, "a proxy that listens")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(20)

    def cut_all(self) -> None:
        """End every connection; both ends see a reset."""
        self._loop.call_soon_threadsafe(self._cut_all)

    def close(self) -> None:
        """Cut all off, also who dials from now on, until `open`."""
        self.is_open = False
        self.cut_all()
        until(lambda: not self._writers, "the end of all connections")

    def open(self) -> None:
        self.is_open = True

    def refuse(self) -> None:
        """Cut all off, and let nobody connect: as at the address of a process that has ended."""
        self._loop.call_soon_threadsafe(self._unlisten)
        self.cut_all()

    def accept(self) -> None:
        """Listen again."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(20)

    def _cut_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        await self._listen()
        await self._stopping.wait()
        self._unlisten()
        self._cut_all()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> None:
        for shift in range(self._ports):
            through = self._through(shift)
            self._servers.append(
                await asyncio.start_server(through, self.address[0], self.address[1] + shift)
            )

    def _unlisten(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    def _through(
        self, shift: int
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], "asyncio.Future[None]"]:
        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.add(writer)
            task = self._loop.create_task(self._pass(reader, writer, shift))
            task.add_done_callback(lambda _: self._writers.discard(writer))

        return connected  # type: ignore[return-value]

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, shift: int
    ) -> None:
        there: asyncio.StreamWriter | None = None
        try:
            if not self.is_open:
                return
            host, port = self.target
            from_there, there = await asyncio.open_connection(host, port + shift)
            self._writers.add(there)
            self.connections += 1
            out, back = self.streams()
            pumps = [
                asyncio.ensure_future(_pump(reader, there, out)),
                asyncio.ensure_future(_pump(from_there, writer, back)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass
        finally:
            for end in (writer, there):
                if end is not None:
                    self._writers.discard(end)
                    with suppress(RuntimeError):
                        end.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stream: Bytes) -> None:
    with suppress(Cut, OSError):
        while data := await reader.read(65536):
            for pause_s, piece in stream.take(data):
                if pause_s:
                    await asyncio.sleep(pause_s)
                writer.write(piece)
            await writer.drain()


def _first_of_free_ports(count: int) -> int:
    """The first of so many free ports that follow each other."""
    for _ in range(100):
        first = free_port()
        with ExitStack() as stack:
            try:
                for shift in range(count):
                    one = stack.enter_context(socket.socket())
                    one.bind(("127.0.0.1", first + shift))
            except OSError:
                continue
            return first
    raise OSError("no free ports")
