"""Sets have no order of their own: one may come back in another than it was written in."""

import asyncio

import pytest

from perdure import Actor, App, DomainError, read


class Refused(DomainError):
    """On purpose."""


class Tags(Actor):
    """Holds a set that was larger once: its order in memory is not the one it is rebuilt in."""

    numbers: set[int] = set()

    async def fill(self) -> None:
        self.numbers = set(range(200))
        for number in set(range(200)) - {1, 64}:
            self.numbers.discard(number)

    async def refuse(self) -> None:
        raise Refused

    @read
    async def count(self) -> int:
        return len(self.numbers)


def test_a_read_after_an_undone_turn_is_no_change() -> None:
    async def scenario() -> None:
        app = App(Tags, store="memory:")
        async with app:
            await Tags.at("a").fill()
            with pytest.raises(Refused):
                await Tags.at("a").refuse()
            assert await Tags.at("a").count() == 2
            assert app.statistics()["commits"] == 1

    asyncio.run(scenario())
