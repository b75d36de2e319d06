"""The output gate and the group commit it belongs to.

A `GroupCommit` gathers the new states of many actors and the effects of their turns, and an
`OutputGate` holds what those let out. One commit, one fsync, one gate: it opens when the commit is
durable, or breaks.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from perdure.actor.answers import Origin, answers_of
from perdure.actor.turn import Turn
from perdure.store.api import (
    ActorWrite,
    Batch,
    Deferral,
    EntryWrite,
    Message,
    RequestRecord,
    Standing,
    Timer,
)

if TYPE_CHECKING:
    from asyncio import Future

    from perdure.actor.activation import Activation
    from perdure.actor.effects import EntryName
    from perdure.actor.methods import ActorType

log = logging.getLogger("perdure.actor")


class OutputGate:
    """Holds answers until it is opened, or broken; both happen once."""

    __slots__ = ("_refused", "_waiters", "held")

    def __init__(self) -> None:
        self.held: list[tuple[Turn, bytes | BaseException]] = []
        self._waiters: list[tuple[Future[None], Sequence[Activation]]] = []
        self._refused: dict[Activation, BaseException] = {}

    def hold(self, turn: Turn, answer: bytes | BaseException) -> None:
        """Keep the answer of a turn, its JSON result or its error, back until the gate opens."""
        self.held.append((turn, answer))

    def hold_future(self, waiter: "Future[None]", *activations: "Activation") -> None:
        """Resolve `waiter` when the gate opens; if it breaks, or opens without one of the
        activations, `waiter` raises the error."""
        self._waiters.append((waiter, activations))

    def open(self) -> None:
        """Let everything out, in the order in which it came; to what rests on an activation that
        was left out goes its error."""
        refused = self._refused
        for turn, answer in self.held:
            _give(turn, refused.get(turn.activation, answer) if refused else answer)
        for waiter, activations in self._waiters:
            error = next((refused[one] for one in activations if one in refused), None)
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)

    def break_with(self, error: BaseException) -> None:
        """Let nothing out; tell everyone the error instead."""
        for turn, _ in self.held:
            _give(turn, error)
        for waiter, _ in self._waiters:
            if not waiter.done():
                waiter.set_exception(error)


def _give(turn: Turn, answer: bytes | BaseException) -> None:
    try:
        if isinstance(answer, bytes):
            turn.succeed(answer)
        else:
            turn.fail(answer)
    except Exception:  # one caller's trouble must not keep the others waiting
        log.exception("an answer could not be given", extra=turn.names())


class GroupCommit(OutputGate):
    """What becomes durable next, with the gate that waits for it.

    Of each actor only the last state counts: turns that share a commit share a version.
    """

    __slots__ = (
        "at_ms",
        "begun",
        "callers",
        "deferred",
        "entries",
        "links",
        "message_ids",
        "origins",
        "outside",
        "records",
        "sent",
        "states",
        "taken",
        "timers",
    )

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[Activation, bytes | None] = {}  # None: the actor goes
        self.records: list[tuple[Activation, RequestRecord]] = []
        self.sent: list[tuple[Activation, Message]] = []
        self.taken: list[tuple[Activation | None, Message]] = []  # None: an outlet has it
        self.deferred: list[Deferral] = []
        self.timers: dict[tuple[Activation, str], Timer | None] = {}
        self.entries: dict[tuple[Activation, EntryName], bytes | None] = {}
        self.origins: list[tuple[Activation, Origin, bytes | None]] = []  # of calls from elsewhere
        self.begun: list[tuple[Activation, Turn]] = []  # by whose work here which turn has begun
        self.links: list[Sequence[Activation]] = []  # each becomes durable as one, or not at all
        self.outside: dict[Activation, int] = {}
        """Actors that another process may have written: they, and what is linked with them, are
        left out then; with the incarnation of their owner, which must stand, or 0."""
        self.callers: list[tuple[Activation, int]] = []
        """Actors that were called from other processes, with incarnations that must stand."""
        self.at_ms = 0  # when it was handed to the store
        self.message_ids: Sequence[int] = ()  # of `sent`, once it is durable

    def hold_written(self, turn: Turn, body: bytes) -> None:
        """Keep back the answer of a turn whose work is in this commit."""
        self.held.append((turn, body))
        if turn.parent is not None and turn.request_id is None:
            self.begun.append((turn.activation, turn.parent))
        if turn.standing:
            self._rest_on(turn)
        if turn.origin is not None or turn.root is not None:
            self._remember(turn, body)

    def hold_begun(self, turn: Turn) -> None:
        """A turn has work in this commit and goes on."""
        self.begun.append((turn.activation, turn))
        if turn.standing:
            self._rest_on(turn)
        if turn.origin is not None or turn.root is not None:
            self._remember(turn, None)

    def hold_outside(self, turn: Turn, waiter: "Future[None]") -> None:
        """A turn is about to do what no commit of this store holds: resolve `waiter` when it is
        durable that the turn has begun."""
        self._remember(turn, None)
        self.hold_future(waiter, turn.activation)

    def open(self) -> None:
        """Let everything out; what goes on has begun, with all that waits for it."""
        for activation, turn in self.begun:
            if activation not in self._refused:
                turn.has_begun()
        super().open()

    def _rest_on(self, turn: Turn) -> None:
        """Let the turn's work hold only if those who wait for it still own what waits: whoever
        took it from them may run the caller again, and with it this call."""
        self.links.append((turn.activation,))
        self.callers += ((turn.activation, incarnation) for incarnation in turn.standing)

    def _remember(self, turn: Turn, body: bytes | None) -> None:
        """Let a call that came from another process find its answer if it comes again. With an
        idempotency key it does anyway, and what it is part of may then be done again."""
        if turn.request_id is not None:
            return
        if turn.origin is not None:
            self.origins.append((turn.activation, turn.origin, body))
        if turn.root is not None:
            self.origins.append((turn.activation, turn.root, None))

    def _set_apart(self, groups: "dict[Activation, int]") -> None:
        """Make groups of those whose write alone may be refused: their answers go with them."""
        number = max(groups.values(), default=0)
        for activation, _, _ in self.origins:
            if activation.actor_type.can_be_refused and activation not in groups:
                number += 1
                groups[activation] = number

    def batch(self, at_ms: int) -> Batch:
        """The commit as the store takes it."""
        self.at_ms = at_ms
        groups = linked(self.links) if self.links else {}
        if self.origins:
            self._set_apart(groups)
        outside = self.outside
        writes = [
            ActorWrite(
                activation.actor_type.name,
                activation.key,
                state,
                activation.version,
                groups.get(activation, 0),
                yields=activation in outside,
            )
            for activation, state in self.states.items()
            if state is not None or activation.version > 1  # else it never was
        ]
        records = [record for _, record in self.records]
        answers = answers_of(self.origins, groups) if self.origins else ()
        owners = [*outside.items(), *self.callers]
        standing = [Standing(owner, groups[one]) for one, owner in owners if owner]
        if not (self.sent or self.taken or self.deferred or self.timers or self.entries):
            return Batch(writes, records, at_ms, answers=answers, standing=standing)
        timers = self.timers
        return Batch(
            writes,
            records,
            at_ms,
            sent=[message for _, message in self.sent],
            taken=[message for _, message in self.taken],
            deferred=self.deferred,
            timers=[timer for timer in timers.values() if timer is not None],
            cancelled=[
                (activation.actor_type.name, activation.key, name)
                for (activation, name), timer in timers.items()
                if timer is None
            ],
            entries=[
                EntryWrite(activation.actor_type.name, activation.key, field, entry, value)
                for (activation, (field, entry)), value in self.entries.items()
            ],
            answers=answers,
            standing=standing,
        )

    def outdone(self) -> "list[Activation]":
        """Those whose actor has joined once more, as another activation: who came later has it from
        whoever owns it by now. Refusals name actors, so a batch must hold each of them once: else
        what is linked with the one would be left out for the other, or be cut in two."""
        last: dict[tuple[ActorType, str], Activation] = {}
        outdone = []
        for activation in self.states:
            place = (activation.actor_type, activation.key)
            if place in last:
                outdone.append(last[place])
            last[place] = activation
        return outdone

    def drop_effects_on(self, activation: "Activation") -> None:
        """Forget timers and entries of an actor that goes with this commit."""
        self.timers = {at: timer for at, timer in self.timers.items() if at[0] is not activation}
        self.entries = {at: value for at, value in self.entries.items() if at[0] is not activation}

    def leave_out(self, errors: "dict[Activation, BaseException]") -> None:
        """Leave out all that these activations have put here; answers that rest on them become
        the errors. Adds those that are linked with them to `errors`."""
        groups = linked(self.links)
        for activation in list(errors):
            number = groups.get(activation, 0)
            for other in groups if number else ():
                if groups[other] == number:
                    errors.setdefault(other, errors[activation])
        self._refused = {**self._refused, **errors}
        self.states = {one: state for one, state in self.states.items() if one not in errors}
        self.records = [item for item in self.records if item[0] not in errors]
        self.sent = [item for item in self.sent if item[0] not in errors]
        self.taken = [item for item in self.taken if item[0] not in errors]
        self.timers = {at: timer for at, timer in self.timers.items() if at[0] not in errors}
        self.entries = {at: value for at, value in self.entries.items() if at[0] not in errors}
        self.origins = [item for item in self.origins if item[0] not in errors]
        self.outside = {one: owner for one, owner in self.outside.items() if one not in errors}
        self.callers = [item for item in self.callers if item[0] not in errors]


def linked(links: "Iterable[Sequence[Activation]]") -> "dict[Activation, int]":
    """The number of its group for each linked activation; links that meet make one group."""
    group_of: dict[Activation, int] = {}
    members: dict[int, set[Activation]] = {}
    for number, link in enumerate(links, start=1):
        merged = set(link)
        for old in {group_of[one] for one in link if one in group_of}:
            merged |= members.pop(old)
        members[number] = merged
        group_of.update(dict.fromkeys(merged, number))
    return group_of
