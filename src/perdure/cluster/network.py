"""The network as links see it, so that a simulated one can take its place.

An address is a text: `tcp:HOST:PORT` or `unix:PATH`.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

ProtocolFactory = Callable[[], asyncio.Protocol]


class Listener(Protocol):
    """A place where others can connect."""

    address: str  # with the port that was chosen, where 0 was asked for

    def close(self) -> None:
        """Take no more connections; those that are there stay."""
        ...


class Network(Protocol):
    """Streams of bytes between processes."""

    async def listen(self, address: str, factory: ProtocolFactory) -> Listener:
        """Make a protocol for each connection that comes in. Raises OSError."""
        ...

    async def connect(self, address: str, factory: ProtocolFactory) -> None:
        """Connect; the protocol gets `connection_made`. Raises OSError; ConnectionRefusedError
        only if nothing listens there, as far as the machine at that address knows."""
        ...
