"""Unique fields under turns: who is refused, what goes with them, and what stays."""

import asyncio
from typing import Annotated

import pytest

from perdure import Actor, ConflictError, UniqueError, read, unique
from perdure.actor.gate import GroupCommit, linked
from perdure.store.api import Refusal
from perdure.testing import VirtualClock, async_test, running, spin
from perdure.testing.scripted_store import ScriptedStore


class Account(Actor):
    email: Annotated[str | None, unique] = None
    name: str = ""

    async def sign_up(self, email: str) -> str:
        self.email = email
        Greeter.at("g").tell.greet(email)
        return email

    async def rename(self, name: str) -> str:
        self.name = name
        return name

    @read
    async def view(self) -> tuple[str | None, str]:
        return self.email, self.name


class Greeter(Actor):
    greeted: list[str] = []

    async def greet(self, email: str) -> None:
        self.greeted.append(email)

    @read
    async def all(self) -> list[str]:
        return self.greeted


@async_test
async def test_the_second_is_refused_by_field_and_leaves_nothing() -> None:
    async with running(Account, Greeter, clock=VirtualClock()):
        await Account.at("a").sign_up("x@example.com")
        with pytest.raises(UniqueError, match="email") as refused:
            await Account.at("b").sign_up("x@example.com")
        assert refused.value.field == "email"
        await spin()
        assert await Account.at("b").view() == (None, "")
        assert await Greeter.at("g").all() == ["x@example.com"]
        assert await Account.at("b").sign_up("y@example.com") == "y@example.com"


@async_test
async def test_of_many_at_once_exactly_one_wins_and_the_others_commits_stay() -> None:
    async with running(Account, Greeter, clock=VirtualClock()):
        calls = [Account.at(f"a{n}").sign_up("x@example.com") for n in range(20)]
        others = [Account.at(f"b{n}").rename("bob") for n in range(20)]
        answers = await asyncio.gather(*calls, *others, return_exceptions=True)
        assert answers.count("x@example.com") == 1
        assert sum(isinstance(answer, UniqueError) for answer in answers) == 19
        assert answers.count("bob") == 20
        await spin()
        assert await Greeter.at("g").all() == ["x@example.com"]


@async_test
async def test_what_was_built_on_the_refused_state_goes_with_it() -> None:
    store = ScriptedStore()
    async with running(Account, Greeter, store=store, clock=VirtualClock()):
        await Account.at("a").sign_up("x@example.com")
        store.hold()
        refused = asyncio.create_task(Account.at("b").sign_up("x@example.com"))
        await store.next_commit()
        later = asyncio.create_task(Account.at("b").rename("bob"))
        other = asyncio.create_task(Account.at("c").rename("carl"))
        await spin()
        store.open_up()
        with pytest.raises(UniqueError):
            await refused
        with pytest.raises((UniqueError, ConflictError)):
            await later
        assert await other == "carl"
        assert await Account.at("b").view() == (None, "")


def test_links_that_meet_are_one_group() -> None:
    a, b, c, d, e = "abcde"
    groups = linked([(a, b), (c, d), (b, c)])  # type: ignore[list-item]
    assert len({groups[one] for one in (a, b, c, d)}) == 1  # type: ignore[index]
    assert e not in groups


@async_test
async def test_what_is_refused_takes_what_is_linked_with_it_along() -> None:
    store = ScriptedStore()
    async with running(Account, Greeter, store=store, clock=VirtualClock()) as app:
        await asyncio.gather(*(Account.at(key).rename(key) for key in "abc"))
        assert app._node is not None
        catalog = app._node._catalog
        a, b, c = (catalog.activation(app.actor_types[0], key) for key in "abc")
        commit = GroupCommit()
        commit.states = {a: b"{}", b: b"{}", c: b"{}"}
        commit.links.append((a, b))
        assert [write.group for write in commit.batch(1).writes] == [1, 1, 0]
        errors: dict[object, BaseException] = {a: UniqueError("taken", "email")}
        commit.leave_out(errors)  # type: ignore[arg-type]
        assert set(errors) == {a, b}
        assert list(commit.states) == [c]
        assert Refusal("account", "a", "email").field == "email"
