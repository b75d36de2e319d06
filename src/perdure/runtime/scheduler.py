"""The scheduler: fires timers when they are due.

The timers due next are in memory, in a heap, and the rest is in the store. `_horizon` is the place
in the order of all timers up to which everything is in memory, so that one which is set now belongs
into the heap exactly if it comes before it. When the heap has run empty the next ones are read;
when it has grown too large the last ones are dropped from it.

A timer in the heap may be out of date: moved, cancelled, or gone with its actor. Nobody looks for
it there; the turn it makes asks the actor's own timers whether it is still wanted.
"""

import asyncio
import heapq
import logging
from typing import Any

import msgspec

from perdure.actor.effects import effects_of
from perdure.actor.gate import GroupCommit
from perdure.actor.methods import ActorType
from perdure.actor.turn import Turn
from perdure.base import points
from perdure.base.clock import Clock, Handle
from perdure.base.errors import FencedError, NotFoundError, PerdureError, StoreError
from perdure.base.ids import new_id
from perdure.base.metrics import Family, Histogram, counter, gauge, seconds
from perdure.base.shards import shard_of
from perdure.runtime.outbox import Courier, backoff_s, dead_letter_of_timer, told_of
from perdure.store.api import Store, Timer, TimerPlace

log = logging.getLogger("perdure.timers")

_IN_MEMORY = 10_000  # timers read at once; twice as many are held
_ALARM_MAX_S = 60.0  # a wall clock may be moved meanwhile
_TRY_AGAIN_S = 5.0
_NEVER_MS = 1 << 62
_START: TimerPlace = (-1, "", "", "")
_END: TimerPlace = (_NEVER_MS, "", "", "")

_Entry = tuple[int, int, Timer, int]  # when to fire, a tie-breaker, the timer, attempts so far


class TimerTurn(Turn, kw_only=True):
    """A turn that a timer makes."""

    is_delivery = asks_first = True
    cause = "timer"

    scheduler: "Scheduler"
    timer: Timer
    attempts: int

    def begin(self) -> bool:
        timer, timers = self.timer, self.activation.timers
        current = timers.get(timer.name) if timers else None
        if current is None or current.due_at_ms != timer.due_at_ms:
            self.scheduler.done()  # moved, cancelled, or fired already
            return False
        effects_of(self).timers[timer.name] = following(timer, self.activation.wall_ms())
        return True

    def succeed(self, _body: bytes) -> None:
        self.scheduler.fired_total += 1
        self.scheduler.done()

    def fail(self, error: BaseException) -> None:
        self.scheduler.failed(self, error)


class Scheduler:
    """The timers of one node."""

    def __init__(
        self, courier: Courier, store: Store, clock: Clock, actor_types: dict[str, ActorType]
    ) -> None:
        self._courier = courier
        self._store = store
        self._clock = clock
        self._types = actor_types
        self._heap: list[_Entry] = []
        self._number = 0
        self._horizon = _START
        self._changes = 0  # of the shards that are ours
        self._set_meanwhile: list[Timer] | None = None  # not None: the store is being read
        self._alarm: Handle | None = None
        self._alarm_at_ms = 0
        self._under_way = 0
        self._wants_more = asyncio.Event()
        self._stopped = False
        self.fired_total = 0
        self._given_up = 0
        self._late: Histogram = seconds()

    async def run(self) -> None:
        """Read timers from the store, in time."""
        while True:
            self._wants_more.clear()
            try:
                await self._read()
            except StoreError as error:
                log.warning("timers not read", extra={"error": str(error)})
                self._clock.call_later(_TRY_AGAIN_S, self._wants_more.set)
            await self._wants_more.wait()

    def stop(self) -> None:
        """Fire nothing any more; what is left stays in the store."""
        self._stopped = True
        if self._alarm is not None:
            self._alarm.cancel()

    async def _read(self) -> None:
        self._set_meanwhile = []
        changes = self._changes
        try:
            timers = await self._store.timers(self._horizon, _IN_MEMORY, self._courier.owned)
        finally:
            meanwhile, self._set_meanwhile = self._set_meanwhile, None
        if changes != self._changes:
            self._wants_more.set()  # for shards that were ours a moment ago
            return
        self._horizon = _place(timers[-1]) if len(timers) == _IN_MEMORY else _END
        for timer in timers:
            self._push(timer.due_at_ms, timer, timer.attempts)
        for timer in meanwhile:  # one of them may be in the heap twice: it fires once
            self._set(timer)
        self._fire()

    def moved(self) -> None:
        """Other shards are ours than before: read their timers, from the first on."""
        self._changes += 1
        self._heap.clear()
        self._horizon = _START
        self._wants_more.set()

    def committed(self, commit: GroupCommit) -> None:
        """Take over the timers of a commit that is durable."""
        for (activation, _), timer in commit.timers.items():
            if timer is None or activation.dead is not None or activation.is_guest:
                continue
            if self._set_meanwhile is not None:
                self._set_meanwhile.append(timer)
            self._set(timer)
        if len(self._heap) > 2 * _IN_MEMORY:
            self._drop_last()
        self._arm()

    def _drop_last(self) -> None:
        """Keep the timers that come first; those tried in vain before are among them."""
        self._heap.sort(key=lambda entry: _place(entry[2]))
        del self._heap[_IN_MEMORY:]
        self._horizon = _place(self._heap[-1][2])
        heapq.heapify(self._heap)

    def _set(self, timer: Timer) -> None:
        if _place(timer) <= self._horizon:
            self._push(timer.due_at_ms, timer, 0)

    def _push(self, at_ms: int, timer: Timer, attempts: int) -> None:
        self._number += 1
        heapq.heappush(self._heap, (at_ms, self._number, timer, attempts))

    # -- firing ----------------------------------------------------------------------------------

    def _arm(self) -> None:
        """See that `_fire` comes when the first timer is due."""
        if self._stopped or not self._heap:
            return
        due_at_ms = self._heap[0][0]
        if self._alarm is not None:
            if self._alarm_at_ms <= due_at_ms:
                return
            self._alarm.cancel()
        self._alarm_at_ms = due_at_ms
        wait_s = max(due_at_ms - self._clock.wall_ms(), 0) / 1000
        self._alarm = self._clock.call_later(min(wait_s, _ALARM_MAX_S), self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm = None
        self._fire()

    def _fire(self) -> None:
        """Begin the turns of timers that are due, as many as there is room for."""
        now_ms = self._clock.wall_ms()
        room = self._courier.limits.deliveries_max - self._under_way
        while room > 0 and self._heap and self._heap[0][0] <= now_ms and not self._stopped:
            _, _, timer, attempts = heapq.heappop(self._heap)
            self._under_way += 1
            room -= 1
            self._begin(timer, attempts)
        if not self._heap and self._horizon != _END:
            self._wants_more.set()
        if room > 0:  # else `done` goes on
            self._arm()

    def _begin(self, timer: Timer, attempts: int) -> None:
        points.reach("before_fire")
        self._late.add((self._clock.wall_ms() - timer.due_at_ms) / 1000)
        actor_type = self._types.get(timer.actor_type)
        try:
            method = actor_type.methods.get(timer.method) if actor_type else None
            if actor_type is None or method is None:
                raise NotFoundError(f"no class of this App has {timer.actor_type}.{timer.method}")
            arguments = method.arguments_from_json(timer.arguments)
        except PerdureError as error:  # the code may be an older one; the timer stays in the store
            log.error("timer not fired", extra={"timer": timer.name, "error": str(error)})
            self.done()
            return
        deadline_s = self._courier.now_s() + self._courier.limits.call_timeout_s
        turn = TimerTurn(
            method,
            arguments,
            deadline_s=deadline_s,
            scheduler=self,
            timer=timer,
            attempts=attempts,
        )
        self._courier.submit(actor_type, timer.key, turn)

    def done(self) -> None:
        """One timer less is under way."""
        self._under_way -= 1
        if self._heap and self._alarm is None:
            # not at once: many end together, and one look is enough for them all
            self._alarm_at_ms = 0
            self._alarm = self._clock.call_later(0, self._on_alarm)

    def failed(self, turn: TimerTurn, error: BaseException) -> None:
        """Try again later; after too many attempts leave a dead letter, and the timer is over."""
        if self._stopped:
            return
        if isinstance(error, FencedError) and not self._owns(turn.timer):
            self.done()  # whoever owns the actor now reads it from the store
            return
        limits = self._courier.limits
        is_ours = isinstance(error, PerdureError) and error.status == 503
        attempts = turn.attempts + (not is_ours)
        told = told_of(error)
        extra: dict[str, Any] = {"timer": turn.timer.name, "error": told, "attempts": attempts}
        if attempts >= limits.delivery_attempts_max:
            log.error("timer given up", extra=extra)
            self._given_up += 1
            self._give_up(turn, attempts, told)
        else:
            log.warning("timer failed", extra=extra)
            wait_ms = int(backoff_s(limits, attempts) * 1000)
            self._push(self._clock.wall_ms() + wait_ms, turn.timer, attempts)
        self.done()

    def _owns(self, timer: Timer) -> bool:
        owned = self._courier.owned
        return owned is None or shard_of(timer.key) in owned

    def _give_up(self, turn: TimerTurn, attempts: int, told: str) -> None:
        activation, timer = turn.activation, turn.timer
        letter = dead_letter_of_timer(
            activation, timer.method, timer.arguments, new_id(), attempts, told
        )
        commit = self._courier.join_commit()
        commit.sent.append((activation, letter))
        activation.put_timer(commit, timer.name, following(timer, activation.wall_ms()))

    def statistics(self) -> dict[str, int]:
        """Counters since the start."""
        return {"timers_fired": self.fired_total, "timers_ahead": len(self._heap)}

    def families(self) -> list[Family]:
        """What it counted, as Prometheus is told."""
        return [
            counter("perdure_timers_fired", "Timers whose turn is committed.", self.fired_total),
            counter(
                "perdure_timers_given_up",
                "Timers that failed too often and left a dead letter.",
                self._given_up,
            ),
            gauge(
                "perdure_timers_in_memory",
                "Timers due next; later ones are only in the store.",
                len(self._heap),
            ),
            gauge("perdure_timers_under_way", "Timers whose turns run now.", self._under_way),
            Family(
                "perdure_timer_lateness_seconds",
                "histogram",
                "How long after it was due the turn of a timer began, at each attempt.",
                [({}, self._late)],
            ),
        ]


def following(timer: Timer, now_ms: int) -> Timer | None:
    """The next occurrence after `now_ms`; those that were missed are not made up for."""
    if timer.every_ms is None:
        return None
    missed = max(now_ms - timer.due_at_ms, 0) // timer.every_ms
    due_at_ms = timer.due_at_ms + (missed + 1) * timer.every_ms
    return msgspec.structs.replace(timer, due_at_ms=due_at_ms)


def _place(timer: Timer) -> TimerPlace:
    return (timer.due_at_ms, timer.actor_type, timer.key, timer.name)
