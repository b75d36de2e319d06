"""A wire between a client and a server that a test can cut or freeze, at a chosen byte."""

import asyncio
from collections.abc import Awaitable, Callable

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Wire:
    """Carries what comes to `port` on to a server, and back.

    Only the connections of one event loop; `close` ends them all.
    """

    def __init__(self, connect: Callable[[], Awaitable[Streams]]) -> None:
        self._connect = connect
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._marker = b""
        self._cuts_after = False
        self.cuts = 0  # how often what `cut_at` asked for was done
        self.accepted = 0  # connections so far
        self.is_refusing = False

    async def open(self) -> "Wire":
        """Begin to listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def cut_at(self, marker: bytes, *, after: bool) -> None:
        """Cut the connection that next carries these bytes to the server.

        Args:
            after: let them through and cut when the server answers, instead of the answer.
        """
        self._marker, self._cuts_after = marker, after

    def freeze(self) -> None:
        """Carry nothing more; connections come about, and stay."""
        self._flows.clear()

    def thaw(self) -> None:
        """Carry all that was held back."""
        self._flows.set()

    def cut_all(self) -> None:
        """Cut every connection there is."""
        for writer in self._writers:
            writer.transport.abort()

    async def close(self) -> None:
        """End everything."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.cut_all()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.is_refusing:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        try:
            far_reader, far_writer = await self._connect()
            ends.add(far_writer)
            self._writers |= ends
            doomed = asyncio.Event()
            ways = [
                asyncio.create_task(self._there(reader, far_writer, doomed)),
                asyncio.create_task(self._back(far_reader, writer, doomed)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # the server is away
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _there(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        while data := await reader.read(1 << 16):
            await self._flows.wait()
            if self._marker and self._marker in data:
                self._marker = b""
                self.cuts += 1
                if not self._cuts_after:
                    return
                doomed.set()
            writer.write(data)
            await writer.drain()

    async def _back(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        while data := await reader.read(1 << 16):
            await self._flows.wait()
            if doomed.is_set():
                return
            writer.write(data)
            await writer.drain()
