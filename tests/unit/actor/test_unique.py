"""No two actors of a class have the same value in a `unique` field."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest

from perdure import Actor, UniqueError, unique
from perdure.store.api import Store
from perdure.store.memory import MemoryStore
from perdure.store.sqlite import SqliteStore
from perdure.testing import async_test, running

MakeStore = Callable[[Path], Store]
each_store = pytest.mark.parametrize(
    "make_store", [lambda _folder: MemoryStore(), SqliteStore], ids=["memory", "sqlite"]
)


class Customer(Actor):
    email: Annotated[str | None, unique] = None
    changes: int = 0

    async def set_email(self, email: str | None) -> int:
        self.email = email
        self.changes += 1
        return self.changes

    async def seen(self) -> tuple[str | None, int]:
        return self.email, self.changes

    async def set_email_of(self, key: str, email: str) -> str:
        self.changes += 1
        try:
            await Customer.at(key).set_email(email)
        except UniqueError as error:
            return f"{error.field} is taken"
        return "done"


@each_store
@async_test
async def test_a_value_that_another_has_is_refused_and_nothing_is_left(
    make_store: MakeStore, tmp_path: Path
) -> None:
    async with running(Customer, store=make_store(tmp_path)):
        await Customer.at("a").set_email("a@b.c")
        await Customer.at("b").set_email("b@b.c")
        with pytest.raises(UniqueError) as caught:
            await Customer.at("b").set_email("a@b.c")
        assert caught.value.field == "email"
        assert await Customer.at("b").seen() == ("b@b.c", 1)
        row = await Customer.find(email="a@b.c")
        assert row is not None
        assert row.key == "a"
        assert await Customer.at("b").set_email("b2@b.c") == 2


@each_store
@async_test
async def test_of_many_who_want_a_value_at_once_one_gets_it(
    make_store: MakeStore, tmp_path: Path
) -> None:
    async with running(Customer, store=make_store(tmp_path)):
        wanted = [Customer.at(f"c{number}").set_email("a@b.c") for number in range(20)]
        answers = await asyncio.gather(*wanted, return_exceptions=True)
        assert [answer for answer in answers if not isinstance(answer, UniqueError)] == [1]
        rows = [row async for row in Customer.where()]
        assert [(row.state.email, row.state.changes) for row in rows] == [("a@b.c", 1)]


@each_store
@async_test
async def test_any_number_may_have_none_and_a_value_that_was_given_up_is_free(
    make_store: MakeStore, tmp_path: Path
) -> None:
    async with running(Customer, store=make_store(tmp_path)):
        for key in ("a", "b", "c"):
            await Customer.at(key).set_email(None)
        assert [row.key for row in await Customer.where(email=None)] == ["a", "b", "c"]
        await Customer.at("a").set_email("a@b.c")
        await Customer.at("a").set_email(None)
        await Customer.at("b").set_email("a@b.c")
        row = await Customer.find(email="a@b.c")
        assert row is not None
        assert row.key == "b"


@async_test
async def test_a_caller_can_catch_it_and_go_on() -> None:
    async with running(Customer):
        await Customer.at("a").set_email("a@b.c")
        assert await Customer.at("b").set_email_of("c", "a@b.c") == "email is taken"
        assert await Customer.at("b").set_email_of("c", "c@b.c") == "done"
        assert await Customer.at("b").seen() == (None, 2)
        assert await Customer.at("c").seen() == ("c@b.c", 1)
