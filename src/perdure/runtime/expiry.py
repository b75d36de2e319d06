"""Expiry: actors of a class with `ttl` go when nobody has called them for that long."""

import asyncio
import logging
from collections.abc import Iterable

from perdure.actor.effects import effects_of
from perdure.actor.methods import ActorType
from perdure.actor.turn import Turn
from perdure.base.clock import Clock
from perdure.base.errors import StoreError
from perdure.runtime.outbox import Courier
from perdure.store.api import Store

log = logging.getLogger("perdure.expiry")

_AT_ONCE = 1_000
_EVERY_MAX_S = 30.0


class ExpiryTurn(Turn, kw_only=True):
    """The last turn of an actor: its `on_expire`, and then it is forgotten."""

    is_delivery = asks_first = True
    cause = "expiry"

    before_ms: int
    answer: "asyncio.Future[bool]"

    def begin(self) -> bool:
        activation = self.activation
        if activation.commit is not None or activation.updated_at_ms >= self.before_ms:
            self._settle(gone=False)  # somebody came while it was on its way
            return False
        effects_of(self).forget = True
        return True

    def succeed(self, _body: bytes) -> None:
        self._settle(gone=True)

    def fail(self, error: BaseException) -> None:
        log.warning("actor not expired", extra={"turn": str(self), "error": str(error)})
        self._settle(gone=False)

    def _settle(self, *, gone: bool) -> None:
        if not self.answer.done():
            self.answer.set_result(gone)


class Expiry:
    """Sweeps the actors of classes with `ttl`."""

    def __init__(
        self, courier: Courier, store: Store, clock: Clock, actor_types: Iterable[ActorType]
    ) -> None:
        self._courier = courier
        self._store = store
        self._clock = clock
        self._ttl_ms = {one: one.ttl_ms for one in actor_types if one.ttl_ms is not None}
        self.expired_total = 0

    async def run(self) -> None:
        """Sweep, again and again."""
        if not self._ttl_ms:
            return
        every_s = min(_EVERY_MAX_S, min(self._ttl_ms.values()) / 4000)
        while True:
            for actor_type, ttl_ms in self._ttl_ms.items():
                try:
                    await self._sweep(actor_type, self._clock.wall_ms() - ttl_ms)
                except StoreError as error:
                    log.warning("expiry not swept", extra={"error": str(error)})
            await self._clock.sleep(every_s)

    async def _sweep(self, actor_type: ActorType, before_ms: int) -> None:
        while keys := await self._store.expired(
            actor_type.name, before_ms, _AT_ONCE, self._courier.owned
        ):
            gone = await asyncio.gather(*(self._expire(actor_type, key, before_ms) for key in keys))
            self.expired_total += sum(gone)
            if not any(gone):
                return  # each was called just now, or refuses to go: look again later

    def _expire(self, actor_type: ActorType, key: str, before_ms: int) -> "asyncio.Future[bool]":
        method = actor_type.on_expire
        turn = ExpiryTurn(
            method,
            method.arguments_from_json(b"{}"),
            deadline_s=self._courier.now_s() + self._courier.limits.call_timeout_s,
            before_ms=before_ms,
            answer=asyncio.get_running_loop().create_future(),
        )
        self._courier.submit(actor_type, key, turn)
        return turn.answer
