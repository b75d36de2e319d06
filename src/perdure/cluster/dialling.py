"""Staying connected to one member: attempts, the pauses between them, and what they tell.

Invariants:
- At most one attempt, or one link, at a time.
- A link is told to be open only if it leads to exactly the incarnation that was wanted.
- After `stop` nothing is dialled any more.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Protocol, cast

from perdure.base.clock import Clock
from perdure.base.errors import UnreachableError
from perdure.base.ids import jittered
from perdure.base.limits import Limits
from perdure.cluster.handshake import Identity
from perdure.cluster.link import Link, LinkHandler
from perdure.cluster.network import Network
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


class Dialled:
    """A member that is to be connected to, until `stop`; the handler of the links that lead to it.

    At most one attempt, or one link, at a time. A link that broke is dialled again at once if it
    had lasted, since a refusal tells soonest that its process is gone; else after growing pauses.
    """

    def __init__(
        self,
        member: Member,
        network: Network,
        clock: Clock,
        limits: Limits,
        handler: LinksHandler,
        *,
        link_to_dial: Callable[[LinkHandler], Link],
    ) -> None:
        self.link: Link | None = None  # that leads to this member, as was proven
        self.since_s = math.inf  # when the first attempt began of those that failed so far
        self.received = handler.received
        self._member = member
        self._network = network
        self._clock = clock
        self._limits = limits
        self._handler = handler
        self._link_to_dial = link_to_dial
        self._attempt: Link | None = None  # the same, from when it is tried until it is gone
        self._is_another = False  # who answered there
        self._opened_s = math.inf
        self._ended: asyncio.Future[Exception | None]
        self.task = asyncio.get_running_loop().create_task(self._keep())

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
        self.since_s = math.inf
        self._opened_s = self._clock.monotonic_s()
        self._handler.opened(link)

    def closed(self, link: Link, error: Exception | None) -> None:
        if link is self._attempt:
            self._attempt = self.link = None
            if not self._ended.done():
                self._ended.set_result(error)
        self._handler.closed(link, error)

    # --- the task

    async def _keep(self) -> None:
        pause_s = self._limits.link_backoff_s
        while True:
            self._is_another, self._opened_s = False, math.inf
            try:
                await self._connect()
                error = await self._ended
            except (OSError, ValueError, UnreachableError) as failure:
                error = failure
            lasted_s = self._clock.monotonic_s() - self._opened_s
            if lasted_s < 0:
                self._tell(error)
            if lasted_s >= self._limits.link_backoff_max_s:
                pause_s = self._limits.link_backoff_s
            else:
                await self._pause(jittered(pause_s))
                pause_s = min(pause_s * 2, self._limits.link_backoff_max_s)

    async def _connect(self) -> None:
        self._ended = asyncio.get_running_loop().create_future()
        self._attempt = attempt = self._link_to_dial(self)
        self.since_s = min(self.since_s, self._clock.monotonic_s())
        limit_s = self._limits.link_connect_s
        try:
            async with asyncio.timeout(None) as limit:
                alarm = self._clock.call_later(limit_s, lambda: limit.reschedule(0))
                try:
                    await self._network.connect(self._member.address, lambda: attempt)
                finally:
                    alarm.cancel()
        except BaseException as error:
            self._attempt = None
            attempt.close()
            if isinstance(error, TimeoutError):
                raise UnreachableError(f"no connection within {limit_s:g} s") from None
            raise

    def _tell(self, error: Exception | None) -> None:
        """That an attempt failed."""
        try:
            if self._is_another or isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
                self._handler.refused(self._member)
            else:
                self._handler.unreachable(
                    self._member, error or UnreachableError("it closed the link")
                )
        except Exception:
            log.exception("handler of links failed", extra={"member": self._member.incarnation})

    async def _pause(self, pause_s: float) -> None:
        over = asyncio.Event()
        alarm = self._clock.call_later(pause_s, over.set)
        try:
            await over.wait()
        finally:
            alarm.cancel()
