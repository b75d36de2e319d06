"""`transaction`: what users write around calls that belong together, and the retries."""

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, overload

from perdure.actor.interleaving import enter
from perdure.actor.model import Actor, current_turn
from perdure.actor.reference import Reference
from perdure.actor.spans import around
from perdure.actor.transaction import (
    Address,
    Grounds,
    Transaction,
    all_of,
    current_transaction,
    transaction_of,
)
from perdure.actor.turn import Turn
from perdure.base.errors import (
    DeadlineError,
    FencedError,
    NotRunningError,
    StoreError,
    TransactionConflictError,
    TransactionError,
)
from perdure.base.ids import random_below

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Function = Callable[Parameters, Coroutine[Any, Any, Result]]

_PAUSE_S = 0.005  # at most, before the second run; doubled for each later one
_PAUSE_MAX_S = 0.2


@overload
def transaction(function: Function[Parameters, Result], /) -> Function[Parameters, Result]: ...
@overload
def transaction(*participants: Actor, timeout_s: float | None = None) -> "TransactionBlock": ...
def transaction(*participants: Any, timeout_s: float | None = None) -> Any:
    """Calls of several actors that take effect as one, or not at all.

        async with transaction():
            await Account.at("a").withdraw(5)
            await Account.at("b").deposit(5)

    Each actor that is called in the block is kept from everyone else until the block ends; what its
    methods call belongs to it too. When the block ends well, all participants commit together, and
    the block waits until that is durable. When it raises, is cancelled or takes too long, they are
    all as before, with their messages, timers and collections, and nobody ever saw anything else.
    An exception of one call undoes that call; code that catches it may go on.

    On a function, `@transaction` or `@transaction(timeout_s=5)` makes its whole body the block, and
    runs it again when it and others wait for each other, until `timeout_s` is over. A bare block
    raises TransactionConflictError then; blocks in code outside of actors that name all their
    participants (`transaction(Account.at("a"), Account.at("b"))`) lock them in one order at their
    begin, and never wait for each other in a circle.

    In a method the own actor takes part: what it changed before the block is committed with it, and
    an exception out of the block takes its fields back to the block's begin. In a call with an
    idempotency key, and in a message or timer, the transaction lasts until the turn ends: its
    commit must be that of the answer.

    *Consistency:* transactions and calls are strictly serializable: they have the effect of running
    one after the other, in an order that agrees with the clock. Relaxed changes are seen like any
    other, and are durable before the block ends. Not covered: queries by index, which see what is
    committed; and what code outside of transactions puts together from several calls.

    Args:
        participants: actors to lock at the block's begin, whatever order they are given in.
        timeout_s: the longest that block, or function with its repeats, may take; by default
            `Limits.call_timeout_s`, and in a turn what is left of it.

    Raises TransactionConflictError; TransactionError for what makes no sense in a transaction, such
    as `save()`; DeadlineError; NotRunningError in a task that outlives the block; and what a
    commit raises.
    """
    if len(participants) == 1 and inspect.iscoroutinefunction(participants[0]):
        return TransactionBlock((), None)(participants[0])
    for one in participants:
        if not isinstance(one, Reference):
            raise TransactionError(f"{one!r} is not an actor's address, like Account.at('a')")
        if one.is_elsewhere:
            raise TransactionError(f"{one!r} is on another server, which commits by itself")
    return TransactionBlock(participants, timeout_s)


class TransactionBlock:
    """What `transaction(...)` gives: for `async with`, once, or to decorate a function."""

    def __init__(self, participants: tuple[Reference, ...], timeout_s: float | None) -> None:
        self._participants = participants
        self._timeout_s = timeout_s
        self._entered: AbstractAsyncContextManager[None] | None = None

    async def __aenter__(self) -> None:
        if self._entered is not None:
            raise TransactionError("a block can be entered once; write transaction() again")
        self._entered = _block(self._named(), self._timeout_s)
        await self._entered.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._entered is not None
        return await self._entered.__aexit__(kind, error, traceback)

    def __call__(self, function: Function[Parameters, Result]) -> Function[Parameters, Result]:
        """Make the body of a function a transaction that is run again after a conflict."""
        if not inspect.iscoroutinefunction(function):
            raise TransactionError(f"@transaction is for async functions, not {function!r}")

        @functools.wraps(function)
        async def run(*positional: Parameters.args, **named: Parameters.kwargs) -> Result:
            retries = _Retries(run, self._named(), self._timeout_s)
            while True:
                try:
                    async with _block(retries.wanted, retries.timeout_s, retries):
                        return await function(*positional, **named)
                except (TransactionConflictError, BaseExceptionGroup) as error:
                    if not _is_conflict(error):
                        raise
                    await retries.pause(error)

        return run

    def _named(self) -> "_Wanted":
        return {(one._actor_type, one._key): _grounds_of(one) for one in self._participants}


_Wanted = dict[Address, Grounds]  # actors to lock at the begin


def _grounds_of(reference: Reference) -> Grounds:
    if reference._router is None:
        raise NotRunningError(f"{reference!r}: no App with this class runs in this process")
    return reference._router  # type: ignore[return-value]  # the node, which is both


@asynccontextmanager
async def _block(
    wanted: _Wanted, timeout_s: float | None, retries: "_Retries | None" = None
) -> AsyncIterator[None]:
    turn = current_turn.get()
    outer = transaction_of(turn)
    try:
        async with asyncio.timeout(timeout_s) as timeout:
            if outer is not None:
                async with outer.inside(turn):
                    await _lock(outer, wanted)
                    yield
                return
            transaction = Transaction(_home(turn), timeout)
            if retries is not None:
                retries.current = transaction
            async with _outermost(transaction, wanted):
                yield
    except TimeoutError:
        if timeout.expired():
            raise DeadlineError("a transaction ran past its deadline") from None
        raise  # the block's own


def _home(turn: Turn | None) -> Turn | None:
    """The turn that opens a transaction, fit for that."""
    if turn is None or turn.finished:
        return None
    if turn.method.options.interleave:
        raise TransactionError(
            f"{turn} is an @interleave method: it shares its actor, which a transaction would hold"
        )
    return turn


@asynccontextmanager
async def _outermost(transaction: Transaction, wanted: _Wanted) -> AsyncIterator[None]:
    with around("transaction"):
        token = current_transaction.set(transaction)
        try:
            await _lock(transaction, wanted)
            yield
            durable = transaction.commit()
        except BaseException as error:
            await transaction.give_up(error)
            raise
        finally:
            current_transaction.reset(token)
        try:
            with around("commit"):
                await all_of(durable)
        except FencedError as error:
            if transaction.home is None and transaction.has_guests:
                raise TransactionConflictError(f"{error}; nothing of it has happened") from error
            raise  # the whole call of the turn is made again


async def _lock(transaction: Transaction, wanted: _Wanted) -> None:
    """Lock them one after the other, in the one order that all keep to."""
    for address in sorted(wanted, key=lambda one: (one[0].name, one[1])):
        await transaction.take(wanted[address], *address)


class _Retries:
    """Between the runs of one `@transaction` function."""

    def __init__(self, function: Any, wanted: _Wanted, timeout_s: float | None) -> None:
        self._turn = current_turn.get()
        self._is_inside = transaction_of(self._turn) is not None
        self._function = function
        self._runs = 0
        self.wanted = wanted
        self.timeout_s = timeout_s
        self.current: Transaction | None = None

    async def pause(self, error: BaseException) -> None:
        """Wait before the next run; raises `error` if there is to be none.

        From the second run on, what an earlier one wanted is locked at its begin and in order. So
        those that met once do not meet in a circle again, and the mailboxes' order lets each of
        them come up.
        """
        current = self.current
        if self._is_inside or current is None or current.grounds is None:
            raise error
        grounds = current.grounds
        home = current.home
        can_step_aside = home is not None and (
            home.method.function is self._function and not home.is_delivery
        )
        if not (current.is_cured_by_waiting or can_step_aside):
            raise error
        pause_s = random_below(min(_PAUSE_S * 2**self._runs, _PAUSE_MAX_S))
        self._runs += 1
        self.timeout_s = current.deadline_s - grounds.now_s() - pause_s
        if self.timeout_s <= 0:
            raise error
        self.wanted = {**self.wanted, **dict.fromkeys(current.addresses, grounds)}
        if home is not None and can_step_aside:
            await _step_aside(home, pause_s)
        else:
            await asyncio.sleep(pause_s)


async def _step_aside(turn: Turn, pause_s: float) -> None:
    """Let others have the turn's own actor for a while: they may be who all wait for.

    Only for a turn that is all transaction: it has done nothing yet, and knows nothing yet.
    """
    activation = turn.activation
    if activation.away is None:
        activation.away = []
    activation.away.append(turn)
    activation.sharing += 1  # keeps it awake
    activation.release()
    try:
        await asyncio.sleep(pause_s)
        await enter(activation, turn)
    finally:
        activation.sharing -= 1
        activation.away.remove(turn)
    if activation.dead is not None:
        raise StoreError(f"{activation} was thrown away") from activation.dead


def _is_conflict(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_conflict, error.exceptions))
    return isinstance(error, TransactionConflictError)
