"""Interleaving turns share their actor, stretch by stretch, and never see half-done work."""

import asyncio

import pytest

from perdure import (
    Actor,
    DeadlineError,
    Limits,
    OverloadedError,
    UnencodableError,
    interleave,
    read,
)
from perdure.testing import async_test, running, spin
from perdure.testing.scripted_store import ScriptedStore


class Room(Actor):
    left: int = 0
    right: int = 0  # every turn that is whole leaves both the same
    log: list[str] = []

    @interleave
    async def share(self) -> tuple[int, int]:
        before = (self.left, self.right)
        assert before[0] == before[1]
        await _events["share"].wait()
        assert self.left == self.right
        self.left += 1
        self.right += 1
        return self.left, self.right

    @interleave
    async def share_then_fail(self) -> None:
        self.left += 1
        self.right += 1
        await asyncio.sleep(0)
        self.left += 100
        raise LookupError("half done")

    async def half(self) -> int:
        self.left += 1
        await _events["half"].wait()
        self.right += 1
        return self.right

    async def bump(self) -> int:
        self.left += 1
        self.right += 1
        return self.left

    @read
    async def view(self) -> tuple[int, int]:
        return self.left, self.right

    @interleave
    async def clean_up(self) -> None:
        try:
            await _events["share"].wait()
        finally:
            self.log.append("cleaned")
            await self.save()

    @interleave
    async def bad_stretch(self) -> None:
        try:
            self.left = "text"  # type: ignore[assignment]
            await asyncio.sleep(0)
        finally:
            self.log.append("finally")

    @interleave
    async def spin_on(self, rounds: int) -> int:
        for _ in range(rounds):
            self.left += 1
            self.right += 1
            await asyncio.sleep(0)
        return self.left


_events: dict[str, asyncio.Event] = {}


def _reset() -> None:
    _events.update(share=asyncio.Event(), half=asyncio.Event())


@async_test
async def test_other_turns_run_while_an_interleaving_one_waits() -> None:
    _reset()
    async with running(Room):
        room = Room.at("a")
        sharing = asyncio.create_task(room.share())
        await spin()
        assert await room.bump() == 1
        _events["share"].set()
        assert await sharing == (2, 2)


@async_test
async def test_a_stretch_never_sees_the_half_done_work_of_another_turn() -> None:
    _reset()
    async with running(Room):
        room = Room.at("a")
        sharing = [asyncio.create_task(room.share()) for _ in range(5)]
        await spin()
        half = asyncio.create_task(room.half())
        await spin()
        _events["share"].set()  # they want to go on, in the middle of `half`
        await spin()
        assert not any(task.done() for task in sharing)
        _events["half"].set()
        assert await half == 1
        assert [pair[0] for pair in await asyncio.gather(*sharing)] == [2, 3, 4, 5, 6]


@async_test
async def test_half_done_work_is_never_committed_by_a_stretch() -> None:
    _reset()
    store = ScriptedStore()
    async with running(Room, store=store):
        room = Room.at("a")
        sharing = asyncio.create_task(room.share())
        await spin()
        half = asyncio.create_task(room.half())
        await spin()
        _events["share"].set()
        _events["half"].set()
        await asyncio.gather(sharing, half)
    for batch in store.batches:
        for write in batch.writes:
            assert b'"left":1,"right":1' in write.state or b'"left":2,"right":2' in write.state


@async_test
async def test_an_exception_undoes_only_its_own_stretch() -> None:
    _reset()
    async with running(Room):
        with pytest.raises(LookupError, match="half done"):
            await Room.at("a").share_then_fail()
        assert await Room.at("a").view() == (1, 1)


@async_test
async def test_a_deadline_that_comes_while_another_turn_holds_the_actor_spares_its_work() -> None:
    """The late turn must not put memory back: the half-done work in it is another's."""
    _reset()
    async with running(Room, limits=Limits(call_timeout_s=0.2)) as app:
        room = Room.at("a")
        sharing = asyncio.create_task(room.share())
        await spin()
        object.__setattr__(app._node, "limits", Limits(call_timeout_s=10))
        half = asyncio.create_task(room.half())
        await spin()
        _events["share"].set()  # it queues up behind `half`, where its deadline finds it
        with pytest.raises(DeadlineError):
            await sharing
        await asyncio.sleep(0.05)
        _events["half"].set()
        assert await half == 1
        assert await room.view() == (1, 1)


@async_test
async def test_cleaning_up_after_a_deadline_is_a_stretch_as_well() -> None:
    _reset()
    store = ScriptedStore()
    async with running(Room, store=store, limits=Limits(call_timeout_s=0.1)):
        with pytest.raises(DeadlineError):
            await Room.at("a").clean_up()
        await spin()
    async with running(Room, store=store) as app:
        assert b'"log":["cleaned"]' in (await app._store.load("room", "a")).state  # type: ignore[union-attr]


@async_test
async def test_a_stretch_that_leaves_a_bad_state_is_undone_whole() -> None:
    _reset()
    async with running(Room):
        with pytest.raises(UnencodableError, match="could not be read back"):
            await Room.at("a").bad_stretch()
        assert await Room.at("a").view() == (0, 0)
        assert await Room.at("a").bump() == 1


@async_test
async def test_interleaving_turns_do_not_starve_the_mailbox_nor_the_mailbox_them() -> None:
    _reset()
    async with running(Room):
        room = Room.at("a")
        spinning = [asyncio.create_task(room.spin_on(200)) for _ in range(4)]
        await spin(3)
        done_at = await asyncio.gather(*[room.bump() for _ in range(20)])
        assert max(done_at) < 400
        await asyncio.gather(*spinning)
        assert await room.view() == (820, 820)


@async_test
async def test_the_number_of_turns_that_share_an_actor_is_bounded() -> None:
    _reset()
    async with running(Room, limits=Limits(mailbox_depth_max=5)):
        room = Room.at("a")
        sharing = [asyncio.create_task(room.share()) for _ in range(5)]
        await spin()
        with pytest.raises(OverloadedError, match="5 interleaving turns already share"):
            await room.share()
        assert await room.bump() == 1
        _events["share"].set()
        assert len(await asyncio.gather(*sharing)) == 5


@async_test
async def test_stop_cuts_off_interleaving_turns_and_keeps_what_they_saved() -> None:
    _reset()
    store = ScriptedStore()
    async with running(Room, store=store) as app:
        sharing = asyncio.create_task(Room.at("a").share())
        await spin()
        await Room.at("a").bump()
        await app.stop(drain_s=0)
        with pytest.raises(Exception, match="stopping"):
            await sharing
    async with running(Room, store=store):
        assert await Room.at("a").view() == (1, 1)
