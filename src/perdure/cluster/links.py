"""All links of one process: those it dials, as long as somebody wants them, and those that come in.

Between two processes there may be one in each direction. A process sends its calls on links that it
dialled, and answers on the link on which a call came.

Invariants:
- A link that `link_to` gives out was proven to lead to exactly that incarnation.
- Per member there is at most one attempt to connect, or one link, at a time.
- There are never more than `Limits.links_max` connections that came in.
"""

import asyncio
import logging
import math
from collections.abc import Iterable, Iterator
from typing import Protocol, cast

from perdure.base.clock import Clock
from perdure.base.errors import UnreachableError
from perdure.base.ids import jittered
from perdure.base.limits import Limits
from perdure.cluster.handshake import Identity
from perdure.cluster.link import Link, LinkHandler
from perdure.cluster.network import Listener, Network
from perdure.store.registry import Member

log = logging.getLogger("perdure.cluster")


class LinksHandler(LinkHandler, Protocol):
    """Whom the links tell. `opened` and `closed` come for links that opened, in pairs."""

    def refused(self, member: Member) -> None:
        """Nothing listens at its address any more, or another start of a process does: evidence
        that it is gone. Said after each attempt."""
        ...

    def unreachable(self, member: Member, error: Exception) -> None:
        """It could not be reached, which says nothing about whether it is alive. Said after each
        attempt."""
        ...


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
        self.network = network
        self.clock = clock
        self.limits = limits
        self.handler = handler
        self.received = handler.received  # frames go there without a detour
        self._identity = identity
        self._key = key
        self._dialled: dict[int, _Dialled] = {}  # by incarnation
        self._incoming: dict[Link, None] = {}  # an ordered set: simulations have to be repeatable
        self._open: dict[Link, None] = {}  # of both kinds
        self._listeners: list[Listener] = []
        self._all_closed = asyncio.Event()
        self._is_closing = False

    async def listen(self, address: str) -> str:
        """Take links at this address; returns it with the port, if 0 was asked for. Raises OSError,
        and ValueError if it is no address."""
        listener = await self.network.listen(address, lambda: _Incoming(self))
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
            return dialled.link
        self._dial(Member(incarnation, name="", address=address, release=""))
        return None

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

    # --- for the links

    def new_link(self, handler: LinkHandler) -> Link:
        """A link of this process that is about to be dialled."""
        return Link(self._identity, self._key, self.clock, self.limits, handler, dials=True)

    def identity_and_key(self) -> tuple[Identity, bytes]:
        return self._identity, self._key

    def admit(self, link: Link) -> bool:
        """Whether a connection that came in may stay."""
        if self._is_closing:
            return False
        if len(self._incoming) >= self.limits.links_max:
            log.warning("link refused: too many", extra={"links": self.limits.links_max})
            return False
        self._incoming[link] = None
        return True

    def opened(self, link: Link) -> None:
        self._open[link] = None
        self.handler.opened(link)

    def closed(self, link: Link, error: Exception | None) -> None:
        self._incoming.pop(link, None)
        was_open = link in self._open
        self._open.pop(link, None)
        self._note_end()
        if was_open:
            self.handler.closed(link, error)

    def _dial(self, member: Member) -> None:
        if not self._is_closing:
            self._dialled[member.incarnation] = _Dialled(self, member)

    def _note_end(self) -> None:
        if self._is_closing and not self._incoming and not self._open:
            self._all_closed.set()


class _Incoming(Link):
    """A link that counts from when its connection is there: one that fails at TLS never is."""

    def __init__(self, links: Links) -> None:
        identity, key = links.identity_and_key()
        super().__init__(identity, key, links.clock, links.limits, links, dials=False)
        self._links = links

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._links.admit(self):
            super().connection_made(transport)
        else:
            cast("asyncio.Transport", transport).abort()


class _Dialled:
    """A member that is to be connected to, until `stop`; the handler of the links that lead to it.

    At most one attempt, or one link, at a time. A link that broke is dialled again at once if it
    had lasted, since a refusal tells soonest that its process is gone; else after growing pauses.
    """

    def __init__(self, links: Links, member: Member) -> None:
        self.link: Link | None = None  # that is open, and leads to this member
        self.received = links.received
        self._links = links
        self._member = member
        self._attempt: Link | None = None  # the same, from when it is tried until it is gone
        self._is_another = False  # who answered there
        self._opened_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[Exception | None]
        self.task = self._loop.create_task(self._keep())

    def stop(self) -> None:
        self.task.cancel()
        self.link = None
        if self._attempt is not None:
            self._attempt.close()

    # --- the links' handler

    def opened(self, link: Link) -> None:
        peer = cast("Identity", link.peer)
        if peer.incarnation != self._member.incarnation:
            self._is_another = True
            link.close()
            return
        self.link = link
        self._opened_s = self._links.clock.monotonic_s()
        self._links.opened(link)

    def closed(self, link: Link, error: Exception | None) -> None:
        if link is self._attempt:
            self._attempt = self.link = None
            if not self._ended.done():
                self._ended.set_result(error)
        self._links.closed(link, error)

    # --- the task

    async def _keep(self) -> None:
        limits = self._links.limits
        pause_s = limits.link_backoff_s
        while True:
            self._is_another, self._opened_s = False, math.inf
            try:
                await self._connect()
                error = await self._ended
            except (OSError, ValueError) as failure:
                error = failure
            lasted_s = self._links.clock.monotonic_s() - self._opened_s
            if lasted_s < 0:
                self._tell(error)
            if lasted_s >= limits.link_backoff_max_s:
                pause_s = limits.link_backoff_s
            else:
                await self._pause(jittered(pause_s))
                pause_s = min(pause_s * 2, limits.link_backoff_max_s)

    async def _connect(self) -> None:
        links = self._links
        self._ended = self._loop.create_future()
        self._attempt = attempt = links.new_link(self)
        limit_s = links.limits.link_connect_s
        try:
            async with asyncio.timeout(None) as limit:
                alarm = links.clock.call_later(limit_s, lambda: limit.reschedule(0))
                try:
                    await links.network.connect(self._member.address, lambda: attempt)
                finally:
                    alarm.cancel()
        except BaseException:
            self._attempt = None
            attempt.close()
            raise

    def _tell(self, error: Exception | None) -> None:
        """That an attempt failed."""
        handler, member = self._links.handler, self._member
        try:
            if self._is_another or isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
                handler.refused(member)
            else:
                handler.unreachable(member, error or UnreachableError("it closed the link"))
        except Exception:
            log.exception("handler of links failed", extra={"member": member.incarnation})

    async def _pause(self, pause_s: float) -> None:
        over = asyncio.Event()
        alarm = self._links.clock.call_later(pause_s, over.set)
        try:
            await over.wait()
        finally:
            alarm.cancel()
