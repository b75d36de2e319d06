"""The station: where everything arrives that other processes send, and goes to whom it is for.

Each process of a cluster has one, whatever its part: with the links, the shard map as it is used to
send calls, the forwarder for calls that leave, and the watches. A process that owns actors adds
its reception.
"""

import asyncio
import math
import os
import socket
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import msgspec

from perdure.base.clock import Clock
from perdure.base.errors import StoppingError
from perdure.base.ids import new_id
from perdure.base.limits import Limits
from perdure.base.trail import tracing
from perdure.cluster import shard_map
from perdure.cluster.frames import (
    Answer,
    Borrow,
    Call,
    Changed,
    Failed,
    Frame,
    LookingCall,
    Map,
    NotMine,
    TaggedAnswer,
)
from perdure.cluster.handshake import Identity
from perdure.cluster.link import Link
from perdure.cluster.links import Links
from perdure.cluster.network import Network
from perdure.cluster.shard_map import ShardMap
from perdure.cluster.sockets import SocketNetwork, tls_contexts
from perdure.runtime.forwarder import Forwarder
from perdure.runtime.guests import Guests
from perdure.runtime.live import Watch as WatchHere
from perdure.runtime.place import Place
from perdure.runtime.reception import Reception
from perdure.runtime.tracing import TracedForwarder
from perdure.runtime.watches import Watches
from perdure.store.registry import Member

RELEASE = version("perdure")
SOLE_INCARNATION = 1
"""Of the owner of everything, where the store has no registry to give it a number."""


class Station:
    """The links of one process and what goes over them. It is the handler of its links.

    Args:
        behind: told of versions of the map that others know.
        died: told of members whose process seems to be gone.
        watch_here: watches an actor that lives in this process.
    """

    def __init__(
        self,
        place: Place,
        clock: Clock,
        limits: Limits,
        *,
        behind: Callable[[int], None],
        died: Callable[[int], None],
        watch_here: WatchHere | None = None,
        network: Network | None = None,
    ) -> None:
        self.place = place
        self.name = place.name or f"{socket.gethostname()}/{os.getpid()}"
        self.identity = Identity(new_id(), 0, self.name, RELEASE)
        self.map = shard_map.EMPTY
        self.reception: Reception | None = None
        self.guests: Guests | None = None
        network = network or _network_of(place)
        self.links = Links(self.identity, place.key, network, clock, limits, self)
        forwarder = Forwarder if tracing() is None else TracedForwarder
        self.forwarder = forwarder(self.identity.process, self.links, clock, limits, behind)
        self.watches = Watches(self.links, watch_here, lambda: self.forwarder.incarnation)
        self._behind = behind
        self._died = died
        self._clock = clock
        self._alone_since_s = -math.inf
        self._tells_map = False
        self._map_frame = shard_map.to_frame(self.map)
        self._sweeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch over deadlines."""
        self._sweeper = asyncio.create_task(self.forwarder.run(), name="perdure-forwarder")

    async def listen(self) -> str:
        """Take links; returns the address at which others reach this process. Raises OSError."""
        assert self.place.listen is not None
        address = await self.links.listen(self.place.listen)
        return self.place.advertise or address

    async def close(self) -> None:
        """Give up what is not answered, and close all links in order."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        self.forwarder.stop(StoppingError("this process is stopping"))
        await self.links.close()

    def alone_for_s(self) -> float:
        """How long there has been no link to any other process."""
        if any(self.links.open_links()):
            return 0.0
        return self._clock.monotonic_s() - self._alone_since_s

    def be(self, incarnation: int) -> None:
        """Be this incarnation from now on, for all others."""
        self.identity = msgspec.structs.replace(self.identity, incarnation=incarnation)
        self.forwarder.incarnation = incarnation
        self.links.be(self.identity)
        self.links.want(self.map.members.values())

    def take_map(self, newer: ShardMap, *, tell: bool) -> None:
        """Send calls by this map from now on; and tell the others of it."""
        self.map = newer
        self._tells_map = tell
        self.links.want(newer.members.values())
        self.forwarder.take_map(newer)
        self.watches.take_map(newer)
        if tell:
            self._map_frame = shard_map.to_frame(newer)
            for link in self.links.open_links():
                link.send(self._map_frame)

    # -- the handler of the links ----------------------------------------------------------------

    def opened(self, link: Link) -> None:
        """A link is there."""
        if self._tells_map:
            link.send(self._map_frame)
        self.forwarder.send_waiting()
        self.watches.aim_all()

    def received(self, link: Link, frame: Frame) -> None:
        """A frame came: the most frequent kinds are asked for first."""
        kind = type(frame)
        if kind is Answer or kind is Failed or kind is NotMine:
            self.forwarder.received(frame)
        elif kind is Map:
            self._behind(frame.version)  # type: ignore[union-attr]
            if not self._tells_map and frame.version > self.map.version:  # type: ignore[union-attr]
                self.take_map(shard_map.from_frame(frame), tell=False)  # type: ignore[arg-type]
        elif kind is Changed:
            self.watches.changed(frame)  # type: ignore[arg-type]
        elif kind is TaggedAnswer:
            self.forwarder.received(frame)
        elif self.reception is not None:
            self.reception.takers[kind](link, frame)
        elif kind is Call or kind is LookingCall or kind is Borrow:
            link.send(NotMine(frame.id, self.map.version))  # type: ignore[union-attr]

    def closed(self, link: Link, _error: Exception | None) -> None:
        """A link is gone."""
        self._alone_since_s = self._clock.monotonic_s()
        self.forwarder.closed(link)
        if self.guests is not None:
            self.guests.closed(link)
        self.watches.closed(link)
        if self.reception is not None:
            self.reception.closed(link)

    def refused(self, member: Member) -> None:
        """Nobody is at its address."""
        self._died(member.incarnation)

    def unreachable(self, member: Member, error: Exception) -> None:
        """It could not be reached, which tells nothing about whether it lives."""


def _network_of(place: Place) -> Network:
    if place.certificate is None:
        return SocketNetwork()
    assert place.private_key is not None
    assert place.authority is not None
    server, client = tls_contexts(
        Path(place.certificate), Path(place.private_key), Path(place.authority)
    )
    return SocketNetwork(server_ssl=server, client_ssl=client)
