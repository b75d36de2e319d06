"""The backends of one balancer: who there is, who may get requests, and what is known of each.

It exists so that HTTP, TCP and the sources of backends share one view: sources call `update`,
checks report health, whoever forwards asks `choose` and then says `begin` and `end`.

Invariants:
- Only a backend whose state is `up` is chosen; what is under way elsewhere is left to end.
- At most half of the backends that could serve are ejected: a fault that all show is not theirs.
- Nothing is kept that another balancer would need: a new one learns all of it within seconds.
"""

import math
import random
from collections.abc import Callable, Container, Sequence
from typing import Literal

import msgspec

from perdure.balance.policies import (
    Draw,
    PolicyName,
    hash_of,
    least_connections,
    rendezvous,
    round_robin,
    two_choices,
)
from perdure.base.clock import Clock, SystemClock
from perdure.base.ids import new_id

State = Literal["up", "down", "ejected", "draining", "gone"]

_DECAY_S = 10.0  # after this long without a new figure, an old latency counts for a third of it
_FAILED_LATENCY_S = 0.1  # a failure counts as at least this slow, however quickly it came
_UNTRIED_COST_S = 1.0  # of a backend that has not answered yet and was already asked
_RAMP_STEPS = 10
_AGE_LINEAR = 0.001  # below it exp(-x) is 1 - x to a millionth; most answers come that quickly


class Target(msgspec.Struct, frozen=True):
    """A server that requests can be sent to; a source of backends names these.

    `name` tells it from all others and decides which keys it gets; `path` is a Unix socket to be
    used instead of host and port.
    """

    name: str
    host: str
    port: int
    path: str | None = None
    weight: int = 1


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """When a backend is left out, and how it comes back."""

    eject_after_failures: int = 5  # in a row
    eject_s: float = 5.0  # the first time; twice as long each time it happens again soon
    eject_max_s: float = 300.0
    slow_start_s: float = 10.0  # over which a new or returning backend comes to its full weight


class Backend:
    """One target, and what is known of it. Made by `Backends` only."""

    __slots__ = (
        "_group",
        "_latency_s",
        "_latency_stamp_s",
        "credit",
        "ejection",
        "ejections",
        "failures_in_a_row",
        "in_flight",
        "is_draining",
        "is_ejected",
        "is_healthy",
        "is_leaving",
        "is_silent",
        "ramp_step",
        "seed",
        "state",
        "target",
        "weight",
    )

    def __init__(self, target: Target, group: "Backends") -> None:
        self.target = target
        self.seed = hash_of(target.name.encode())
        self.in_flight = 0
        self.state: State = "up"
        self.weight = float(target.weight)  # lower during a slow start
        self.credit = 0.0
        self.ramp_step = _RAMP_STEPS
        self.is_healthy = True
        self.is_ejected = False
        self.is_draining = False
        self.is_leaving = False  # no source names it any more
        self.is_silent = False  # it takes connections and answers nothing, as a frozen process does
        self.failures_in_a_row = 0
        self.ejection = 0  # the number of the last one, among those of all
        self.ejections = 0  # the exponent of the next one
        self._group = group
        self._latency_s = 0.0
        self._latency_stamp_s = 0.0

    def begin(self) -> None:
        """A request or connection is sent there."""
        self.in_flight += 1

    def end(
        self,
        latency_s: float | None,
        *,
        failed: bool,
        is_away: bool = False,
        now_s: float | None = None,
    ) -> None:
        """It is over.

        Args:
            now_s: for who has asked the clock already.
            latency_s: how long the head of the answer took; None when that says nothing, as when
                the client went away.
            failed: whether the backend is to blame: no connection, no answer, or a 5xx.
            is_away: no connection could be made.
        """
        self.in_flight -= 1
        if failed:
            self._learn(max(latency_s or 0.0, _FAILED_LATENCY_S), now_s)
            self.failures_in_a_row += 1
            if self.failures_in_a_row >= self._group.rules.eject_after_failures:
                self._group.eject(self, is_away=is_away)
        elif latency_s is not None:
            self.failures_in_a_row = 0
            self._learn(latency_s, now_s)
        if self.is_leaving and self.in_flight == 0:
            self._group.settle(self)

    def cost(self, now_s: float) -> float:
        """The recent peak of its latency times what it would have to do; for `two_choices`."""
        latency_s = self._latency_s
        if not latency_s:
            return _UNTRIED_COST_S * self.in_flight
        age_s = now_s - self._latency_stamp_s
        if age_s > 1.0:  # below that it makes no difference, and this is asked for each request
            latency_s *= math.exp(-age_s / _DECAY_S)
        return latency_s * (self.in_flight + 1)

    def _learn(self, latency_s: float, now_s: float | None) -> None:
        """A peak counts at once, and is forgotten slowly."""
        if now_s is None:
            now_s = self._group.clock.monotonic_s()
        known_s = self._latency_s
        if latency_s < known_s:
            age = (now_s - self._latency_stamp_s) / _DECAY_S
            kept = math.exp(-age) if age > _AGE_LINEAR else 1.0 - age
            latency_s += (known_s - latency_s) * kept
        self._latency_s = latency_s
        self._latency_stamp_s = now_s


class Backends:
    """All backends of one balancer. For one event loop."""

    def __init__(
        self,
        policy: PolicyName = "peak-ewma",
        rules: Rules | None = None,
        *,
        clock: Clock | None = None,
        draw: Draw | None = None,
    ) -> None:
        """Begins without a backend.

        Args:
            draw: Where `two_choices` and ties get their randomness.
        """
        self.policy = policy
        self.rules = rules or Rules()
        self.clock = clock or SystemClock()
        self.ejections_total = 0
        # Seeded once from the system: a system call for each request would be its dearest part.
        self._draw = draw or random.Random(new_id()).random
        self._named: dict[str, Backend] = {}
        self._leaving: list[Backend] = []
        self._up: tuple[Backend, ...] = ()
        self._is_weighted = False
        self._is_ramping = False
        self._watchers: list[Callable[[Backend], None]] = []

    # --- for the sources of backends

    def update(self, targets: Sequence[Target]) -> None:
        """From now on there are these: new ones come, missing ones drain and go."""
        wanted = {target.name: target for target in targets}
        is_first = not self._named
        for name, backend in list(self._named.items()):
            if wanted.get(name) != backend.target:
                del self._named[name]
                self._leaving.append(backend)
                backend.is_leaving = True
                self.settle(backend)
        for name, target in wanted.items():
            if name not in self._named:
                self._named[name] = backend = Backend(target, self)
                if not is_first:
                    self._ramp(backend)
                self._tell(backend)
        self._list_up()

    def drain(self, name: str) -> None:
        """Nothing new goes there; raises KeyError for an unknown name."""
        self._named[name].is_draining = True
        self.settle(self._named[name])

    def undrain(self, name: str) -> None:
        """It gets requests again; raises KeyError for an unknown name."""
        self._named[name].is_draining = False
        self.settle(self._named[name])

    # --- for those who look

    def all(self) -> Sequence[Backend]:
        """Every backend, with those that no source names any more and that still have work."""
        return [*self._named.values(), *self._leaving]

    @property
    def has_any(self) -> bool:
        """Whether a request could be sent anywhere."""
        return bool(self._up)

    def watch(self, watcher: Callable[[Backend], None]) -> None:
        """The watcher is called for each new backend, and after each change of a state."""
        self._watchers.append(watcher)

    # --- for those who forward

    def choose(
        self,
        request_hash: int | None = None,
        excluding: Container[Backend | None] = (),
        now_s: float | None = None,
    ) -> Backend | None:
        """The backend for the next request; None when there is none to be had.

        Args:
            request_hash: `policies.hash_of` what the policy `hash` goes by. Without it such a
                request goes where `peak-ewma` would send it.
            excluding: backends that this request has been to.
            now_s: for who has asked the clock already.
        """
        candidates: Sequence[Backend] = self._up
        if excluding:
            candidates = [backend for backend in candidates if backend not in excluding]
        if not candidates:
            return None
        if self.policy == "round-robin":
            return self._next(candidates)
        if self.policy == "least-connections":
            return candidates[least_connections(candidates, self._draw)]
        if self.policy == "hash" and request_hash is not None:
            seeds = [backend.seed for backend in candidates]
            weights = [backend.target.weight for backend in candidates]
            return candidates[rendezvous(request_hash, seeds, weights)]
        if now_s is None:
            now_s = self.clock.monotonic_s()
        chosen = two_choices(candidates, now_s, self._draw, is_weighted=self._is_weighted)
        return candidates[chosen]

    # --- for checks, and for backends themselves

    def set_health(self, backend: Backend, *, is_healthy: bool, is_silent: bool = False) -> None:
        """What active checks found; silent: no answer in time, where others would be refused."""
        if is_healthy and not backend.is_healthy:
            self._ramp(backend)
            backend.failures_in_a_row = 0
            # It was away altogether and is back, most likely as another process: what the one
            # before did is not held against it.
            backend.is_ejected = False
        backend.is_healthy = is_healthy
        backend.is_silent = is_silent
        self.settle(backend)

    def eject(self, backend: Backend, *, is_away: bool = False) -> None:
        """Leave it out for a while, unless too many are left out already.

        One that is away, as while it is started again, did no harm: it is not left out for longer
        each time.
        """
        ejected = sum(other.is_ejected for other in self._named.values())
        serving = sum(other.state in ("up", "ejected") for other in self._named.values())
        if backend.is_ejected or backend.is_leaving or 2 * (ejected + 1) > serving:
            return
        rules = self.rules
        wait_s = min(rules.eject_s * 2**backend.ejections, rules.eject_max_s)
        if is_away:
            wait_s = rules.eject_s
        else:
            backend.ejections += 1
        backend.is_ejected = True
        self.ejections_total += 1
        backend.ejection = number = self.ejections_total
        self.settle(backend)
        self.clock.call_later(wait_s, lambda: self._readmit(backend, number))
        # Twice as long without a new ejection: what there was is forgotten.
        self.clock.call_later(3 * wait_s, lambda: _forgive(backend, number))

    def settle(self, backend: Backend) -> None:
        """Works out the state anew after anything it depends on has changed."""
        before = backend.state
        backend.state = _state_of(backend)
        if backend.state == before:
            return
        if backend.state == "gone":
            self._leaving.remove(backend)
        self._list_up()
        self._tell(backend)

    def _readmit(self, backend: Backend, number: int) -> None:
        if not backend.is_ejected or backend.ejection != number:
            return
        backend.is_ejected = False
        backend.failures_in_a_row = self.rules.eject_after_failures - 1  # one more is enough
        self._ramp(backend)
        self.settle(backend)

    def _ramp(self, backend: Backend) -> None:
        if self.rules.slow_start_s <= 0:
            return
        backend.ramp_step = 1
        self._weigh(backend)
        if not self._is_ramping:
            self._is_ramping = True
            self._ramp_later()

    def _ramp_later(self) -> None:
        self.clock.call_later(self.rules.slow_start_s / _RAMP_STEPS, self._ramp_on)

    def _ramp_on(self) -> None:
        climbing = [one for one in self._named.values() if one.ramp_step < _RAMP_STEPS]
        for backend in climbing:
            backend.ramp_step += 1
            self._weigh(backend)
        self._list_up()
        self._is_ramping = bool(climbing)
        if climbing:
            self._ramp_later()

    def _weigh(self, backend: Backend) -> None:
        backend.weight = backend.target.weight * backend.ramp_step / _RAMP_STEPS

    def _next(self, candidates: Sequence[Backend]) -> Backend:
        chosen, standings = round_robin(
            [backend.weight for backend in candidates], [backend.credit for backend in candidates]
        )
        for backend, credit in zip(candidates, standings, strict=True):
            backend.credit = credit
        return candidates[chosen]

    def _list_up(self) -> None:
        named = self._named.values()
        self._up = tuple(one for one in named if one.state == "up" and one.target.weight > 0)
        self._is_weighted = len({backend.weight for backend in self._up}) > 1

    def _tell(self, backend: Backend) -> None:
        for watcher in self._watchers:
            watcher(backend)


def _state_of(backend: Backend) -> State:
    if backend.is_leaving:
        return "draining" if backend.in_flight else "gone"
    if backend.is_draining:
        return "draining"
    if not backend.is_healthy:
        return "down"
    return "ejected" if backend.is_ejected else "up"


def _forgive(backend: Backend, number: int) -> None:
    if backend.ejection == number and not backend.is_ejected:
        backend.ejections = 0
