"""Answers that clients have asked for and do not take: a bound for all of them together.

It exists because each connection may hold an answer, or several that were asked for at once, and
there may be ten thousand connections: bounds for each of them are no bound for the memory.

Invariants:
- Only clients that are behind are counted; who keeps up costs nothing.
- Whoever took nothing for longest goes first: an attacker, who is there to wait, and not somebody
  who happens to ask while one is at work.
"""

import asyncio
import logging

logger = logging.getLogger("perdure.web")


class Unread:
    """What the transports of one server hold that their clients have not taken."""

    __slots__ = ("_bytes", "_bytes_max", "_sizes_bytes")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._sizes_bytes: dict[asyncio.WriteTransport, int] = {}  # who is behind longest is first

    def note(self, transport: asyncio.WriteTransport) -> None:
        """Counts what a transport holds; cuts off others, or this one, if it is too much."""
        size_bytes = transport.get_write_buffer_size()
        self._bytes += size_bytes - self._sizes_bytes.get(transport, 0)
        self._sizes_bytes[transport] = size_bytes
        while self._bytes > self._bytes_max:
            slowest = next(iter(self._sizes_bytes))
            logger.warning("slow reader cut off", extra={"unread_bytes_max": self._bytes_max})
            self.forget(slowest)
            slowest.abort()

    def forget(self, transport: asyncio.WriteTransport) -> None:
        """The client has caught up, or is gone."""
        self._bytes -= self._sizes_bytes.pop(transport, 0)
