"""What a transaction has on each actor: the lock that keeps it, and the calls that run under it.

A lock waits in the mailbox like any call. It takes the actor in `begin` and never ends there, so
whatever comes later waits until the transaction lets go.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from perdure.actor.turn import Turn
from perdure.base.errors import CycleError, NotRunningError
from perdure.store.api import RequestRecord

if TYPE_CHECKING:
    from perdure.actor.activation import Activation
    from perdure.actor.methods import ActorType


class JoinedTurn(Turn, kw_only=True):
    """A call in a transaction: a turn on an actor that the transaction holds.

    Its answer goes straight to the code that called, since nobody outside can hear of it.
    """

    task: "asyncio.Task[Any]"  # whose code it is; it is cancelled if the block ends first
    is_cut_off: bool = False

    @property
    def holds_alone(self) -> bool:
        return True  # also an interleaving method: its stretches commit with all the rest


class LockTurn(Turn, kw_only=True):
    """Keeps an actor for a transaction. Its `effects` are those of all calls that ended well."""

    is_delivery = asks_first = True  # `begin` is all of it: there is no method
    is_lock = True

    target: "Activation"  # where it goes; `activation` is set on its arrival
    address: "tuple[ActorType, str]"
    on_settled: Callable[["LockTurn"], None]  # it was granted, refused, or given up
    one_by_one: asyncio.Lock  # for the calls
    current: JoinedTurn | None = None  # the call that runs
    is_granted: bool = False
    refusal: BaseException | None = None
    waiting: list[asyncio.Future[None]] = []
    before: bytes = b""  # the state when it was granted
    is_changed: bool = False
    records: dict[str, RequestRecord] = {}

    def __str__(self) -> str:
        return f"a transaction's lock on {self.target}"

    @property
    def is_written(self) -> bool:
        """True if the actor has to be in the commit."""
        return self.is_changed or self.effects is not None or bool(self.records)

    async def wait(self) -> None:
        """Until the transaction holds the actor; raises why it cannot be had."""
        if self.refusal is not None:
            raise self.refusal
        waiter = asyncio.get_running_loop().create_future()
        self.waiting.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self.waiting:  # cancelled
                self.waiting.remove(waiter)
                if not self.waiting:
                    self.fail(NotRunningError(f"{self} was given up"))

    def begin(self) -> bool:
        if self.refusal is not None:
            return False
        self.activation.flush()  # what relaxed methods did: its loss is bounded, this may take long
        self.activation.running = self
        self.before = self.activation.encoded
        self.is_granted = True
        self._settle()
        return False

    def fail(self, error: BaseException) -> None:
        if not self.is_granted and self.refusal is None:
            self.refusal = error
            self._settle()

    def _settle(self) -> None:
        waiting, self.waiting = self.waiting, []
        self.on_settled(self)
        for waiter in waiting:
            if waiter.done():
                continue
            if self.refusal is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(self.refusal)

    def roll_back(self) -> None:
        """Let the actor be as it was when it was locked."""
        activation = self.activation
        if activation.dead is None and activation.encoded is not self.before:
            activation.restore(self.before)

    def release(self) -> None:
        """Let others have the actor."""
        if self.activation.running is self:
            self.activation.release()


def refuse_inner_cycle(
    caller: Turn | None, lock: LockTurn, locks: "dict[Activation, LockTurn]"
) -> None:
    """Raise CycleError if the call that runs on this actor waits, within the transaction, for a
    call chain that now wants it."""
    chain = set() if caller is None else {turn.activation for turn in caller.holders()}
    seen: set[Activation] = set()
    ahead = [lock]
    while ahead:
        one = ahead.pop()
        if one.current is None or one.activation in seen:
            continue
        if one.activation in chain:
            raise CycleError(
                f"{lock.target} waits, in this transaction, for the call that calls it"
            )
        seen.add(one.activation)
        ahead += [locks[other] for other in one.current.waits_for or () if other in locks]
