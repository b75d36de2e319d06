"""Ends of links, and what lies between them, for the tests of this package."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from perdure.base.clock import Clock
from perdure.base.limits import Limits
from perdure.cluster.frames import Frame
from perdure.cluster.framing import FrameWriter
from perdure.cluster.handshake import ClientHandshake, Identity
from perdure.cluster.link import Link
from perdure.cluster.links import Links
from perdure.cluster.network import Network, ProtocolFactory
from perdure.store.registry import Member
from perdure.testing import VirtualClock

KEY = b"a key for tests, 32 bytes long.."
LIMITS = Limits()


def identity(incarnation: int = 0) -> Identity:
    return Identity(f"process-{incarnation}", incarnation, f"machine:{incarnation}", "0.1")


def member(incarnation: int, address: str) -> Member:
    return Member(incarnation, f"machine:{incarnation}", address, "0.1")


class Recorder:
    """A handler that keeps what it was told; `on_frame` may do something about it."""

    def __init__(self) -> None:
        self.opened_links: list[Link] = []
        self.frames: list[Frame] = []
        self.closed_links: list[Link] = []
        self.errors: list[Exception | None] = []
        self.refusals: list[Member] = []
        self.failures: list[Exception] = []
        self.on_frame: Callable[[Link, Frame], object] = lambda link, frame: None

    def opened(self, link: Link) -> None:
        self.opened_links.append(link)

    def received(self, link: Link, frame: Frame) -> None:
        self.frames.append(frame)
        self.on_frame(link, frame)

    def closed(self, link: Link, error: Exception | None) -> None:
        self.closed_links.append(link)
        self.errors.append(error)

    def refused(self, member: Member) -> None:
        self.refusals.append(member)

    def unreachable(self, member: Member, error: Exception) -> None:
        self.failures.append(error)


class FakeTransport(asyncio.Transport):
    """Keeps what is written; delivers it if there is another end."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.other: FakeTransport | None = None
        self.writes: list[bytes] = []
        self.buffered_bytes = 0
        self.is_aborted = False
        self.is_closed = False

    def write(self, data: Any) -> None:
        assert not self.is_closed
        self.writes.append(bytes(data))
        if self.other is not None:
            asyncio.get_running_loop().call_soon(self.other.take, bytes(data))

    def take(self, data: bytes) -> None:
        if not self.is_closed:
            self.protocol.data_received(data)

    def get_write_buffer_size(self) -> int:
        return self.buffered_bytes

    def close(self) -> None:
        """Stays, like a real one, while something is left to be written."""
        if not self.buffered_bytes:
            self._lose()

    def abort(self) -> None:
        self.is_aborted = True
        self._lose()

    def _lose(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)
        if self.other is not None:
            asyncio.get_running_loop().call_soon(self.other._lose)


def joined(one: asyncio.Protocol, other: asyncio.Protocol) -> tuple[FakeTransport, FakeTransport]:
    """Connect two protocols."""
    ends = FakeTransport(one), FakeTransport(other)
    ends[0].other, ends[1].other = ends[1], ends[0]
    one.connection_made(ends[0])
    other.connection_made(ends[1])
    return ends


def new_link(
    handler: Recorder,
    *,
    dials: bool,
    clock: Clock | None = None,
    limits: Limits = LIMITS,
    incarnation: int = 0,
    key: bytes = KEY,
) -> Link:
    clock = clock or VirtualClock()
    return Link(identity(incarnation), key, clock, limits, handler, dials=dials)


async def passes(count: int = 8) -> None:
    """Let the event loop go round a few times."""
    for _ in range(count):
        await asyncio.sleep(0)


class LoneLink:
    """The dialled end of an open link, whose other end is the test: it sends raw bytes."""

    def __init__(self, *, clock: Clock | None = None, limits: Limits = LIMITS) -> None:
        self.handler = Recorder()
        self.link = new_link(self.handler, dials=False, clock=clock, limits=limits)
        self.transport = FakeTransport(self.link)
        self.writer = FrameWriter(1 << 30)
        client = ClientHandshake(identity(7), KEY)
        self.link.connection_made(self.transport)
        self.link.data_received(client.receive(self.transport.writes.pop()))
        client.receive(self.transport.writes.pop())
        assert client.peer == identity(0)
        assert self.link.is_open

    def frame(self, frame: Frame) -> bytes:
        """The bytes of the next frame from the other end."""
        self.writer.add(frame)
        return bytes(self.writer.take())


@contextmanager
def caught_logs() -> Iterator[list[logging.LogRecord]]:
    """What is logged within the block; nothing of it is printed."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("perdure.cluster")
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)


async def until(condition: Callable[[], object]) -> None:
    """Wait for what only time brings; the test's own deadline ends it."""
    while not condition():
        await asyncio.sleep(0.002)


class MemoryNetwork:
    """Connections within the test, and ways not to get one."""

    def __init__(self) -> None:
        self.listeners: dict[str, ProtocolFactory] = {}
        self.transports: list[FakeTransport] = []  # the dialling ends
        self.protocols: list[asyncio.Protocol] = []  # that are stuck
        self.attempts = 0
        self.failure: Exception | None = None
        self.is_stuck = False

    async def listen(self, address: str, factory: ProtocolFactory) -> "MemoryListener":
        self.listeners[address] = factory
        return MemoryListener(self, address)

    async def connect(self, address: str, factory: ProtocolFactory) -> None:
        self.attempts += 1
        if self.is_stuck:
            self.protocols.append(factory())
            await asyncio.Event().wait()
        if self.failure is not None:
            raise self.failure
        if address not in self.listeners:
            raise ConnectionRefusedError(address)
        dialling, _ = joined(factory(), self.listeners[address]())
        self.transports.append(dialling)


class MemoryListener:
    def __init__(self, network: MemoryNetwork, address: str) -> None:
        self.address = address
        self._network = network

    def close(self) -> None:
        self._network.listeners.pop(self.address, None)


class Process:
    """The links of one process, and what they told."""

    def __init__(
        self,
        network: Network,
        incarnation: int,
        *,
        clock: Clock | None = None,
        limits: Limits = LIMITS,
        key: bytes = KEY,
    ) -> None:
        self.handler = Recorder()
        self.links = Links(
            identity(incarnation), key, network, clock or VirtualClock(), limits, self.handler
        )
