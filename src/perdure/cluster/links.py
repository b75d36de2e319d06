"""All links of one process: those it dials, as long as somebody wants them, and those that come in.

Between two processes there may be one in each direction. A process sends its calls on links that it
dialled, and answers on the link on which a call came.

Invariants:
- A link that `link_to` gives out was proven to lead to exactly that incarnation.
- There are never more than `Limits.links_max` connections that came in.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from perdure.base.clock import Clock
from perdure.base.limits import Limits
from perdure.cluster.dialling import Dialled, LinksHandler
from perdure.cluster.handshake import Identity
from perdure.cluster.link import Link, LinkHandler
from perdure.cluster.network import Listener, Network
from perdure.cluster.reach import Leases
from perdure.store.registry import Member

log = logging.getLogger("perdure.cluster")


class Links:
    """See the module. All methods run on the event loop."""

    def __init__(
        self,
        identity: Identity,
        key: bytes,
        network: Network,
        clock: Clock,
        limits: Limits,
        handler: LinksHandler,
    ) -> None:
        self.received = handler.received  # frames go there without a detour
        self._identity = identity
        self._key = key
        self._network = network
        self._clock = clock
        self._limits = limits
        self._handler = handler
        self._dialled: dict[int, Dialled] = {}  # by incarnation
        self._incoming: dict[Link, None] = {}  # an ordered set: simulations have to be repeatable
        self._open: dict[Link, None] = {}  # of both kinds
        self._leases = Leases(limits.lease_ttl_s)
        self._listeners: list[Listener] = []
        self._all_closed = asyncio.Event()
        self._is_closing = False

    async def listen(self, address: str) -> str:
        """Take links at this address; returns it with the port, if 0 was asked for. Raises OSError,
        and ValueError if it is no address."""
        listener = await self._network.listen(address, self._incoming_link)
        self._listeners.append(listener)
        return listener.address

    def be(self, identity: Identity) -> None:
        """Be this from now on: all links, which were made as another, are closed."""
        self._identity = identity
        self.want(())
        for link in [*self._incoming, *self._open]:
            link.close()

    def want(self, members: Iterable[Member]) -> None:
        """Stay connected to these members, and to no others."""
        wanted = {one.incarnation: one for one in members}
        wanted.pop(self._identity.incarnation, None)
        for incarnation in [one for one in self._dialled if one not in wanted]:
            self._dialled.pop(incarnation).stop()
        for member in wanted.values():
            if member.incarnation not in self._dialled:
                self._dial(member)

    def link_to(self, incarnation: int, address: str) -> Link | None:
        """The open link to that member; None: there is none yet, but it is being dialled until
        `want` says who else is wanted."""
        dialled = self._dialled.get(incarnation)
        if dialled is not None:
            link = dialled.link
            return link if link is not None and link.is_open else None
        self._dial(Member(incarnation, name="", address=address, release=""))
        return None

    def saw_leases(self, ends_s: Mapping[int, float]) -> None:
        """When the leases of members end, by the clock of this process."""
        self._leases.saw(ends_s)

    def is_cut_off(self, incarnation: int) -> bool:
        """True if that member lives, and yet cannot be reached from here; see `reach`."""
        dialled = self._dialled.get(incarnation)
        return dialled is not None and self._leases.shows_cut_off(
            incarnation, dialled_since_s=dialled.since_s, now_s=self._clock.monotonic_s()
        )

    def open_links(self) -> Iterator[Link]:
        """All that are open now, in both directions; they may be closed meanwhile."""
        return iter([one for one in self._open if one.is_open])

    async def close(self) -> None:
        """Close all links in order, and take no more; returns when they are gone."""
        self._is_closing = True
        for listener in self._listeners:
            listener.close()
        dialled = list(self._dialled.values())
        self.want(())
        for link in [*self._incoming, *self._open]:
            link.close()
        await asyncio.gather(*(one.task for one in dialled), return_exceptions=True)
        self._note_end()
        await self._all_closed.wait()

    # --- the handler of incoming links, and what dialled ones tell

    def admit(self, link: Link) -> bool:
        """Whether a connection that came in may stay."""
        if self._is_closing:
            return False
        if len(self._incoming) >= self._limits.links_max:
            log.warning("link refused: too many", extra={"links": self._limits.links_max})
            return False
        self._incoming[link] = None
        return True

    def opened(self, link: Link) -> None:
        self._open[link] = None
        self._handler.opened(link)

    def closed(self, link: Link, error: Exception | None) -> None:
        self._incoming.pop(link, None)
        was_open = link in self._open
        self._open.pop(link, None)
        self._note_end()
        if was_open:
            self._handler.closed(link, error)

    def refused(self, member: Member) -> None:
        self._handler.refused(member)

    def unreachable(self, member: Member, error: Exception) -> None:
        self._handler.unreachable(member, error)

    # --- making links

    def _dial(self, member: Member) -> None:
        if not self._is_closing:
            self._dialled[member.incarnation] = Dialled(
                member,
                self._network,
                self._clock,
                self._limits,
                self,
                link_to_dial=self._link_to_dial,
            )

    def _link_to_dial(self, handler: LinkHandler) -> Link:
        return Link(self._identity, self._key, self._clock, self._limits, handler, dials=True)

    def _incoming_link(self) -> Link:
        return _Incoming(self._identity, self._key, self._clock, self._limits, self, dials=False)

    def _note_end(self) -> None:
        if self._is_closing and not self._incoming and not self._open:
            self._all_closed.set()


class _Incoming(Link):
    """A link that counts from when there is a connection: one that fails at TLS never has any."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if cast("Links", self._handler).admit(self):
            super().connection_made(transport)
        else:
            cast("asyncio.Transport", transport).abort()
