"""The part of the registries' contract that is about what operators do, or do wrong."""

import asyncio

import pytest

from perdure.base.errors import FencedError, OtherClusterError
from perdure.store.registry import NOBODY, Registry
from perdure.testing.registry_contract_base import (
    KEY,
    LONG_S,
    SHORT_S,
    Place,
    RegistryCase,
    joined,
    member_of,
    owned,
)


class RegistryOperatorsContract(RegistryCase):
    """Draining on request, and clusters that meet on one database."""

    def test_who_was_asked_to_drain_drains_whatever_it_says(self) -> None:
        async def body(registry: Registry, place: Place) -> None:
            one, two = await joined(registry), await joined(registry)
            before = await registry.view(0)
            async with self.opened(place) as other:
                assert await other.ask_to_drain(one)
            view = await registry.renew(one, LONG_S, "active", before.version)
            assert view.version > before.version
            assert view.owners is not None
            assert {x.incarnation: x.state for x in view.members} == {
                one: "draining",
                two: "active",
            }
            assert await registry.ask_to_drain(one)  # again: nothing new
            assert (await registry.view(0)).version == view.version
            view = await registry.renew(one, LONG_S, "draining", 0)
            view = await registry.renew(one, LONG_S, "active", 0)
            assert member_of(view, one).state == "draining"

        self.run(body)

    def test_only_members_can_be_asked_to_drain(self) -> None:
        async def body(registry: Registry, _place: Place) -> None:
            one = await joined(registry)
            await registry.ask_to_drain(one)
            await registry.leave(one)
            version = (await registry.view(0)).version
            for incarnation in (one, one + 1_000, NOBODY):
                assert not await registry.ask_to_drain(incarnation)
            assert (await registry.view(0)).version == version
            two = await joined(registry)
            assert member_of(await registry.view(0), two).state == "active"

        self.run(body)

    # -- one key for all -------------------------------------------------------------------------

    def test_who_has_another_key_than_a_living_member_cannot_join(self) -> None:
        async def body(registry: Registry, _place: Place) -> None:
            over = await registry.join("over", "tcp:h:1", "1", -1.0, KEY)
            await registry.join("alive", "tcp:h:1", "1", LONG_S, KEY)
            before = await registry.view(0)
            with pytest.raises(OtherClusterError, match="another key") as caught:
                await registry.join("b", "tcp:h:2", "1", LONG_S, "another")
            assert "'alive'" in str(caught.value)
            after = await self.same(registry, before)
            assert member_of(after, over)
            assert await registry.join("b", "tcp:h:2", "1", LONG_S, KEY) > over

        self.run(body)

    def test_members_with_another_key_whose_leases_are_over_are_taken_out(self) -> None:
        async def body(registry: Registry, place: Place) -> None:
            old = [await registry.join("old", "tcp:h:1", "1", SHORT_S, KEY) for _ in range(2)]
            await registry.take_over(NOBODY, {1: old[0], 2: old[1]}, seen_dead=False)
            before = await registry.view(0)
            for one in old:
                await self.run_out(place, registry, one)
            new = await registry.join("new", "tcp:h:2", "1", LONG_S, "another")
            view = await registry.view(0)
            assert [member.incarnation for member in view.members] == [new]
            assert owned(view) == {}
            assert view.version > before.version
            for one in old:
                assert await self.is_fenced(place, one)
                with pytest.raises(FencedError):
                    await registry.renew(one, LONG_S, "active", 0)
            with pytest.raises(OtherClusterError):
                await registry.join("old", "tcp:h:1", "1", SHORT_S, KEY)
            await registry.leave(new)
            await registry.join("old", "tcp:h:1", "1", SHORT_S, KEY)

        self.run(body)

    def test_of_two_with_different_keys_that_join_at_once_one_is_refused(self) -> None:
        async def body(registry: Registry, place: Place) -> None:
            async with self.opened(place) as other:
                ended = await asyncio.gather(
                    registry.join("a", "tcp:h:1", "1", LONG_S, "one"),
                    other.join("b", "tcp:h:2", "1", LONG_S, "two"),
                    return_exceptions=True,
                )
            assert sorted(isinstance(one, OtherClusterError) for one in ended) == [False, True]
            assert len((await registry.view(0)).members) == 1

        self.run(body)
