"""A transaction of a web process, which a node carries out; see `blocks`.

Whatever ends it without an outcome that is known to be good is a TransactionConflictError: nothing
of it has happened, and a `@transaction` function runs again.
"""

import asyncio
from collections.abc import Callable

from perdure.actor.methods import ActorType, Method
from perdure.actor.trail import trail_here
from perdure.base.clock import Clock
from perdure.base.codec import encode
from perdure.base.errors import (
    DeadlineError,
    FencedError,
    NotRunningError,
    OutcomeUnknownError,
    StoppingError,
    TransactionConflictError,
    UnreachableError,
)
from perdure.base.ids import jittered
from perdure.cluster.frames import Call, Close, Lock, Open
from perdure.cluster.link import Link
from perdure.runtime.forwarder import Forwarder

_PAUSE_S = 0.02


class BlockElsewhere:
    """One block."""

    def __init__(
        self, forwarder_of: Callable[[str], Forwarder], clock: Clock, deadline_s: float
    ) -> None:
        self._forwarder_of = forwarder_of  # by the key of its first actor
        self._forwarder: Forwarder = None  # type: ignore[assignment]  # known with the first actor
        self._clock = clock
        self._deadline_s = deadline_s
        self._opening = asyncio.Lock()
        self._link: Link | None = None
        self._incarnation = 0
        self._number = 0
        self._is_over = False

    async def lock(self, actor_type: ActorType, key: str) -> None:
        """Take an actor."""
        await self._open(actor_type, key)
        await self._ask(Lock(0, self._number, actor_type.name, key))

    async def call(
        self, method: Method, key: str, arguments: object, request_id: str | None
    ) -> bytes:
        """Run a call; its answer as JSON."""
        name = method.actor_type.name
        await self._open(method.actor_type, key)
        call = Call(0, self._left_s(), name, key, method.name, encode(arguments), None, request_id)
        call.block, call.trail = self._number, trail_here()
        return await self._ask(call)

    async def _open(self, actor_type: ActorType, key: str) -> None:
        """Find who carries it out: the owner of its first actor."""
        async with self._opening:
            while self._link is None:
                if self._left_s() <= 0:
                    raise DeadlineError("nobody who owns the transaction's actors was reached")
                self._forwarder = self._forwarder_of(key)
                found = self._forwarder.owner_link(key)
                if found is not None:
                    await self._open_at(*found, Open(0, self._left_s(), actor_type.name, key))
                    continue
                if self._forwarder.is_owner_cut_off(key):
                    raise UnreachableError("who owns the transaction's actors is cut off from here")
                await self._clock.sleep(jittered(_PAUSE_S))

    async def _open_at(self, incarnation: int, link: Link, frame: Open) -> None:
        try:
            await self._forwarder.exchange(link, frame, self._deadline_s)
            if self._is_over:
                raise NotRunningError("the transaction has ended")
        except (UnreachableError, StoppingError):
            await self._clock.sleep(jittered(_PAUSE_S))
        except BaseException:
            self._forwarder.tell(link, Close(0, frame.id, is_commit=False))
            raise
        else:
            self._incarnation, self._link, self._number = incarnation, link, frame.id

    async def _ask(self, frame: Lock | Call) -> bytes:
        if self._link is None:
            raise NotRunningError("the transaction has ended")
        try:
            return await self._forwarder.exchange(self._link, frame, self._deadline_s)
        except (UnreachableError, StoppingError, FencedError) as error:
            raise TransactionConflictError(f"{error}; nothing of it has happened") from error

    async def commit(self) -> None:
        """End it well; raises why it has not."""
        if self._link is None:
            return
        link: Link | None = self._link
        close = Close(0, self._number, is_commit=True)
        while True:
            try:
                if link is not None:
                    await self._forwarder.exchange(link, close, self._deadline_s)
                    return
            except (UnreachableError, OutcomeUnknownError):
                close.is_again = True
            except (StoppingError, FencedError) as error:
                raise TransactionConflictError(f"{error}; nothing of it has happened") from error
            if self._left_s() <= 0 or self._forwarder.is_cut_off(self._incarnation):
                raise OutcomeUnknownError("nobody could be asked whether the transaction is there")
            await self._clock.sleep(jittered(_PAUSE_S))
            link = self._forwarder.link_of(self._incarnation)

    async def roll_back(self) -> None:
        """End it badly; also when nobody hears, it ends."""
        self._is_over = True
        link, self._link = self._link, None
        if link is not None:
            try:
                close = Close(0, self._number, is_commit=False)
                await self._forwarder.exchange(link, close, self._deadline_s)
            except UnreachableError:
                return

    def cut_off(self) -> None:
        """End it badly without waiting for anybody."""
        self._is_over = True
        if self._link is not None:
            self._forwarder.tell(self._link, Close(0, self._number, is_commit=False))
            self._link = None

    def _left_s(self) -> float:
        return self._deadline_s - self._clock.monotonic_s()
