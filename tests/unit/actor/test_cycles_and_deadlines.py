"""A call that would wait for itself is named at once; every other wait ends at its deadline."""

import asyncio
import time

import pytest

from perdure import Actor, CycleError, DeadlineError, Limits, interleave
from perdure.testing import async_test, running, spin

_go: dict[str, asyncio.Event] = {}


class Node(Actor):
    seen: int = 0

    async def call_along(self, path: list[str]) -> int:
        self.seen += 1
        return await Node.at(path[0]).call_along(path[1:]) if path else 0

    async def wait_then_call(self, name: str, other: str) -> int:
        await _go[name].wait()
        return await Node.at(other).touch()

    async def call_many(self, others: list[str]) -> int:
        return sum(await asyncio.gather(*[Node.at(other).touch() for other in others]))

    async def touch(self) -> int:
        self.seen += 1
        return self.seen

    @interleave
    async def call_back(self, other: str) -> int:
        return await Node.at(other).call_me(self.key)

    async def call_me(self, key: str) -> int:
        return await Node.at(key).touch()

    async def wait(self, name: str) -> int:
        self.seen += 100
        await _go[name].wait()
        return self.seen

    async def stay(self, name: str) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            _go[name].set()
            raise

    async def call_and_stay(self, other: str, name: str) -> None:
        await Node.at(other).stay(name)

    async def view(self) -> int:
        return self.seen


def _events(*names: str) -> None:
    _go.clear()
    _go.update({name: asyncio.Event() for name in names})


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("a", r"Node.call_along\('a'\) → Node\('a'\)"),
        ("ba", r"Node.call_along\('a'\) → Node.call_along\('b'\) → Node\('a'\)"),
        ("bcb", r"call_along\('b'\) → Node.call_along\('c'\) → Node\('b'\)"),
    ],
)
def test_a_cycle_is_named_at_once_and_undone(path: str, named: str) -> None:
    @async_test
    async def body() -> None:
        async with running(Node):
            begin_s = time.monotonic()
            with pytest.raises(CycleError, match=named):
                await Node.at("a").call_along(list(path))
            assert time.monotonic() - begin_s < 1
            assert await Node.at("a").view() == 0

    body()


@async_test
async def test_two_chains_that_would_wait_for_each_other_are_named_without_a_deadline() -> None:
    _events("a", "b")
    async with running(Node):
        one = asyncio.create_task(Node.at("a").wait_then_call("a", "b"))
        two = asyncio.create_task(Node.at("b").wait_then_call("b", "a"))
        await spin()
        _go["a"].set()
        await spin()  # a now waits for b
        _go["b"].set()
        with pytest.raises(CycleError, match=r"wait_then_call\('b'\) → Node\('a'\) → Node\('b'\)"):
            await two
        assert await one == 1


@async_test
async def test_three_chains_in_a_ring_are_named() -> None:
    _events("a", "b", "c")
    async with running(Node):
        calls = [
            asyncio.create_task(Node.at(one).wait_then_call(one, other))
            for one, other in ("ab", "bc", "ca")
        ]
        await spin()
        for name in "abc":
            _go[name].set()
            await spin()
        with pytest.raises(CycleError):
            await calls[2]
        assert await calls[1] == 1
        assert await calls[0] == 1


@async_test
async def test_calls_that_meet_without_a_cycle_are_left_alone() -> None:
    async with running(Node):
        results = await asyncio.gather(*[Node.at(k).call_many(["x", "y", "x"]) for k in "abc"])
        assert len(results) == 3
        assert await Node.at("x").view() == 6


@async_test
async def test_an_interleaving_method_may_be_called_back() -> None:
    async with running(Node):
        assert await Node.at("a").call_back("b") == 1


@async_test
async def test_with_an_idempotency_key_it_holds_its_actor_so_the_cycle_is_named() -> None:
    async with running(Node):
        with pytest.raises(CycleError):
            await Node.at("a", request_id="r").call_back("b")


@async_test
async def test_a_running_turn_is_cancelled_and_undone_at_its_deadline() -> None:
    _events("never")
    async with running(Node, limits=Limits(call_timeout_s=0.1)):
        with pytest.raises(DeadlineError):
            await Node.at("a").wait("never")
        assert await Node.at("a").view() == 0


@async_test
async def test_a_queued_turn_is_not_begun_past_its_deadline() -> None:
    _events("cancelled")
    async with running(Node, limits=Limits(call_timeout_s=0.1)):
        holder = asyncio.create_task(Node.at("a").stay("cancelled"))
        await spin()
        queued = asyncio.create_task(Node.at("a").touch())
        for call in (holder, queued):
            with pytest.raises(DeadlineError):
                await call
        assert _go["cancelled"].is_set()
        assert await Node.at("a").view() == 0


@async_test
async def test_a_deadline_travels_with_nested_calls() -> None:
    _events("cancelled")
    async with running(Node, limits=Limits(call_timeout_s=0.2)):
        begin_s = time.monotonic()
        with pytest.raises(DeadlineError):
            await Node.at("a").call_and_stay("b", "cancelled")
        await _go["cancelled"].wait()  # the inner turn ended with the outer, not 0.2 s later
        assert time.monotonic() - begin_s < 0.35
        assert await Node.at("b").view() == 0
