"""A balancer in this process, before backends that do what a test tells them."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

from perdure.balance.access_log import write_access
from perdure.balance.backends import Backends, Rules, Target
from perdure.balance.health import HealthRules
from perdure.balance.keys import key_reader
from perdure.balance.server import Balancer
from perdure.balance.shared import Shared
from perdure.base.limits import BalanceLimits

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PATIENCE_S = 10.0


def say(answer: bytes, *, times: int = 1_000) -> Script:
    """A backend that answers each request without a body like this, and then closes."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(times):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)

    return script


def ok(body: bytes = b"ok") -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


class Scripted:
    """One backend; `seen` is all it was sent."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.connections = 0
        self.seen = b""
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> Target:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return Target(name=f"b{self.port}", host="127.0.0.1", port=self.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        feed = reader.feed_data

        def tapped(data: bytes) -> None:
            self.seen += data
            feed(data)

        reader.feed_data = tapped  # type: ignore[method-assign]
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await self.script(reader, writer)
        writer.close()

    async def close(self) -> None:
        self.server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)


class Front:
    """The balancer of a test."""

    def __init__(self, shared: Shared, balancer: Balancer, port: int) -> None:
        self.shared = shared
        self.balancer = balancer
        self.port = port

    async def ask(self, raw: bytes, *, ends: bool = True) -> bytes:
        """Sends bytes on a new connection; returns all that comes until it is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(raw)
            if ends:
                writer.write_eof()
            async with asyncio.timeout(PATIENCE_S):
                return await reader.read()
        finally:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def balancing(
    *scripts: Script,
    policy: str = "round-robin",
    health: HealthRules | None = None,
    limits: BalanceLimits | None = None,
    is_trusted: Callable[[str], bool] | None = None,
    rules: Rules | None = None,
    hash_key: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    admin: socket.socket | None = None,
) -> AsyncIterator[tuple[Front, list[Scripted]]]:
    """A running balancer before one backend for each script."""
    scripted = [Scripted(script) for script in scripts]
    backends = Backends(policy, rules)  # type: ignore[arg-type]
    backends.update([await one.start() for one in scripted])
    shared = Shared(
        backends,
        limits or BalanceLimits(),
        hash_of=None if hash_key is None else key_reader(hash_key),
        is_trusted=is_trusted,
        access_log=write_access,
    )
    balancer = Balancer(shared, health, ssl_context)
    bound = socket.create_server(("127.0.0.1", 0))
    await balancer.start(bound, admin)
    try:
        yield Front(shared, balancer, bound.getsockname()[1]), scripted
    finally:
        await balancer.close()
        for one in scripted:
            await one.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)
