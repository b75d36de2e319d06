"""Transactions: calls of several actors that become durable as one, or never were.

Strict two-phase locking on whole actors. The first call of an actor takes it from everyone else;
it is let go when the block has ended, all participants at once:

well:   the states and effects of all join one group commit, linked, in one step of the event loop;
        then the locks go. What others see from now on waits for that commit or a later one.
badly:  every participant is decoded from what it was when it was locked, and then let go.

The locks go before the commit is durable: whoever reads what it holds answers through the gate of
the same commit or a later one, and breaks with it.

Rejected: optimistic versions, checked at the end. Actors do have versions, but a method that ran on
a state that never was can do anything, loop included; and busy actors would starve long blocks.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from perdure.actor.activation import Activation
from perdure.actor.answers import Origin, record_of, reply_of
from perdure.actor.effects import Effects, copy_of, same_effects
from perdure.actor.gate import GroupCommit
from perdure.actor.locks import JoinedTurn, LockTurn, refuse_inner_cycle
from perdure.actor.methods import ActorType, Method
from perdure.actor.model import current_turn
from perdure.actor.trail import trail_here
from perdure.actor.turn import Turn, leads_back
from perdure.base.errors import (
    CycleError,
    NotRunningError,
    TransactionConflictError,
    TransactionError,
)
from perdure.base.limits import Limits

Address = tuple[ActorType, str]

current_transaction: ContextVar["Transaction | None"] = ContextVar(
    "perdure_transaction", default=None
)


class Grounds(Protocol):
    """The process that a transaction runs in, as it needs it."""

    limits: Limits

    def activation(self, actor_type: ActorType, key: str) -> Activation:
        """The actor in memory, loaded or loading."""
        ...

    def submit(self, actor_type: ActorType, key: str, turn: Turn) -> None:
        """Take one call."""
        ...

    def join_commit(self) -> GroupCommit:
        """The group commit that is filling up."""
        ...

    def now_s(self) -> float:
        """Monotonic seconds."""
        ...

    def block_elsewhere(self, deadline_s: float) -> "Elsewhere | None":
        """Who carries out a transaction of this process; None: it does itself."""
        ...


class Elsewhere(Protocol):
    """A transaction that another process carries out, since this one holds no actors."""

    async def lock(self, actor_type: ActorType, key: str) -> None:
        """Take an actor."""
        ...

    async def call(
        self, method: Method, key: str, arguments: object, request_id: str | None
    ) -> bytes:
        """Run a call; returns its answer as JSON."""
        ...

    async def commit(self) -> None:
        """End it well; returns when it is durable."""
        ...

    async def roll_back(self) -> None:
        """Undo all, and wait until what it has seen is durable."""
        ...

    def cut_off(self) -> None:
        """Undo all, soon."""
        ...


def transaction_of(turn: Turn | None) -> "Transaction | None":
    """The transaction that calls of this turn, or of code outside of any, take part in.

    May be one that has ended: a task of its block has outlived it, and will be refused.
    """
    # A task that runs another's turn may have inherited the variable: the turn itself decides.
    here = current_transaction.get()
    if turn is None or (here is not None and here.home is turn):
        return here
    return turn.transaction


class Transaction:
    """One run of a block. `home` is the turn that opened it; its actor takes part."""

    def __init__(self, home: Turn | None, timeout: asyncio.Timeout) -> None:
        self.home = home
        self.grounds: Grounds | None = None  # known with the first call
        self.elsewhere: Elsewhere | None = None  # who carries it out
        self._calls_elsewhere = 0
        self.deadline_s = math.inf
        self.addresses: set[Address] = set()  # of all actors it wanted
        self.waits_for: list[Activation] = []  # locks it waits for; all its locks share the list
        self.is_cured_by_waiting = True  # what its conflict was about goes with its locks
        self._timeout = timeout
        self._asked: dict[Address, LockTurn] = {}  # granted or not
        self._held: dict[Activation, LockTurn] = {}
        self._running: set[JoinedTurn] = set()
        self._failure: BaseException | None = None
        self._inner_blocks = 0  # that are open
        self._is_kept = False  # the block has ended; it commits with its turn
        self._is_over = False
        self._home_before = b""
        self._effects_before: Effects | None = None
        if home is not None:
            home.activation.flush()
            self._home_before = home.activation.snapshot(home)
            self._effects_before = copy_of(home.effects)
            home.transaction = self

    # -- calls -----------------------------------------------------------------------------------

    async def call(
        self,
        grounds: Grounds,
        method: Method,
        key: str,
        arguments: tuple[tuple[Any, ...], dict[str, Any]],
        request_id: str | None,
    ) -> Any:
        """Run one call as part of the transaction; see `Router.call`."""
        caller = current_turn.get()
        self.check(caller)
        bound = method.arguments_from_python(*arguments)
        self._set_out(grounds)
        if self.elsewhere is not None:
            body = await self._call_elsewhere(self.elsewhere, method, key, bound, request_id)
        else:
            body = await self.call_bound(grounds, method, key, bound, request_id)
        return method.result_from_json(body)

    async def _call_elsewhere(
        self, elsewhere: Elsewhere, method: Method, key: str, bound: Any, request_id: str | None
    ) -> bytes:
        self.addresses.add((method.actor_type, key))
        self._calls_elsewhere += 1
        try:
            return await elsewhere.call(method, key, bound, request_id)
        finally:
            self._calls_elsewhere -= 1

    async def call_bound(
        self, grounds: Grounds, method: Method, key: str, bound: Any, request_id: str | None
    ) -> bytes:
        """The same for arguments that are checked; returns the answer as JSON."""
        caller = current_turn.get()
        lock = await self.lock(grounds, method.actor_type, key)
        task = asyncio.current_task()
        assert task is not None
        turn = JoinedTurn(
            method,
            bound,
            self.deadline_s,
            caller=None if caller is None else caller.caller,
            parent=caller,
            request_id=request_id,
            activation=lock.activation,
            trail=trail_here(caller),
            transaction=self,
            task=task,
        )
        refuse_inner_cycle(caller, lock, self._held)
        if caller is None:
            return await self._run(lock, turn)
        caller.waits_for = caller.waits_for or []
        caller.waits_for.append(lock.activation)
        try:
            return await self._run(lock, turn)
        finally:
            caller.waits_for.remove(lock.activation)

    async def _run(self, lock: LockTurn, turn: JoinedTurn) -> bytes:
        async with lock.one_by_one:
            self.check(turn.parent)
            if lock.activation.dead is not None:
                raise lock.activation.dead
            token = current_turn.set(turn)
            lock.current = turn
            self._running.add(turn)
            turn.effects = copy_of(lock.effects)
            host = lock.activation.host
            began_s = host.now_s()
            try:
                return await self._run_alone(lock, turn)
            except BaseException as error:
                host.measures.failed[turn.method] += 1
                if lock.activation.dead is None:
                    lock.activation.restore()
                if turn.is_cut_off and isinstance(error, asyncio.CancelledError):
                    if turn.task.uncancel() > 0:
                        raise
                    raise NotRunningError(f"{turn}: its transaction ended before it did") from None
                raise
            finally:
                turn.finished = True
                host.measures.waiting_turns[turn.method].add(host.now_s() - began_s)
                lock.current = None
                current_turn.reset(token)
                self._running.discard(turn)
                if self._is_over and not self._running:
                    self._roll_back_others()

    async def _run_alone(self, lock: LockTurn, turn: JoinedTurn) -> bytes:
        activation, request_id = lock.activation, turn.request_id
        if lock.effects is not None and lock.effects.forget:
            raise TransactionError(f"{turn}: it was forgotten in this transaction")
        if request_id is not None:
            record = lock.records.get(request_id)
            known = (
                await activation.answer_before(turn, request_id)
                if record is None
                else reply_of(record, turn)
            )
            if known is not None:
                return known
        turn.method.begun += 1
        result = await turn.method.start(activation.actor, turn.arguments)
        if activation.dead is not None:
            raise activation.dead
        if turn.method.read and same_effects(turn.effects, lock.effects):
            turn.effects = None  # they are of calls before this one
        body, changed = activation.end_call(turn, result)
        if not turn.method.read:
            lock.effects = turn.effects
        lock.is_changed |= changed
        if request_id is not None:
            lock.records[request_id] = record_of(turn, request_id, body)
        return body

    def check(self, caller: Turn | None = None) -> None:
        """Raise if no call can be part of it any more."""
        if self._is_over or (caller is not None and caller.finished):
            raise NotRunningError("a task has outlived the transaction that it called actors in")
        if self._failure is not None:
            raise TransactionError("a block inside this transaction failed") from self._failure

    def _refuse_lost(self) -> None:
        """Raise if a participant was thrown away. Asked at the end, for all at once: asking with
        each call would cost the square of their number."""
        for activation in self._everyone():
            if activation.dead is not None:
                raise activation.dead

    @property
    def has_guests(self) -> bool:
        """True if it holds, or waits for, actors of other processes."""
        return any(
            lock.activation is not None and lock.activation.is_guest
            for lock in self._asked.values()
        )

    def _everyone(self) -> list[Activation]:
        return [*self._held, *([] if self.home is None else [self.home.activation])]

    @asynccontextmanager
    async def inside(self, turn: Turn | None) -> AsyncIterator[None]:
        """A block inside this one is part of it. If it fails, what it did cannot be told from the
        rest, so all fails."""
        self.check(turn)
        self._inner_blocks += 1
        try:
            yield
            self.check(turn)
        except BaseException as error:
            self._failure = self._failure or error
            raise
        finally:
            self._inner_blocks -= 1

    # -- locks -----------------------------------------------------------------------------------

    async def take(self, grounds: Grounds, actor_type: ActorType, key: str) -> None:
        """Take an actor at the begin of the block."""
        self._set_out(grounds)
        if self.elsewhere is not None:
            self.addresses.add((actor_type, key))
            await self.elsewhere.lock(actor_type, key)
        else:
            await self.lock(grounds, actor_type, key)

    async def lock(self, grounds: Grounds, actor_type: ActorType, key: str) -> LockTurn:
        """Take an actor, if the transaction does not hold it yet."""
        lock = self._asked.get((actor_type, key))
        if lock is None:
            lock = self._ask(grounds, actor_type, key)
        if not lock.is_granted:
            await lock.wait()
        return lock

    def _ask(self, grounds: Grounds, actor_type: ActorType, key: str) -> LockTurn:
        self._set_out(grounds)
        address = (actor_type, key)
        self.addresses.add(address)
        target = grounds.activation(actor_type, key)
        self._refuse_deadlock(target)
        lock = LockTurn(
            None,  # type: ignore[arg-type]  # there is no method
            None,
            self.deadline_s,
            parent=self.home,
            waits_for=self.waits_for,
            target=target,
            address=address,
            on_settled=self._settled,
            one_by_one=asyncio.Lock(),
            transaction=self,
        )
        self._asked[address] = lock
        for waits_for in self._waiting_lists():
            waits_for.append(target)
        grounds.submit(actor_type, key, lock)
        return lock

    def _set_out(self, grounds: Grounds) -> None:
        """With the first actor comes the process, with its clock and its limits."""
        if self.grounds is None:
            self.grounds = grounds
            loop, when = asyncio.get_running_loop(), self._timeout.when()
            if self.home is not None:
                self.deadline_s = self.home.deadline_s
            elif when is None:
                when = loop.time() + grounds.limits.call_timeout_s
                self._timeout.reschedule(when)
            if when is not None:
                self.deadline_s = min(self.deadline_s, grounds.now_s() + when - loop.time())
            self.elsewhere = grounds.block_elsewhere(self.deadline_s)
        elif self.grounds is not grounds:
            raise TransactionError("a transaction cannot hold actors of two Apps")

    def _waiting_lists(self) -> Iterator[list[Activation]]:
        """Where others look for what this transaction waits for."""
        yield self.waits_for
        if self.home is not None:
            self.home.waits_for = self.home.waits_for or []
            yield self.home.waits_for

    def _settled(self, lock: LockTurn) -> None:
        for waits_for in self._waiting_lists():
            waits_for.remove(lock.target)
        if not lock.is_granted:
            del self._asked[lock.address]
            return
        self._held[lock.activation] = lock
        if self.waits_for:
            # it waits for several at once: what it has got now may be what one of those waits for
            for other in list(self._asked.values()):
                if not other.is_granted:
                    try:
                        self._refuse_deadlock(other.target)
                    except TransactionConflictError as error:
                        other.fail(error)

    def _refuse_deadlock(self, target: Activation) -> None:
        """Raise CycleError if our own call chain holds it, and TransactionConflictError if it waits
        for what that chain or this transaction holds."""
        chain = {} if self.home is None else {one.activation: one for one in self.home.holders()}
        path: list[Any] = []
        if target in chain:
            raise CycleError(f"{target} waits for the call chain that this transaction is in")
        if leads_back(target, chain.keys() | self._held.keys(), path, set()):
            self.is_cured_by_waiting = path[-1] in self._held
            way = " → ".join(map(str, path))
            raise TransactionConflictError(f"others wait for this transaction: {way}")

    # -- the end ---------------------------------------------------------------------------------

    def commit(self, origin: Origin | None = None) -> "list[asyncio.Future[None]]":
        """End the block well; returns what to wait for until all of it is durable.

        In calls with an idempotency key, and in deliveries, it goes on until the turn ends: if the
        block's commit came first, a crash before that would let the repeat do it a second time.

        Args:
            origin: what the commit remembers it by, where another process asks for its outcome.
        """
        self._refuse_open_ends()
        if self.elsewhere is not None:
            self._is_over = True
            return [asyncio.ensure_future(self.elsewhere.commit())]
        home = self.home
        if home is not None and (home.request_id is not None or home.is_delivery):
            self._is_kept = True
            return []
        commit = self._join_before_end()
        if commit is not None and origin is not None:
            one = self._everyone()[0]
            commit.origins.append((one, origin, b"null"))
            commit.links.append([one])  # also alone it is left out with what is remembered
        durable = self._seen()
        self._end()
        return durable

    def end_turn(self) -> None:
        """The turn that has opened it is about to end well, and to commit; raises why it cannot."""
        if not self._is_kept:
            raise TransactionError(f"{self.home} has ended, but not its transaction; await it")
        self._refuse_open_ends()

    def _refuse_open_ends(self) -> None:
        self.check()
        self._refuse_lost()
        if self._running or self.waits_for or self._inner_blocks or self._calls_elsewhere:
            raise TransactionError("a transaction has ended, but not all calls in it; await them")

    def save(self, turn: Turn) -> None:
        """Commit in the middle of the turn that has opened it, if its block has ended."""
        if not self._is_kept or turn is not self.home:
            raise TransactionError(f"{turn}: save() in a transaction; its end commits everything")
        self._refuse_open_ends()
        self._join_before_end()
        self._end()

    def join(self, commit: GroupCommit) -> None:
        """Commit with the end of the turn that has opened it, which has joined already."""
        self._join(commit)
        self._end()

    def _join_home(self) -> GroupCommit | None:
        home = self.home
        if home is None:
            return None
        if home.effects is not None and home.effects.forget:
            raise TransactionError(f"{home}: forget() in its own transaction; do it after")
        _, changed = home.activation.end_call(home, None)
        if not changed and home.effects is None:
            return None
        home.activation.join(home)
        return home.activation.commit

    def _join_before_end(self) -> GroupCommit | None:
        """Commit while the turn that has opened it, if any, goes on."""
        commit = self._join(self._join_home())
        if commit is not None and self.home is not None:
            commit.hold_begun(self.home)
        return commit

    def _join(self, commit: GroupCommit | None) -> GroupCommit | None:
        """Put all that was written into the commit that is filling up; `commit`, if the own actor
        is there already."""
        for activation, lock in self._held.items():
            if lock.is_written or activation.is_guest:
                activation.join(lock, lock.records.values())
                commit = activation.commit
        everyone = self._everyone()
        if commit is not None and len(everyone) > 1:
            commit.links.append(everyone)
        return commit

    def _end(self) -> None:
        self._is_over = True
        self._let_go()

    def _seen(self) -> "list[asyncio.Future[None]]":
        """What to wait for until all that it has seen, or done, is durable."""
        everyone = self._everyone()
        waiters = []
        for commit in {one.commit for one in everyone if one.commit is not None}:
            waiter = asyncio.get_running_loop().create_future()
            commit.hold_future(waiter, *everyone)
            waiters.append(waiter)
        return waiters

    async def give_up(self, error: BaseException) -> None:
        """Undo everything, and wait until what it has seen is durable: the error that gets out may
        rest on that. Raises why that will never be.

        Cancellation waits for nothing, and a conflict tells nothing.
        """
        if self._is_over:
            return
        if self.elsewhere is not None and isinstance(error, Exception):
            self._is_over = True
            await self.elsewhere.roll_back()
            return
        if not isinstance(error, Exception) or isinstance(error, TransactionConflictError):
            self.roll_back()
            return
        try:
            self._refuse_lost()  # its gate has broken already
            seen = self._seen()
        finally:
            self.roll_back()
        await all_of(seen)

    def roll_back(self) -> None:
        """Undo everything, unless it has ended already. Calls that still run are cut off; the last
        of them lets go."""
        if self._is_over:
            return
        self._is_over = True
        if self.elsewhere is not None:
            self.elsewhere.cut_off()
            return
        home = self.home
        if home is not None and not home.finished and home.activation.dead is None:
            home.activation.put_back(self._home_before)
            home.effects = self._effects_before
        self._leave_home()
        for lock in list(self._asked.values()):
            lock.fail(NotRunningError("the transaction has ended"))
        for turn in self._running:
            turn.is_cut_off = True
            turn.task.cancel()
        if not self._running:
            self._roll_back_others()

    def _roll_back_others(self) -> None:
        for lock in self._held.values():
            lock.roll_back()
        self._let_go()

    def _leave_home(self) -> None:
        if self.home is not None and self.home.transaction is self:
            self.home.transaction = None  # else it is the next run's

    def _let_go(self) -> None:
        self._leave_home()
        for lock in self._held.values():
            lock.release()


async def all_of(waiters: "Iterable[asyncio.Future[None]]") -> None:
    """Wait for all of them, then raise the first error."""
    for error in await asyncio.gather(*waiters, return_exceptions=True):
        if error is not None:
            raise error
