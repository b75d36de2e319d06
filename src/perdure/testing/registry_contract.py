"""The contract of every registry, as tests: subclass `RegistryContract` and say how one is opened.

A *place* is what all processes share. `make_registry` is called once for each process that a test
plays; pytest collects the methods that begin with `test_`.
"""

import asyncio

import pytest

from perdure.base.errors import FencedError, OtherClusterError
from perdure.base.shards import SHARDS, Cell
from perdure.store.registry import NOBODY, Member, Registry, View
from perdure.testing.registry_contract_base import (
    FOREVER,
    KEY,
    LONG_S,
    SHORT_S,
    Place,
    eventually,
    joined,
    member_of,
    owned,
    owners_of,
)
from perdure.testing.registry_contract_doors import RegistryDoorsContract
from perdure.testing.registry_contract_operators import RegistryOperatorsContract


class RegistryContract(RegistryOperatorsContract, RegistryDoorsContract):
    """What every `Registry` must do."""

    # -- members ---------------------------------------------------------------------------------

    def test_at_first_nobody_is_there_and_nobody_owns_anything(self) -> None:
        async def body(registry: Registry, _place: Place) -> None:
            view = await registry.view(0)
            assert list(view.members) == []
            assert owners_of(view) == [NOBODY] * SHARDS
            assert view.version > 0

        self.run(body)

    def test_a_member_is_there_as_it_joined(self) -> None:
        async def body(registry: Registry, place: Place) -> None:
            before = await registry.view(0)
            one = await registry.join("ä'\"😀", "unix:/a b", "1.2", LONG_S, KEY)
            view = await registry.view(before.version)
            (member,) = view.members
            left_ms = member.lease_left_ms
            assert member == Member(one, "ä'\"😀", "unix:/a b", "1.2", "active", left_ms)
            assert LONG_S * 900 < left_ms <= LONG_S * 1000
            assert view.version > before.version
            assert not await self.is_fenced(place, one)

        self.run(body)

    def test_a_database_is_one_cell_for_good(self) -> None:
        async def body(registry: Registry, place: Place) -> None:
            await registry.claim(Cell(1, 2))
            await joined(registry)
            async with self.opened(place) as other:
                await other.claim(Cell(1, 2))
                for wrong in (Cell(0, 2), Cell(1, 3), Cell()):
                    with pytest.raises(OtherClusterError, match="is cell 2 of 2, and was named"):
                        await other.claim(wrong)

        self.run(body)

    def test_a_database_that_was_in_use_before_it_was_claimed_is_the_only_one(self) -> None:
        async def body(registry: Registry, _place: Place) -> None:
            await joined(registry)
            with pytest.raises(OtherClusterError, match="is cell 1 of 1, and was named as"):
                await registry.claim(Cell(0, 2))
            await registry.claim(Cell())

        self.run(body)

    def test_incarnations_rise_and_are_never_used_again(self) -> None:
        async def body(registry: Registry, place: Place) -> None:
            seen: list[int] = []
            for _ in range(3):
                seen.append(await joined(registry))
                await registry.leave(seen[-1])
                async with self.opened(place) as other:
                    seen.append(await joined(other))
            assert seen == sorted(set(seen))
            assert seen[0] > NOBODY

        self.run(body)

    def test_a_renewal_lets_the_lease_end_later(self) -> None:
        async def body(registry: Registry, _place: Place) -> None:
            one = await registry.join("a", "tcp:h:1", "1", 1.0, KEY)
            view = await registry.renew(one, LONG_S, "active", 0)
            assert LONG_S * 900 < member_of(view, one).lease_left_ms <= LONG_S * 1000
            view = await registry.renew(one, 2.0, "active", 0)  # and also sooner
            assert 1_000 < member_of(view, one).lease_left_ms <= 2_000

        self.run(body)

    def test_a_lease_that_is_over_can_be_renewed_while_nobody_took_it(self) -> None:
        async def body(registry: Registry, place: Place) -> None:
            one = await registry.join("a", "tcp:h:1", "1", SHORT_S, KEY)
            await self.run_out(place, registry, one)
            assert member_of(await registry.renew(one, LONG_S, "active", 0), one).lease_left_ms > 0
            assert await registry.take_over(one, {}, seen_dead=False) is None

        self.run(body)

    def test_who_is_no_member_cannot_renew(self) -> None:
        async def body(registry: Registry, _place: Place) -> None:
            one = await joined(registry)
            await registry.leave(one)
            for incarnation in (one, one + 1_000, NOBODY):
                for state in ("active", "draining"):
                    with pytest.raises(FencedError):
                        await registry.renew(incarnation, LONG_S, state, 0)
                with pytest.raises(FencedError):
                    await registry.hand_over(incarnation, {}, 0)
            assert list((await registry.view(0)).members) == []

        self.run(body)

    def test_everybody_sees_who_drains(self) -> None:
        async def body(registry: Registry, place: Place) -> None:
            one, two = await joined(registry), await joined(registry)
            before = await registry.renew(one, LONG_S, "active", 0)
            view = await registry.renew(one, LONG_S, "draining", before.version)
            assert view.version > before.version
            async with self.opened(place) as other:
                members = (await other.view(0)).members
                assert {x.incarnation: x.state for x in members} == {one: "draining", two: "active"}
            assert (await registry.renew(one, LONG_S, "draining", 0)).version == view.version

        self.run(body)

    def test_owners_come_only_with_a_version_that_is_not_known(self) -> None:
        async def body(registry: Registry, _place: Place) -> None:
            one = await joined(registry)
            view = await registry.renew(one, LONG_S, "active", 0)
            assert owners_of(view) == [NOBODY] * SHARDS
            assert (await registry.renew(one, LONG_S, "active", view.version)).owners is None
            assert (await registry.view(view.version)).owners is None
            assert (
                await registry.renew(one, LONG_S, "active", view.version - 1)
            ).owners is not None
            assert (await registry.view(view.version + 5)).owners is not None

        self.run(body)

    def test_renewals_alone_change_no_version(self) -> None:
        async def body(registry: Registry, _place: Place) -> None:
            one = await joined(registry)
            versions = {(await registry.renew(one, LONG_S, "active", 0)).version for _ in range(5)}
            assert len(versions) == 1

        self.run(body)

    # -- shards ----------------------------------------------------------------------------------

    def test_shards_of_nobody_are_given_to_members(self) -> None:
        async def body(registry: Registry, _place: Place) -> None:
            one, two = await joined(registry), await joined(registry)
            before = await registry.view(0)
            heirs = {shard: (one, two)[shard % 2] for shard in range(SHARDS)}
            view = await registry.take_over(NOBODY, heirs, seen_dead=False)
            assert view is not None
            assert view.version > before.version
            assert owners_of(view) == [heirs[shard] for shard in range(SHARDS)]
            # the next one comes too late
            assert (
                await registry.take_over(NOBODY, dict.fromkeys(heirs, one), seen_dead=False) is None
            )
            await self.same(registry, view)

        self.run(body)

    def test_only_what_is_nobodys_is_given_away_as_nobodys(self) -> None:
        async def body(registry: Registry, _place: Place) -> None:
            one, two = await joined(registry), await joined(registry)
            await registry.take_over(NOBODY, {7: one}, seen_dead=False)
            heirs = {7: two, 8: two, 9: 9_999, 10: NOBODY}
            view = await registry.take_over(NOBODY, heirs, seen_dead=True)
            assert view is not None
            assert owned(view) == {7: one, 8: two}

        self.run(body)

    def test_own_shards_are_handed_over_and_no_others(self) -> None:
        async def body(registry: Registry, _place: Place) -> None:
            one, two, three = [await joined(registry) for _ in range(3)]
            await registry.take_over(NOBODY, {1: one, 2: one, 3: two, 4: one}, seen_dead=False)
            before = await registry.view(0)
            heirs = {1: three, 3: three, 4: 9_999, 5: three}
            view = await registry.hand_over(one, heirs, before.version)
            assert owned(view) == {1: three, 2: one, 3: two, 4: one}
            assert view.version > before.version
            view = await registry.hand_over(one, {2: NOBODY, 3: three}, view.version)
            assert owned(view) == {1: three, 2: one, 3: two, 4: one}

        self.run(body)

    def test_a_hand_over_that_comes_late_takes_nothing_that_has_come_back(self) -> None:
        async def body(registry: Registry, _place: Place) -> None:
            one, two = await joined(registry), await joined(registry)
            await registry.take_over(NOBODY, {1: one, 2: one, 3: two}, seen_dead=False)
            asked = ({1: two, 2: two}, (await registry.view(0)).version)
            view = await registry.hand_over(one, *asked)
            assert owned(await registry.hand_over(one, *asked)) == owned(view)  # word for word
            await registry.hand_over(two, {1: one, 3: one}, view.version)
            before = await registry.view(0)
            view = await registry.hand_over(one, {**asked[0], 3: two}, asked[1])
            assert view.version == before.version
            assert owned(view) == {1: one, 2: two, 3: one}
            assert owned(await registry.hand_over(one, {1: two}, before.version))[1] == two

        self.run(body)

    def test_a_hand_over_takes_nothing_that_was_taken_over_since(self) -> None:
        async def body(registry: Registry, _place: Place) -> None:
            one, two = await joined(registry), await joined(registry)
            await registry.take_over(NOBODY, {1: one, 2: two}, seen_dead=False)
            known = (await registry.view(0)).version
            await registry.leave(two)
            await registry.take_over(NOBODY, {2: one}, seen_dead=False)
            three = await joined(registry)
            view = await registry.hand_over(one, {1: three, 2: three}, known)
            assert owned(view) == {1: three, 2: one}

        self.run(body)

    def test_who_leaves_leaves_its_shards_to_nobody(self) -> None:
        async def body(registry: Registry, place: Place) -> None:
            one, two = await joined(registry), await joined(registry)
            await registry.take_over(NOBODY, {1: one, 2: two}, seen_dead=False)
            before = await registry.view(0)
            await registry.leave(one)
            view = await registry.view(before.version)
            assert view.version > before.version
            assert owned(view) == {2: two}
            assert [member.incarnation for member in view.members] == [two]
            assert await self.is_fenced(place, one)
            await registry.leave(one)
            await registry.leave(9_999)
            assert (await registry.view(0)).version == view.version

        self.run(body)

    # -- taking out ------------------------------------------------------------------------------

    def test_a_member_whose_lease_is_over_is_taken_out(self) -> None:
        async def body(registry: Registry, place: Place) -> None:
            one = await joined(registry)
            victim = await registry.join("victim", "tcp:h:2", "1", SHORT_S, KEY)
            await registry.take_over(
                NOBODY, {1: victim, 2: victim, 3: victim, 4: one, 5: victim}, seen_dead=False
            )
            before = await registry.view(0)
            await self.run_out(place, registry, victim)
            assert not await self.is_fenced(place, victim)
            heirs = {1: one, 2: 9_999, 3: victim, 4: victim}
            view = await registry.take_over(victim, heirs, seen_dead=False)
            assert view is not None
            assert owned(view) == {1: one, 4: one}
            assert [member.incarnation for member in view.members] == [one]
            assert view.version > before.version
            assert await self.is_fenced(place, victim)
            assert not await self.is_fenced(place, one)
            with pytest.raises(FencedError):
                await registry.renew(victim, LONG_S, "active", 0)
            assert await registry.take_over(victim, heirs, seen_dead=True) is None

        self.run(body)

    def test_a_member_within_its_lease_stays(self) -> None:
        async def body(registry: Registry, place: Place) -> None:
            one, victim = await joined(registry), await joined(registry)
            await registry.take_over(NOBODY, {1: victim}, seen_dead=False)
            before = await registry.view(0)
            assert await registry.take_over(victim, {1: one}, seen_dead=False) is None
            assert await registry.take_over(9_999, {1: one}, seen_dead=True) is None
            after = await self.same(registry, before)
            assert owned(after) == {1: victim}
            assert not await self.is_fenced(place, victim)

        self.run(body)

    def test_who_was_seen_dead_need_not_be_waited_for(self) -> None:
        async def body(registry: Registry, place: Place) -> None:
            one, victim = await joined(registry), await self.dead(place)
            await registry.take_over(NOBODY, {1: victim}, seen_dead=False)
            view = await registry.take_over(victim, {1: one}, seen_dead=True)
            assert view is not None
            assert owned(view) == {1: one}
            assert await self.is_fenced(place, victim)

        self.run(body)

    def test_who_is_still_connected_is_not_dead_whatever_was_seen(self) -> None:
        async def body(registry: Registry, place: Place) -> None:
            one, victim = await joined(registry), await self.dead(place)
            await registry.take_over(NOBODY, {1: victim}, seen_dead=False)
            async with self.connected(place, victim):
                assert await registry.take_over(victim, {1: one}, seen_dead=True) is None
                assert not await self.is_fenced(place, victim)
            await eventually(lambda: registry.take_over(victim, {1: one}, seen_dead=True))

        self.run(body)

    def test_a_connection_does_not_lengthen_a_lease(self) -> None:
        async def body(registry: Registry, place: Place) -> None:
            victim = await registry.join("victim", "tcp:h:2", "1", SHORT_S, KEY)
            async with self.connected(place, victim):
                await self.run_out(place, registry, victim)
                assert await registry.take_over(victim, {}, seen_dead=False) is not None

        self.run(body)

    # -- all at once -----------------------------------------------------------------------------

    def test_of_ten_that_take_over_at_once_one_wins(self) -> None:
        async def body(registry: Registry, place: Place) -> None:
            victim = await self.dead(place)
            everything = dict.fromkeys(range(SHARDS), victim)
            await registry.take_over(NOBODY, everything, seen_dead=False)

            async def take() -> tuple[int, View | None]:
                async with self.opened(place) as mine:
                    me = await joined(mine)
                    heirs = dict.fromkeys(range(SHARDS), me)
                    return me, await mine.take_over(victim, heirs, seen_dead=True)

            ended = await asyncio.gather(*(take() for _ in range(10)))
            [(winner, view)] = [one for one in ended if one[1] is not None]
            assert view is not None
            assert set(owners_of(view)) == {winner}
            assert set(owners_of(await registry.view(0))) == {winner}

        self.run(body)

    def test_a_renewal_and_a_take_over_at_once_agree(self) -> None:
        """Either it was renewed and stays, or it was taken out and hears so."""

        async def body(registry: Registry, place: Place) -> None:
            outcomes = set[bool]()
            async with self.opened(place) as other:
                heir = await joined(other)
                for _ in range(20):
                    victim = await registry.join("victim", "tcp:h:2", "1", 0.0, KEY)
                    await registry.take_over(NOBODY, {1: victim}, seen_dead=False)
                    renewed, taken = await asyncio.gather(
                        registry.renew(victim, LONG_S, "active", 0),
                        other.take_over(victim, {1: heir}, seen_dead=False),
                        return_exceptions=True,
                    )
                    assert isinstance(renewed, FencedError | View)
                    is_out = await self.is_fenced(place, victim)
                    assert is_out == isinstance(taken, View)
                    if isinstance(renewed, FencedError):
                        assert is_out
                    outcomes.add(is_out)
                    await registry.leave(victim)
                    if owned(await other.view(0)) == {1: heir}:
                        await other.leave(heir)
                        heir = await joined(other)
            assert outcomes

        self.run(body)

    def test_handing_over_and_being_taken_out_at_once_leave_each_shard_one_owner(self) -> None:
        async def body(registry: Registry, place: Place) -> None:
            async with self.opened(place) as other:
                heir, friend = await joined(other), await joined(other)
                for _ in range(10):
                    victim = await self.dead(place)
                    mine = dict.fromkeys(range(100), victim)
                    await registry.take_over(NOBODY, mine, seen_dead=False)
                    handed, taken = await asyncio.gather(
                        registry.hand_over(victim, dict.fromkeys(range(50), friend), FOREVER),
                        other.take_over(victim, dict.fromkeys(range(100), heir), seen_dead=True),
                        return_exceptions=True,
                    )
                    assert isinstance(taken, View)
                    first = heir if isinstance(handed, FencedError) else friend
                    expected = {shard: first if shard < 50 else heir for shard in range(100)}
                    assert owned(await registry.view(0)) == expected
                    await other.leave(heir)
                    await other.leave(friend)
                    heir, friend = await joined(other), await joined(other)

        self.run(body)

    def test_processes_that_come_and_go_at_once_leave_no_trace(self) -> None:
        async def body(registry: Registry, place: Place) -> None:
            incarnations: list[int] = []

            async def live() -> None:
                async with self.opened(place) as mine:
                    for _ in range(3):
                        me = await joined(mine)
                        incarnations.append(me)
                        view = await mine.renew(me, LONG_S, "active", 0)
                        others = [one.incarnation for one in view.members]
                        free = [n for n in range(64) if owners_of(view)[n] == NOBODY]
                        await mine.take_over(NOBODY, dict.fromkeys(free, me), seen_dead=False)
                        heirs = {n: others[n % len(others)] for n in range(64)}
                        await mine.hand_over(me, heirs, FOREVER)
                        await mine.renew(me, LONG_S, "draining", 0)
                        await mine.leave(me)

            await asyncio.gather(*(live() for _ in range(6)))
            view = await registry.view(0)
            assert len(set(incarnations)) == 18
            assert list(view.members) == []
            assert owned(view) == {}

        self.run(body)

    def test_a_view_fits_together_while_owners_change(self) -> None:
        """Nobody ever sees a shard whose owner is not among the members."""

        async def body(registry: Registry, place: Place) -> None:
            async def churn() -> None:
                async with self.opened(place) as mine:
                    for _ in range(10):
                        me = await joined(mine)
                        await mine.take_over(NOBODY, dict.fromkeys(range(256), me), seen_dead=False)
                        await mine.leave(me)

            churning = asyncio.gather(churn(), churn())
            known = 0
            while not churning.done():
                view = await registry.view(known)
                assert view.version >= known
                if view.owners is not None:
                    members = {one.incarnation for one in view.members}
                    assert set(view.owners) <= members | {NOBODY}
                known = view.version
                await asyncio.sleep(0)
            await churning

        self.run(body)
