"""Two versions of a class on one store, in either order: nothing is lost on the way or back."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure import (
    Actor,
    NewerStateError,
    StoreFormatError,
    expose,
    interleave,
    migrate,
    read,
    relaxed,
    transaction,
)
from perdure.store.api import Store, StoredActor
from perdure.store.memory import MemoryStore
from perdure.store.sqlite import SqliteStore
from perdure.testing import VirtualClock, async_test, running

State = dict[str, Any]


class Plain(Actor, name="cart"):
    """The first release, with every way there is to write."""

    lines: dict[str, int] = {}

    async def add(self, sku: str) -> int:
        self.lines[sku] = self.lines.get(sku, 0) + 1
        return self.lines[sku]

    async def add_after_waiting(self, sku: str) -> int:
        await asyncio.sleep(0)
        return await self.add(sku)

    async def add_and_save(self, sku: str) -> int:
        await self.add(sku)
        await self.save()
        return 1

    @interleave
    async def add_in_stretches(self, sku: str) -> int:
        await self.add(sku)
        await asyncio.sleep(0)
        return 1

    @relaxed(loss_max_s=0.01)
    async def add_soon(self, sku: str) -> int:
        return await self.add(sku)

    async def look(self, sku: str) -> int:
        return self.lines.get(sku, 0)

    @read
    async def view(self) -> dict[str, int]:
        return self.lines


class WithNote(Actor, name="cart"):
    """A field more; no migration is needed for that."""

    lines: dict[str, int] = {}
    note: str = "none"

    async def write(self, note: str) -> None:
        self.note = note

    @read
    async def read_note(self) -> str:
        return self.note


class Counted(Actor, name="cart"):
    """Version 2: each line is a list of quantities."""

    lines: dict[str, list[int]] = {}
    currency: str = "EUR"

    @migrate(to=2)
    def lists(state: State) -> State:
        if "broken" in state["lines"]:
            raise ValueError("there is something wrong with it")
        return {"lines": {sku: [qty] for sku, qty in state["lines"].items()}}

    async def put(self, sku: str, qty: int) -> None:
        self.lines.setdefault(sku, []).append(qty)

    @read
    async def view(self) -> dict[str, list[int]]:
        return self.lines


class Labelled(Actor, name="cart"):
    """Version 2 that version 1 can still read."""

    lines: dict[str, int] = {}
    label: str = ""

    @migrate(to=2)
    def label_it(state: State) -> State:
        return {**state, "label": "old"}

    async def relabel(self, label: str) -> None:
        self.label = label

    @read
    async def read_label(self) -> str:
        return self.label


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else SqliteStore(tmp_path)


class SlowStore(MemoryStore):
    """Its reads suspend, so that calls gather in the mailbox."""

    reads_never_wait = False

    async def load(self, actor_type: str, key: str) -> StoredActor | None:
        await asyncio.sleep(0)
        return await super().load(actor_type, key)


async def row_of(store: Store, key: str = "alice") -> StoredActor:
    """As stored; only while an App runs on it."""
    row = await store.load("cart", key)
    assert row is not None
    return row


def test_older_code_reads_what_newer_code_wrote_and_does_not_write_over_it(store: Store) -> None:
    @async_test
    async def body() -> None:
        async with running(Plain, store=store):
            await Plain.at("alice").add("tea")
        async with running(WithNote, store=store):
            assert await WithNote.at("alice").read_note() == "none"
            await WithNote.at("alice").write("hello")
            newer = await row_of(store)
        async with running(Plain, store=store):
            assert await Plain.at("alice").view() == {"tea": 1}
            with pytest.raises(NewerStateError, match=r"newer code wrote Plain\('alice'\)"):
                await Plain.at("alice").add("tea")
            assert await Plain.at("alice").view() == {"tea": 1}
            assert await row_of(store) == newer
            assert await Plain.at("bob").add("tea") == 1  # others go on
        async with running(WithNote, store=store):
            assert await WithNote.at("alice").read_note() == "hello"

    body()


@pytest.mark.parametrize(
    "method", ["add", "add_after_waiting", "add_and_save", "add_in_stretches", "add_soon"]
)
@pytest.mark.parametrize("request_id", [None, "r1"])
def test_no_way_to_write_gets_past_a_newer_state(method: str, request_id: str | None) -> None:
    store = MemoryStore()

    @async_test
    async def body() -> None:
        async with running(WithNote, store=store):
            await WithNote.at("alice").write("hello")
            newer = await row_of(store)
        async with running(Plain, store=store) as app:
            call = getattr(Plain.at("alice", request_id=request_id), method)
            with pytest.raises(NewerStateError):
                await call("tea")
            assert await Plain.at("alice").view() == {}
            assert app.statistics()["commits"] == 0
        async with running(Plain, store=store):  # also not what the stop has flushed
            assert await row_of(store) == newer

    body()


class Acting(Actor, name="cart", ttl=timedelta(minutes=1)):
    """Older code some of whose methods leave the state alone but have effects."""

    lines: dict[str, int] = {}

    @expose
    async def set_timer(self) -> None:
        self.timers.set("later", call="set_timer", after=timedelta(hours=1))

    async def add(self) -> None:
        self.lines["tea"] = self.lines.get("tea", 0) + 1

    async def set_timer_after_waiting(self) -> None:
        await asyncio.sleep(0)
        self.timers.set("later", call="set_timer", after=timedelta(hours=1))

    @interleave
    async def set_timer_in_stretches(self) -> None:
        self.timers.set("later", call="set_timer", after=timedelta(hours=1))
        await asyncio.sleep(0)

    async def tell_another(self) -> None:
        Acting.at("bob").tell.set_timer()

    async def leave(self) -> None:
        self.forget()

    @expose
    @read
    async def view(self) -> dict[str, int]:
        return self.lines


@pytest.mark.parametrize(
    "method",
    ["set_timer", "set_timer_after_waiting", "set_timer_in_stretches", "tell_another", "leave"],
)
def test_effects_without_a_change_of_the_state_are_refused_too(method: str) -> None:
    store = MemoryStore()

    @async_test
    async def body() -> None:
        async with running(WithNote, store=store):
            await WithNote.at("alice").write("hello")
            newer = await row_of(store)
        async with running(Acting, store=store) as app:
            with pytest.raises(NewerStateError):
                await getattr(Acting.at("alice"), method)()
            assert await Acting.at("alice").view() == {}
            assert app.statistics()["commits"] == 0
            assert await row_of(store) == newer

    body()


@pytest.mark.parametrize("method", ["set_timer", "add", "leave"])
def test_a_transaction_with_a_newer_state_in_it_reads_it_or_leaves_no_trace(method: str) -> None:
    store = MemoryStore()

    @async_test
    async def body() -> None:
        async with running(WithNote, store=store):
            await WithNote.at("alice").write("hello")
            newer = await row_of(store)
        async with running(Acting, store=store):
            async with transaction():
                assert await Acting.at("alice").view() == {}
                await Acting.at("bob").add()
            with pytest.raises(NewerStateError):
                async with transaction():
                    await Acting.at("bob").add()
                    await getattr(Acting.at("alice"), method)()
            assert await Acting.at("bob").view() == {"tea": 1}
            assert await row_of(store) == newer

    body()


@async_test
async def test_older_code_lets_no_newer_state_expire() -> None:
    store, clock = MemoryStore(), VirtualClock()
    async with running(WithNote, store=store, clock=clock):
        await WithNote.at("alice").write("hello")
        newer = await row_of(store)
    async with running(Acting, store=store, clock=clock) as app:
        await Acting.at("bob").set_timer()
        await clock.advance(59)
        assert await store.load("cart", "bob") is not None
        for _ in range(3):  # it is asked again and again, and does not hold up others
            await clock.advance(60)
        assert await store.load("cart", "bob") is None
        assert app.statistics()["actors_expired"] == 1
        assert await row_of(store) == newer


@pytest.mark.parametrize("method", ["look", "view"])
def test_an_answer_that_must_be_remembered_is_a_write_too(method: str) -> None:
    store = MemoryStore()

    @async_test
    async def body() -> None:
        async with running(WithNote, store=store):
            await WithNote.at("alice").write("hello")
            newer = await row_of(store)
        arguments = {"sku": "tea"} if method == "look" else {}
        async with running(Plain, store=store):
            await getattr(Plain.at("alice"), method)(**arguments)
            with pytest.raises(NewerStateError):
                await getattr(Plain.at("alice", request_id="r1"), method)(**arguments)
            assert await store.find_request("cart", "alice", "r1") is None
            assert await row_of(store) == newer

    body()


@pytest.mark.parametrize(
    ("method", "headers"), [("set_timer", {}), ("view", {"Idempotency-Key": "r1"})]
)
def test_over_http_the_refusal_is_a_problem(method: str, headers: dict[str, str]) -> None:
    store = MemoryStore()

    @async_test
    async def body() -> None:
        async with running(WithNote, store=store):
            await WithNote.at("alice").write("hello")
        async with running(Acting, store=store) as app:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
                refused = await client.post(f"/acting/alice/{method}", headers=headers)
        assert refused.status_code == 503
        assert refused.json()["type"] == "urn:perdure:problem:newer-state"

    body()


@async_test
async def test_a_refusal_over_a_newer_state_does_not_hold_up_the_calls_behind_it() -> None:
    """They wait in one mailbox until the actor is loaded."""
    store = SlowStore()
    async with running(WithNote, store=store):
        await WithNote.at("alice").write("hello")
    async with running(Acting, store=store):
        calls = [
            Acting.at("alice", request_id="r1").view(),
            Acting.at("alice").set_timer(),
            Acting.at("alice").view(),
        ]
        first, second, third = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(first, NewerStateError)
        assert isinstance(second, NewerStateError)
        assert third == {}


def test_an_answer_remembered_by_older_code_is_given_again_also_above_a_newer_state() -> None:
    store = MemoryStore()

    @async_test
    async def body() -> None:
        async with running(Plain, store=store):
            assert await Plain.at("alice", request_id="r1").add("tea") == 1
        async with running(WithNote, store=store):
            await WithNote.at("alice").write("hello")
        async with running(Plain, store=store):
            assert await Plain.at("alice", request_id="r1").add("tea") == 1

    body()


def test_a_migration_runs_on_waking_and_is_written_with_the_next_change(store: Store) -> None:
    @async_test
    async def body() -> None:
        async with running(Plain, store=store):
            await Plain.at("alice").add("tea")
            first = await row_of(store)
        async with running(Counted, store=store) as app:
            assert await Counted.at("alice").view() == {"tea": [1]}
            assert app.statistics()["commits"] == 0
            assert await row_of(store) == first
        async with running(Plain, store=store):  # back: nothing has happened to the row
            await Plain.at("alice").add("tea")
        async with running(Counted, store=store):
            await Counted.at("alice").put("tea", 5)
            row = await row_of(store)
            assert (row.version, row.schema) == (3, 2)
            assert row.state == b'{"lines":{"tea":[2,5]},"currency":"EUR"}'
        async with running(Counted, store=store):
            assert await Counted.at("alice").view() == {"tea": [2, 5]}

    body()


def test_after_a_migration_older_code_reads_what_still_fits(store: Store) -> None:
    @async_test
    async def body() -> None:
        async with running(Plain, store=store):
            await Plain.at("alice").add("tea")
        async with running(Labelled, store=store):
            assert await Labelled.at("alice").read_label() == "old"
            await Labelled.at("alice").relabel("mine")
            newer = await row_of(store)
        async with running(Plain, store=store):
            assert await Plain.at("alice").view() == {"tea": 1}
            with pytest.raises(NewerStateError):
                await Plain.at("alice").add("tea")
            assert await row_of(store) == newer
        async with running(Labelled, store=store):
            assert await Labelled.at("alice").read_label() == "mine"

    body()


def test_older_code_refuses_a_newer_state_that_does_not_fit(store: Store) -> None:
    @async_test
    async def body() -> None:
        async with running(Counted, store=store):
            await Counted.at("alice").put("tea", 5)
            newer = await row_of(store)
        async with running(Plain, store=store):
            for call in (Plain.at("alice").view(), Plain.at("alice").add("tea")):
                with pytest.raises(StoreFormatError, match=r"Plain\('alice'\) .* is of version 2"):
                    await call
            assert await row_of(store) == newer
        async with running(Counted, store=store):
            assert await Counted.at("alice").view() == {"tea": [5]}

    body()


def test_a_migration_that_raises_loses_nothing_and_stops_nobody_else(store: Store) -> None:
    @async_test
    async def body() -> None:
        async with running(Plain, store=store):
            await Plain.at("alice").add("broken")
            await Plain.at("bob").add("tea")
            before = await row_of(store)
        async with running(Counted, store=store):
            for _ in range(2):
                with pytest.raises(StoreFormatError, match=r"Counted\('alice'\): @migrate\(to=2\)"):
                    await Counted.at("alice").put("tea", 1)
            await Counted.at("bob").put("tea", 1)
            assert await row_of(store) == before
        async with running(Plain, store=store):
            assert await Plain.at("alice").view() == {"broken": 1}

    body()


STEPS = st.lists(
    st.tuples(st.sampled_from([Plain, WithNote]), st.sampled_from("ab"), st.integers(0, 9)),
    max_size=12,
)


@settings(max_examples=60)
@given(steps=STEPS)
def test_releases_that_take_turns_never_lose_a_field(steps: list[tuple[Any, str, int]]) -> None:
    """Against a model: once WithNote has written an actor, Plain only reads it."""
    store = MemoryStore()
    lines: dict[str, dict[str, int]] = {"a": {}, "b": {}}
    notes: dict[str, str] = {}

    async def body() -> None:
        for release, key, number in steps:
            async with running(release, store=store):
                if release is WithNote:
                    notes[key] = f"note {number}"
                    await WithNote.at(key).write(notes[key])
                elif key in notes:
                    with pytest.raises(NewerStateError):
                        await Plain.at(key).add(str(number))
                else:
                    await Plain.at(key).add(str(number))
                    lines[key][str(number)] = lines[key].get(str(number), 0) + 1
                if release is Plain:
                    assert await Plain.at(key).view() == lines[key]
        async with running(WithNote, store=store):
            for key, note in notes.items():
                assert await WithNote.at(key).read_note() == note
                row = await row_of(store, key)
                assert str(lines[key]).replace("'", '"').replace(" ", "") in row.state.decode()

    asyncio.run(body())
