"""Named timers of an actor: calls it will get at a later time, set and cancelled with the turn.

    self.timers.set("expire", after=timedelta(minutes=10), call="release", hold_id=hold_id)

Names are the actor's own: to set one that is set moves it. A timer fires as a turn, never early by
the wall clock, at least once; its effect happens once, because the turn's commit takes it away.
"""

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.actor.effects import effects_of
from perdure.base.codec import encode
from perdure.base.errors import BadArgumentsError, LimitError
from perdure.base.texts import unstorable
from perdure.store.api import Timer

if TYPE_CHECKING:
    from perdure.actor.turn import Turn


class SetTimer(msgspec.Struct, frozen=True):
    """A timer that is set, as its actor sees it."""

    name: str
    due_at: datetime
    call: str
    every: timedelta | None


class Timers:
    """The timers of the actor that runs `turn`."""

    __slots__ = ("_turn",)

    def __init__(self, turn: "Turn") -> None:
        self._turn = turn

    def set(
        self,
        name: str,
        *,
        call: str,
        after: timedelta | None = None,
        at: datetime | None = None,
        every: timedelta | None = None,
        **arguments: Any,
    ) -> None:
        """Set a timer, or move the one of that name.

        Give one of `after` and `at` (timezone-aware), or `every` alone: then it first fires after
        that time. With `every` it fires again and again until it is cancelled; occurrences that
        were missed while nothing ran come as one.

        Args:
            call: the name of a method of this actor, which gets `arguments`.

        Raises BadArgumentsError, and LimitError when this actor has too many timers, or `every` is
        too short.
        """
        turn = self._turn
        activation = turn.activation
        method = activation.actor_type.methods.get(call)
        if method is None:
            raise BadArgumentsError(f"{turn}: this class has no method {call!r}", "call")
        if what := unstorable(name):
            raise BadArgumentsError(f"{turn}: the name of a timer cannot hold {what}", "name")
        shortest_s = activation.limits.timer_every_min_s
        if every is not None and every.total_seconds() < shortest_s:
            raise LimitError(f"{turn}: timer {name!r}: every is shorter than {shortest_s} s")
        if name not in self._all() and len(self._all()) >= activation.limits.timers_max:
            raise LimitError(f"{turn}: {activation} has {activation.limits.timers_max} timers")
        now_ms = activation.wall_ms()
        due_at_ms = _due_at_ms(now_ms, after, at, every)
        if turn.is_delivery:  # or one that sets itself off at once would never let go of the CPU
            due_at_ms = max(due_at_ms, now_ms + math.ceil(shortest_s * 1000))
        effects_of(turn).timers[name] = Timer(
            activation.actor_type.name,
            activation.key,
            name,
            due_at_ms,
            call,
            encode(method.arguments_from_python((), arguments)),
            None if every is None else math.ceil(every.total_seconds() * 1000),
        )

    def cancel(self, name: str) -> bool:
        """Cancel a timer; returns whether it was set."""
        was_set = name in self._all()
        if was_set:
            effects_of(self._turn).timers[name] = None
        return was_set

    def __contains__(self, name: str) -> bool:
        return name in self._all()

    def __iter__(self) -> Iterator[SetTimer]:
        """All that are set, in the order in which they are due."""
        for timer in sorted(self._all().values(), key=lambda timer: timer.due_at_ms):
            due_at = datetime.fromtimestamp(timer.due_at_ms / 1000, UTC)
            every = None if timer.every_ms is None else timedelta(milliseconds=timer.every_ms)
            yield SetTimer(timer.name, due_at, timer.method, every)

    def _all(self) -> dict[str, Timer]:
        known = self._turn.activation.timers or {}
        effects = self._turn.effects
        if effects is None or not effects.timers:
            return known
        changed = {**known, **effects.timers}
        return {name: timer for name, timer in changed.items() if timer is not None}


def _due_at_ms(
    now_ms: int, after: timedelta | None, at: datetime | None, every: timedelta | None
) -> int:
    if (after is not None) + (at is not None) > 1 or (
        after is None and at is None and every is None
    ):
        raise BadArgumentsError("a timer takes one of after=, at= and every=")
    if at is not None:
        if at.tzinfo is None:
            raise BadArgumentsError("at= needs a time zone, like datetime.now(UTC)", "at")
        return math.ceil(at.timestamp() * 1000)
    wait = after if after is not None else every
    assert wait is not None
    return now_ms + max(0, math.ceil(wait.total_seconds() * 1000))
