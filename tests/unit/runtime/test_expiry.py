"""`ttl` and `forget`: actors that go, with all that is theirs."""

from datetime import timedelta

from perdure import Actor, DomainError, read
from perdure.actor.methods import actor_type_of
from perdure.store.memory import MemoryStore
from perdure.testing import VirtualClock, async_test, running


class Session(Actor, ttl=timedelta(minutes=10)):
    hits: int = 0
    stubborn: bool = False

    async def hit(self) -> int:
        self.hits += 1
        return self.hits

    async def stay(self, stubborn: bool) -> None:
        self.stubborn = stubborn

    @read
    async def peek(self) -> int:
        return self.hits

    async def leave(self) -> None:
        self.hits = 99
        self.forget()

    async def on_expire(self) -> None:
        if self.stubborn:
            raise Stubborn("no")
        Registry.at("all").tell.gone(self.key, self.hits)


class Stubborn(DomainError):
    """It does not want to go."""


class Registry(Actor):
    left: dict[str, int] = {}

    async def gone(self, key: str, hits: int) -> None:
        self.left[key] = hits

    @read
    async def all(self) -> dict[str, int]:
        return self.left


@async_test
async def test_an_actor_nobody_calls_goes_and_tells() -> None:
    clock = VirtualClock()
    async with running(Session, Registry, clock=clock) as app:
        await Session.at("a").hit()
        await Session.at("b").hit()
        await clock.advance(590)
        await Session.at("b").hit()
        await clock.advance(60)
        assert await app.store.load("session", "a") is None
        assert await Registry.at("all").all() == {"a": 1}
        assert await Session.at("b").hit() == 3
        assert await Session.at("a").hit() == 1
        assert app.statistics()["actors_expired"] == 1


@async_test
async def test_reading_keeps_it() -> None:
    clock = VirtualClock()
    async with running(Session, Registry, clock=clock) as app:
        await Session.at("a").hit()
        for _ in range(20):
            await clock.advance(300)
            assert await Session.at("a").peek() == 1
        assert await app.store.load("session", "a") is not None


@async_test
async def test_it_expires_after_a_restart_too() -> None:
    clock, store = VirtualClock(), MemoryStore()
    async with running(Session, Registry, clock=clock, store=store):
        await Session.at("a").hit()
    clock._now_ms += 700_000
    async with running(Session, Registry, clock=clock, store=store):
        await clock.advance(1)
        assert await Registry.at("all").all() == {"a": 1}


@async_test
async def test_one_that_refuses_stays_and_is_asked_again() -> None:
    clock = VirtualClock()
    async with running(Session, Registry, clock=clock) as app:
        await Session.at("a").stay(True)
        await clock.advance(700)
        assert await app.store.load("session", "a") is not None
        await Session.at("a").stay(False)
        await clock.advance(700)
        assert await app.store.load("session", "a") is None


@async_test
async def test_a_forgotten_actor_starts_from_its_defaults() -> None:
    async with running(Session, Registry, clock=VirtualClock()) as app:
        await Session.at("never").leave()
        assert await app.store.load("session", "never") is None
        await Session.at("a").hit()
        await Session.at("a").leave()
        assert await app.store.load("session", "a") is None
        assert await Session.at("a").hit() == 1
        stored = await app.store.load("session", "a")
        assert stored is not None
        assert stored.version == 1


def test_the_hook_is_no_method_that_others_can_call() -> None:
    assert "on_expire" not in actor_type_of(Session).methods
