"""The part of the registries' contract that is about doors: where HTTP requests can be sent."""

import asyncio

from perdure.store.registry import Door, Registry
from perdure.testing.registry_contract_base import (
    LONG_S,
    SHORT_S,
    Place,
    RegistryCase,
    eventually,
    joined,
)

_ONE = Door("10.0.0.1:8000", "shop-1/web-1", "1.0")
_TWO = Door("10.0.0.2:8000", "shop-2/web-1", "1.0")


class RegistryDoorsContract(RegistryCase):
    """Announced, seen, and seen no more."""

    def test_at_first_there_is_no_door_and_none_to_withdraw(self) -> None:
        async def body(registry: Registry, _place: Place) -> None:
            assert await registry.doors() == []
            await registry.withdraw(_ONE)
            assert await registry.doors() == []

        self.run(body)

    def test_what_one_process_announces_the_others_see(self) -> None:
        async def body(registry: Registry, place: Place) -> None:
            async with self.opened(place) as other:
                assert await other.doors() == []
                await registry.announce(_TWO, LONG_S)
                await other.announce(_ONE, LONG_S)
                odd = Door("[::1]:8000", "ä'\"😀/web", "1.0", "draining")
                await registry.announce(odd, LONG_S)
                assert await registry.doors() == await other.doors() == [_ONE, _TWO, odd]

        self.run(body)

    def test_processes_at_one_address_announce_it_each_for_itself(self) -> None:
        async def body(registry: Registry, _place: Place) -> None:
            beside = Door(_ONE.address, "shop-1/web-2", "1.0", "draining")
            await registry.announce(beside, LONG_S)
            await registry.announce(_ONE, LONG_S)
            assert await registry.doors() == [_ONE, beside]
            await registry.withdraw(_ONE)
            assert await registry.doors() == [beside]

        self.run(body)

    def test_the_last_announcement_of_a_door_counts(self) -> None:
        async def body(registry: Registry, place: Place) -> None:
            await registry.announce(_ONE, LONG_S)
            drained = Door(_ONE.address, _ONE.name, "1.1", "draining")
            await registry.announce(drained, LONG_S)
            assert await registry.doors() == [drained]
            await registry.withdraw(_ONE)
            async with self.opened(place) as other:
                assert await other.doors() == []

        self.run(body)

    def test_a_door_whose_time_is_over_is_not_seen_until_it_is_announced_again(self) -> None:
        async def body(registry: Registry, place: Place) -> None:
            await registry.announce(_TWO, LONG_S)
            await registry.announce(_ONE, SHORT_S)

            async def is_over() -> bool | None:
                await self.let_pass(place, SHORT_S / 5)
                return await registry.doors() == [_TWO] or None

            await eventually(is_over)
            await registry.announce(_ONE, LONG_S)
            assert await registry.doors() == [_ONE, _TWO]

        self.run(body)

    def test_the_first_announcements_may_come_at_once(self) -> None:
        async def body(registry: Registry, place: Place) -> None:
            async with self.opened(place) as other:
                await asyncio.gather(registry.announce(_ONE, LONG_S), other.announce(_TWO, LONG_S))
                assert await other.doors() == [_ONE, _TWO]

        self.run(body)

    def test_doors_change_nothing_of_who_is_a_member(self) -> None:
        async def body(registry: Registry, _place: Place) -> None:
            await joined(registry)
            before = await registry.view(0)
            await registry.announce(_ONE, LONG_S)
            await registry.withdraw(_ONE)
            await self.same(registry, before)

        self.run(body)
