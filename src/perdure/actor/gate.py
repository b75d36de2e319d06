"""The output gate and the group commit it belongs to.

A `GroupCommit` gathers the new states of many actors, and an `OutputGate` holds what their turns
let out. One commit, one fsync, one gate: it opens when the commit is durable, or breaks.
"""

import logging
from typing import TYPE_CHECKING

from perdure.actor.turn import Turn
from perdure.store.api import ActorWrite, Batch, RequestRecord

if TYPE_CHECKING:
    from asyncio import Future

    from perdure.actor.activation import Activation

log = logging.getLogger("perdure.actor")


class OutputGate:
    """Holds answers until it is opened, or broken; both happen once."""

    __slots__ = ("_waiters", "held")

    def __init__(self) -> None:
        self.held: list[tuple[Turn, bytes | BaseException]] = []
        self._waiters: list[Future[None]] = []

    def hold(self, turn: Turn, answer: bytes | BaseException) -> None:
        """Keep the answer of a turn, its JSON result or its error, back until the gate opens."""
        self.held.append((turn, answer))

    def hold_future(self, waiter: "Future[None]") -> None:
        """Resolve `waiter` when the gate opens; if it breaks, `waiter` raises the error."""
        self._waiters.append(waiter)

    def open(self) -> None:
        """Let everything out, in the order in which it came."""
        for turn, answer in self.held:
            _give(turn, answer)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def break_with(self, error: BaseException) -> None:
        """Let nothing out; tell everyone the error instead."""
        for turn, _ in self.held:
            _give(turn, error)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error)


def _give(turn: Turn, answer: bytes | BaseException) -> None:
    try:
        if isinstance(answer, bytes):
            turn.succeed(answer)
        else:
            turn.fail(answer)
    except Exception:  # one caller's trouble must not keep the others waiting
        log.exception("an answer could not be given", extra={"turn": str(turn)})


class GroupCommit(OutputGate):
    """What becomes durable next, with the gate that waits for it.

    Of each actor only the last state counts: turns that share a commit share a version.
    """

    __slots__ = ("records", "states")

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[Activation, bytes] = {}
        self.records: list[RequestRecord] = []

    def batch(self, at_ms: int) -> Batch:
        """The commit as the store takes it."""
        writes = [
            ActorWrite(activation.actor_type.name, activation.key, state, activation.version)
            for activation, state in self.states.items()
        ]
        return Batch(writes, self.records, at_ms)
