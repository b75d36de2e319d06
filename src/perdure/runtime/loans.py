"""Loans: actors of this process that transactions of others have borrowed; see `guests`.

*waiting* (a lock in the mailbox) → *granted* (until all of the actor is durable) → *lent* → over
                                                                 link lost, or unknown ▼
                                                                        *deciding* ────┘

Deciding: nobody here knows whether the borrower has committed, or still will. So the actor is
committed as it is, as its next version. If that comes about, the borrower's commit never can. If
the store holds another version already, the borrower has committed: that is taken over. The actor
stays locked until one of both is sure, since what it would show before may be wrong.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

import msgspec

from perdure.actor.activation import Activation
from perdure.actor.guest import Guest, stored_form, take_over
from perdure.actor.host import Host
from perdure.actor.locks import LockTurn
from perdure.actor.methods import ActorType
from perdure.actor.turn import Turn
from perdure.base.clock import Clock
from perdure.base.errors import (
    CycleError,
    NewerStateError,
    NotRunningError,
    PerdureError,
    StoreError,
)
from perdure.base.ids import jittered
from perdure.cluster.frames import Answer, Borrow, NotMine, Returned
from perdure.cluster.link import Link
from perdure.runtime.remote_errors import failed
from perdure.store.api import Store, StoredActor

_PAUSE_S = 0.05  # before it is tried anew to decide

_pack = msgspec.msgpack.Encoder().encode
_unpack_stored = msgspec.msgpack.Decoder(StoredActor | None).decode


class LoanTurn(LockTurn, kw_only=True):
    """Keeps an actor for a transaction of another process."""

    loans: "Loans"
    link: Link
    id: int
    is_lent: bool = False

    def turn_away(self, map_version: int) -> None:
        """Its actor is another's by now."""
        self.loans.turn_away(self, map_version)


class Lender(Host, Protocol):
    """The node that owns the actors, as its loans need it."""

    store: Store

    @property
    def incarnation(self) -> int:
        """In whose name it commits."""
        ...

    def activation(self, actor_type: ActorType, key: str) -> Activation:
        """The actor in memory, loaded or loading."""
        ...

    def submit(self, actor_type: ActorType, key: str, turn: Turn) -> None:
        """Take one call."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` as a task that the process keeps a reference to."""
        ...

    def timers_changed(self) -> None:
        """Another process has committed timers of an actor of ours."""
        ...


class Loans:
    """All loans of one process."""

    def __init__(self, lender: Lender, clock: Clock) -> None:
        self._lender = lender
        self._clock = clock
        self._loans: dict[tuple[Link, int], LoanTurn] = {}
        self.decided = 0  # how often it was for the store to say what became of one

    def ask(self, link: Link, borrow: Borrow, actor_type: ActorType) -> None:
        """Lend an actor as soon as it is free."""
        if (borrow.actor_type, borrow.key) in borrow.chain:
            raise CycleError(f"{borrow.key!r} waits for the call chain of this transaction")
        loan = LoanTurn(
            None,  # type: ignore[arg-type]  # there is no method
            None,
            self._lender.now_s() + borrow.left_s,
            target=self._lender.activation(actor_type, borrow.key),
            address=(actor_type, borrow.key),
            on_settled=self._settled,
            one_by_one=asyncio.Lock(),
            chain=borrow.chain,
            loans=self,
            link=link,
            id=borrow.id,
        )
        self._loans[link, borrow.id] = loan
        self._lender.submit(actor_type, borrow.key, loan)

    def turn_away(self, loan: LoanTurn, map_version: int) -> None:
        """The actor is another's by now."""
        if self._loans.pop((loan.link, loan.id), None) is not None:
            loan.link.send(NotMine(loan.id, map_version))

    def _settled(self, loan: LockTurn) -> None:
        assert isinstance(loan, LoanTurn)
        if loan.is_granted:
            self._lender.spawn(self._lend(loan))
        elif self._loans.pop((loan.link, loan.id), None) is not None:
            assert loan.refusal is not None
            loan.link.send(failed(loan.id, loan.refusal))

    async def _lend(self, loan: LoanTurn) -> None:
        activation = loan.activation
        try:
            await activation.durable()
            if activation.newer:
                raise NewerStateError(f"newer code wrote {activation}: it cannot take part")
            if (loan.link, loan.id) in self._loans:
                body = _pack((self._lender.incarnation, stored_form(activation)))
                loan.link.send(Answer(loan.id, body))
                loan.is_lent = True
        except PerdureError as error:
            if self._loans.pop((loan.link, loan.id), None) is not None:
                loan.link.send(failed(loan.id, error))
                loan.release()

    def returned(self, link: Link, frame: Returned) -> None:
        """A borrower has ended with an actor."""
        loan = self._loans.pop((link, frame.id), None)
        if loan is None:
            return
        if frame.ending == "committed" and loan.is_granted:
            self._take_over(loan, _unpack_stored(frame.stored))
        else:
            self._end(loan, is_known=frame.ending == "unchanged")

    def closed(self, link: Link) -> None:
        """A borrower is gone, or cannot be heard."""
        for place in [place for place in self._loans if place[0] is link]:
            loan = self._loans.pop(place)
            self._end(loan, is_known=not loan.is_lent)

    def _end(self, loan: LoanTurn, *, is_known: bool) -> None:
        if not loan.is_granted:
            loan.fail(NotRunningError(f"{loan} was given up"))
        elif is_known:
            loan.release()
        else:
            self._lender.spawn(self._decide(loan))

    def _take_over(self, loan: LoanTurn, stored: StoredActor | None) -> None:
        activation = loan.activation
        if activation.dead is None:
            take_over(activation, stored)
            if activation.timers:
                self._lender.timers_changed()
        loan.release()

    async def _decide(self, loan: LoanTurn) -> None:
        self.decided += 1
        activation = loan.activation
        while activation.dead is None:
            twin = await self._commit_twin(activation)
            if activation.dead is not None:
                return
            if twin.dead is None:
                activation.version, activation.updated_at_ms = twin.version, twin.updated_at_ms
                break
            try:
                stored = await self._lender.store.load(activation.actor_type.name, activation.key)
            except StoreError:
                stored = stored_form(activation)  # not known: once more
            if (stored.version if stored else 0) != activation.version:
                self._take_over(loan, stored)
                return
            await self._clock.sleep(jittered(_PAUSE_S))
        loan.release()

    async def _commit_twin(self, activation: Activation) -> Guest:
        """Commit a copy, so that what the store says does not throw the actor away."""
        ended = asyncio.get_running_loop().create_future()

        def end(*_how: object) -> None:
            if not ended.done():
                ended.set_result(None)

        twin = Guest(self._lender, activation.actor_type, activation.key, end)
        twin.wake(stored_form(activation))
        twin.join_unchanged()
        await ended
        return twin
