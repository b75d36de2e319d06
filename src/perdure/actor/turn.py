"""A turn: one call from the moment it is addressed to an actor until its caller has the answer."""

from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from perdure.actor.effects import Effects
from perdure.actor.model import Caller
from perdure.base.errors import CycleError, TransactionConflictError
from perdure.base.trail import Trail

if TYPE_CHECKING:
    from perdure.actor.activation import Activation
    from perdure.actor.methods import Method
    from perdure.actor.tracing import TurnTrace
    from perdure.actor.transaction import Transaction


# A Struct and not a plain class: its constructor is C, and one is built for every call.
class Turn(msgspec.Struct, eq=False):
    """One call and its place in the call chain. Subclasses say where the answer goes.

    `succeed` or `fail` is called exactly once, by the output gate or, where the turn depends on
    nothing uncommitted, at its end.
    """

    is_delivery: ClassVar[bool] = False  # a message, a timer or a lock
    asks_first: ClassVar[bool] = False  # `begin` is asked before it runs
    is_lock: ClassVar[bool] = False  # it keeps the actor for a transaction
    cause: ClassVar[str] = "call"  # what makes it, in traces
    span_kind: ClassVar[str] = "INTERNAL"

    method: "Method"
    arguments: Any  # a Struct; msgspec.Raw if it only passes through
    deadline_s: float  # monotonic
    caller: Caller | None = None
    parent: "Turn | None" = None
    request_id: str | None = None
    activation: "Activation" = None  # type: ignore[assignment]  # set on its arrival
    waits_for: "list[Activation] | None" = None  # actors it has called and not heard from
    effects: Effects | None = None
    transaction: "Transaction | None" = None  # that its calls take part in
    finished: bool = False
    is_begun: bool = False  # see `has_begun`
    queued_s: float = 0.0  # monotonic: when it came into a mailbox
    trail: Trail | None = None
    trace: "TurnTrace | None" = None  # its spans, while it is recorded; see `tracing`
    replayed: bool = False  # the answer is that of an earlier call with the same request_id
    origin: tuple[str, int] | None = None  # the process that sent it here, and its number there
    root: tuple[str, int] | None = None  # the origin of the call that this is a part of
    chain: Sequence[tuple[str, str]] = ()  # actors of other processes that wait for the answer
    standing: Sequence[int] = ()  # the incarnations that own those: if one falls, this never was

    def __str__(self) -> str:
        return f"{self.method}({self.activation.key!r})" if self.activation else str(self.method)

    def names(self) -> dict[str, str]:
        """What a log line says of it, beside what happened."""
        return {"turn": str(self), **({} if self.trail is None else self.trail.names)}

    def begin_anew(self) -> None:
        """Be as before the turn was given to an activation, which has failed it without effect."""
        self.activation = None  # type: ignore[assignment]
        self.waits_for = self.effects = self.transaction = None
        self.finished = self.replayed = False

    def has_begun(self) -> None:
        """Something of it is durable, or may be, and so of all that waits for it: it must not be
        run again, unless it has an idempotency key."""
        turn: Turn | None = self
        while turn is not None and not turn.is_begun:
            turn.is_begun = True
            turn = turn.parent

    def begin(self) -> bool:
        """Of what asks first: False if it is not wanted now. Raises why it may not run.

        A delivery puts what it consumes into its effects.
        """
        raise NotImplementedError

    def succeed(self, body: bytes) -> None:
        """Give the caller the result, as JSON."""
        raise NotImplementedError

    def fail(self, error: BaseException) -> None:
        """Give the caller the error."""
        raise NotImplementedError

    @property
    def holds_alone(self) -> bool:
        """True if this turn keeps its actor to itself, also while it waits. With an idempotency
        key, and as a delivery, every turn does: what it consumes or answers, and all that led to
        it, commit as one."""
        return self.request_id is not None or self.is_delivery or not self.method.options.interleave

    @property
    def is_inner(self) -> bool:
        """True if another turn waits for this one."""
        return self.parent is not None or bool(self.chain)

    def holders(self) -> "Iterator[Turn]":
        """The turns of this call chain that keep their actors to themselves, innermost first."""
        turn: Turn | None = self
        while turn is not None:
            if not turn.finished and turn.holds_alone:
                yield turn
            turn = turn.parent


def refuse_cycle(caller: Turn, target: "Activation") -> None:
    """Raise CycleError if `target` can only answer after `caller` has finished.

    That is so when the chain of `caller` holds it, or when the turn it is busy with waits, through
    any number of calls, for an actor which that chain holds. Without this check both would stand
    still until a deadline, and the user would see a timeout that explains nothing.

    Where a transaction is on the way it is TransactionConflictError: that way is gone in a moment.
    """
    if (target.actor_type.name, target.key) in caller.chain:
        raise CycleError(
            f"this call would wait for itself: {caller} → {target}, by other processes"
        )
    held = {turn.activation: turn for turn in caller.holders()}
    path: list[Any] = list(held.values())[::-1]
    if leads_back(target, held, path, set()):
        way = " → ".join(map(str, path))
        if any(one.running.is_lock for one in path[len(held) : -1]):
            raise TransactionConflictError(
                f"this call and a transaction wait for each other: {way}"
            )
        raise CycleError(f"this call would wait for itself: {way}")


def leads_back(
    target: "Activation",
    held: "Container[Activation]",
    path: list[Any],
    seen: "set[Activation]",
) -> bool:
    """True if `target` waits, through any number of calls and locks, for one of `held`; the way
    there is added to `path`."""
    path.append(target)
    if target in held:
        return True
    running = target.running
    if running is not None and running.holds_alone and target not in seen:
        seen.add(target)
        for other in running.waits_for or ():
            if leads_back(other, held, path, seen):
                return True
    path.pop()
    return False
