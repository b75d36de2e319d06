"""What may be stored: only a state that can be read back."""

import asyncio
from typing import Any

import pytest

from perdure import (
    Actor,
    Limits,
    StateTooLargeError,
    StoreFormatError,
    UnencodableError,
    read,
)
from perdure.store.api import ActorSchema
from perdure.store.memory import MemoryStore
from perdure.testing import async_test, running
from perdure.testing.store_contract import batch, write

LOOP: list[Any] = []
LOOP.append(LOOP)
DEEP: Any = []
for _ in range(100_000):
    DEEP = [DEEP]
VALUES: dict[str, Any] = {
    "wrong type": ("number", "text"),
    "NaN": ("ratio", float("nan")),
    "infinity": ("ratio", float("inf")),
    "lone surrogate": ("text", "\ud800"),
    "unknown object": ("anything", object()),
    "a list that holds itself": ("anything", LOOP),
    "nested too deeply": ("anything", DEEP),
    "a key that is no text": ("anything", {(1, 2): 3}),
    "a wrong type deep inside": ("table", {"a": ["b"]}),
    "a key of the wrong type": ("table", {None: [1]}),
}


class Holder(Actor):
    number: int = 0
    ratio: float = 0.0
    text: str = ""
    anything: Any = None
    table: dict[str, list[int]] = {}

    async def put(self, name: str) -> None:
        field, value = VALUES[name]
        self.number = 99
        setattr(self, field, value)

    async def put_and_save(self, name: str) -> None:
        await asyncio.sleep(0)
        field, value = VALUES[name]
        self.number = 99
        setattr(self, field, value)
        await self.save()

    async def give(self, name: str) -> Any:
        self.number = 99
        return VALUES[name][1]

    async def grow(self, size: int) -> int:
        self.text = "x" * size
        return size

    async def declare(self) -> None:
        self.undeclared = 1  # type: ignore[attr-defined]

    async def lie(self) -> int:
        return "not a number"  # type: ignore[return-value]

    @read
    async def view(self) -> int:
        return self.number


@pytest.mark.parametrize("method", ["put", "put_and_save"])
@pytest.mark.parametrize("name", VALUES)
def test_a_state_that_could_not_be_read_back_is_refused(name: str, method: str) -> None:
    @async_test
    async def body() -> None:
        async with running(Holder):
            holder = Holder.at("a")
            with pytest.raises(UnencodableError, match=f"Holder.{method}"):
                await getattr(holder, method)(name)
            assert await holder.view() == 0

    body()


@pytest.mark.parametrize("name", ["lone surrogate", "unknown object", "a list that holds itself"])
def test_a_result_that_json_cannot_hold_undoes_the_turn(name: str) -> None:
    @async_test
    async def body() -> None:
        async with running(Holder):
            with pytest.raises(UnencodableError, match=r"Holder\.give"):
                await Holder.at("a").give(name)
            assert await Holder.at("a").view() == 0

    body()


@async_test
async def test_a_result_that_belies_its_annotation_is_named() -> None:
    async with running(Holder):
        with pytest.raises(UnencodableError, match=r"Holder\.lie returned something else"):
            await Holder.at("a").lie()


@async_test
async def test_a_field_that_was_not_declared_fails_at_once() -> None:
    async with running(Holder):
        with pytest.raises(AttributeError, match="undeclared"):
            await Holder.at("a").declare()


@async_test
async def test_a_state_up_to_the_limit_is_kept_and_one_beyond_it_refused() -> None:
    async with running(Holder, limits=Limits(state_bytes_max=2_000, state_bytes_warn=500)):
        holder = Holder.at("a")
        overhead = len(b'{"number":0,"ratio":0.0,"text":"","anything":null,"table":{}}')
        await holder.grow(2_000 - overhead)
        with pytest.raises(StateTooLargeError, match="2001 bytes; at most 2000"):
            await holder.grow(2_001 - overhead)
        await holder.grow(1)


@async_test
async def test_a_large_state_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with running(Holder, limits=Limits(state_bytes_warn=100)):
        for size in (200, 201, 202):
            await Holder.at("a").grow(size)
    assert [record.message for record in caplog.records] == ["large state"]


def _stored(state: bytes) -> MemoryStore:
    store = MemoryStore()

    async def fill() -> None:
        await store.open([ActorSchema("holder")])
        await store.commit(batch(write("a", 1, state, "holder")))

    asyncio.run(fill())
    return store


def test_a_field_that_was_added_since_gets_its_default_and_is_no_change() -> None:
    store = _stored(b'{"number":7}')

    @async_test
    async def body() -> None:
        async with running(Holder, store=store) as app:
            assert await Holder.at("a").view() == 7
            assert app.statistics()["commits"] == 0

    body()


@pytest.mark.parametrize("state", [b'{"number":"x"}', b"[]", b"{", b""])
def test_a_stored_state_that_does_not_fit_the_class_is_named_and_left_alone(state: bytes) -> None:
    store = _stored(state)

    @async_test
    async def body() -> None:
        async with running(Holder, store=store):
            for _ in range(2):
                with pytest.raises(StoreFormatError, match=r"Holder\('a'\) does not fit the class"):
                    await Holder.at("a").view()
        assert (await store.load("holder", "a")).state == state  # type: ignore[union-attr]

    body()
