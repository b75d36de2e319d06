"""Map and Log: entries that are rows, read through what is not yet durable, gone with the turn."""

import asyncio
from typing import Any

import msgspec
import pytest

from perdure import (
    Actor,
    App,
    BadArgumentsError,
    InvalidKeyError,
    LimitError,
    Limits,
    Log,
    Map,
    NotRunningError,
    Page,
    ReadOnlyError,
    StoreError,
    UnencodableError,
    interleave,
    read,
    relaxed,
    transaction,
)
from perdure.actor.entries import entry_of_int, int_of_entry
from perdure.testing import async_test, running, spin
from perdure.testing.scripted_store import ScriptedStore


class Item(msgspec.Struct):
    name: str
    qty: int = 1


class Basket(Actor):
    title: str = ""
    items: Map[str, Item] = Map()
    shelf: Map[int, str] = Map()
    log: Log[str] = Log()

    async def put(self, key: str, qty: int = 1) -> None:
        self.items[key] = Item(key, qty)

    async def put_many(self, keys: list[str]) -> None:
        for key in keys:
            self.items[key] = Item(key)

    async def put_then_fail(self, key: str) -> None:
        self.items[key] = Item(key, 100)
        self.log.append("will not be")
        raise LookupError(key)

    async def put_save_put_fail(self, first: str, second: str) -> None:
        self.items[first] = Item(first)
        self.log.append(first)
        await self.save()
        self.items[second] = Item(second)
        self.log.append(second)
        raise LookupError(second)

    async def put_count_fail(self, key: str) -> None:
        self.items[key] = Item(key)
        self.title = key
        raise LookupError(str(await self.items.count()))

    @interleave
    async def put_and_count(self, key: str) -> int:
        self.items[key] = Item(key)
        return await self.items.count()

    async def put_wrong(self) -> None:
        self.items["x"] = Item("x", "many")  # type: ignore[arg-type]

    async def put_unencodable(self) -> None:
        self.items["x"] = object()  # type: ignore[assignment]

    async def put_sized(self, size: int, count: int = 1) -> None:
        for number in range(count):
            self.shelf[number] = "x" * size

    async def rewrite(self, size: int, times: int) -> None:
        for _ in range(times):
            self.shelf[1] = "x" * size

    async def take(self, key: str) -> None:
        del self.items[key]

    async def throw(self, key: str) -> None:
        self.items.discard(key)

    async def change_a_copy(self, key: str) -> int:
        item = await self.items.get(key)
        assert item is not None
        item.qty = 99
        again = await self.items.get(key)
        assert again is not None
        return again.qty

    async def swap(self, first: str, second: str) -> list[str]:
        """Its own effects are seen in every kind of read."""
        del self.items[first]
        self.items[second] = Item(second)
        assert not await self.items.contains(first)
        assert await self.items.contains(second)
        assert await self.items.get(first) is None
        return [key async for key in self.items]

    @read
    async def get(self, key: str) -> Item | None:
        return await self.items.get(key)

    @read
    async def get_or(self, key: str, default: str) -> Item | str:
        return await self.items.get(key, default)

    @read
    async def has(self, key: str) -> bool:
        return await self.items.contains(key)

    @read
    async def count(self) -> int:
        return await self.items.count()

    @read
    async def keys(
        self, start: str | None = None, end: str | None = None, descending: bool = False
    ) -> list[str]:
        found = [
            key async for key, _ in self.items.items(start=start, end=end, descending=descending)
        ]
        assert found == [
            key async for key in self.items.keys(start=start, end=end, descending=descending)
        ]
        values = self.items.values(start=start, end=end, descending=descending)
        assert found == [item.name async for item in values]
        return found

    @read
    async def page(
        self, limit: int, cursor: str | None = None, descending: bool = False
    ) -> Page[str]:
        page = await self.items.page(cursor=cursor, limit=limit, descending=descending)
        return page.map(lambda entry: entry[0])

    @read
    async def put_in_a_read(self, key: str) -> None:
        self.items[key] = Item(key)

    @read
    async def append_in_a_read(self) -> None:
        self.log.append("x")

    async def clear(self, at_most: int) -> int:
        return await self.items.clear(at_most=at_most)

    async def number(self, keys: list[int]) -> list[int]:
        for key in keys:
            self.shelf[key] = str(key)
        return [key async for key, value in self.shelf.items() if int(value) == key]

    async def between(self, start: int, end: int) -> list[int]:
        return [key async for key in self.shelf.keys(start=start, end=end, descending=True)]

    async def use_key(self, kind: str) -> None:
        keys: dict[str, Any] = {"none": None, "bool": True, "text": "1", "huge": 2**63}
        self.shelf[keys[kind]] = "x"

    async def use_text_key(self, key: str) -> None:
        self.items[key] = Item("x")

    async def use_broken_text_keys(self) -> int:
        refused = 0
        for key in ("a\0b", "\ud800", 7):
            try:
                self.items[key] = Item("x")  # type: ignore[index]
            except (InvalidKeyError, TypeError):
                refused += 1
        return refused


class Journal(Actor):
    title: str = ""
    lines: Log[str] = Log()

    async def write(self, lines: list[str]) -> list[int]:
        return [self.lines.append(line) for line in lines]

    async def write_then_fail(self, line: str) -> None:
        self.lines.append(line)
        raise LookupError(line)

    async def write_through_a_variable(self) -> tuple[int, int, int]:
        lines = self.lines
        lines.append("one")
        lines.append("two")
        return len(lines), lines.next, lines.first

    @read
    async def line(self, index: int) -> str | None:
        return await self.lines.get(index)

    @read
    async def line_or(self, index: int, default: str) -> str:
        return await self.lines.get(index, default)

    @read
    async def last(self, limit: int) -> list[str]:
        return await self.lines.last(limit)

    @read
    async def span(
        self, start: int = 0, end: int | None = None, descending: bool = False
    ) -> list[tuple[int, str]]:
        return [pair async for pair in self.lines.range(start, end, descending=descending)]

    @read
    async def size(self) -> tuple[int, int, int]:
        return len(self.lines), self.lines.first, self.lines.next

    async def trim(self, index: int, at_most: int = 1_000) -> int:
        return self.lines.drop_before(index, at_most=at_most)

    async def append_while_reading(self) -> int:
        seen = 0
        async for _ in self.lines.range():
            self.lines.append("more")
            seen += 1
        return seen

    async def start_anew(self) -> list[str]:
        self.lines = Log()
        self.lines.append("first again")
        return await self.lines.last(10)


def rows_of(store: ScriptedStore) -> list[tuple[str, str]]:
    """The entries that were written so far, put or taken away, in order."""
    return [(write.field, write.entry) for batch in store.batches for write in batch.entries]


@async_test
async def test_an_entry_that_was_put_can_be_got_counted_and_taken_away() -> None:
    async with running(Basket) as _:
        basket = Basket.at("a")
        await basket.put("tea", 3)
        assert await basket.get("tea") == Item("tea", 3)
        assert await basket.has("tea")
        assert await basket.count() == 1
        await basket.take("tea")
        assert await basket.get("tea") is None
        assert await basket.get_or("tea", "none") == "none"
        assert not await basket.has("tea")
        assert await basket.count() == 0


@async_test
async def test_taking_away_what_is_not_there_is_no_error() -> None:
    async with running(Basket):
        await Basket.at("a").take("tea")
        await Basket.at("a").throw("tea")
        assert await Basket.at("a").count() == 0


@async_test
async def test_a_value_that_was_got_is_a_copy() -> None:
    async with running(Basket):
        await Basket.at("a").put("tea", 3)
        assert await Basket.at("a").change_a_copy("tea") == 3


@async_test
async def test_actors_and_fields_do_not_see_the_entries_of_others() -> None:
    async with running(Basket):
        await Basket.at("a").put("1")
        await Basket.at("b").number([1])
        assert await Basket.at("a").keys() == ["1"]
        assert await Basket.at("b").keys() == []
        assert await Basket.at("a").between(0, 10) == []
        assert await Basket.at("b").between(0, 10) == [1]


@async_test
async def test_only_the_difference_is_written_and_the_state_does_not_grow() -> None:
    store = ScriptedStore()
    async with running(Basket, store=store):
        await Basket.at("a").put_many([str(number) for number in range(500)])
        written = len(rows_of(store))
        await Basket.at("a").put("250", 7)
        assert rows_of(store)[written:] == [("items", "250")]
        state = store.batches[-1].writes[0].state
        assert state is not None
        assert len(state) < 100


@async_test
async def test_a_turn_that_only_wrote_an_entry_commits_before_its_answer() -> None:
    store = ScriptedStore()
    async with running(Basket, store=store):
        store.hold()
        putting = asyncio.create_task(Basket.at("a").put("tea"))
        batch = await store.next_commit()
        await spin()
        assert [(one.field, one.entry) for one in batch.entries] == [("items", "tea")]
        assert not putting.done()
        store.open_up()
        await putting


@async_test
async def test_an_exception_takes_the_entries_of_its_turn_along() -> None:
    store = ScriptedStore()
    async with running(Basket, store=store):
        await Basket.at("a").put("tea", 1)
        with pytest.raises(LookupError):
            await Basket.at("a").put_then_fail("tea")
        assert await Basket.at("a").get("tea") == Item("tea", 1)
        assert rows_of(store) == [("items", "tea")]


@async_test
async def test_save_keeps_what_came_before_it() -> None:
    async with running(Basket):
        with pytest.raises(LookupError):
            await Basket.at("a").put_save_put_fail("tea", "jam")
        assert await Basket.at("a").keys() == ["tea"]


@async_test
async def test_a_read_method_must_not_write_entries() -> None:
    async with running(Basket):
        with pytest.raises(ReadOnlyError):
            await Basket.at("a").put_in_a_read("tea")
        with pytest.raises(ReadOnlyError):
            await Basket.at("a").append_in_a_read()
        assert await Basket.at("a").count() == 0


@async_test
async def test_entries_that_are_not_durable_are_seen_and_hold_the_answer_back() -> None:
    store = ScriptedStore()
    async with running(Basket, store=store):
        await Basket.at("a").put_many(["a", "c", "e"])
        store.hold()
        calls = [
            asyncio.create_task(call)
            for call in (
                Basket.at("a").put("b"),
                Basket.at("a").take("c"),
                Basket.at("a").get("b"),
                Basket.at("a").keys(),
            )
        ]
        await store.next_commit()
        await spin()
        assert not any(call.done() for call in calls)
        store.open_up()
        assert [await call for call in calls] == [None, None, Item("b"), ["a", "b", "e"]]


@async_test
async def test_what_was_not_durable_is_gone_when_its_commit_fails() -> None:
    store = ScriptedStore()
    async with running(Basket, store=store):
        await Basket.at("a").put("tea", 1)
        store.hold()
        calls = [
            asyncio.create_task(call)
            for call in (Basket.at("a").put("tea", 2), Basket.at("a").get("tea"))
        ]
        await store.next_commit()
        await spin()
        store.fail(StoreError("the disk is on fire"))
        for call in calls:
            with pytest.raises(StoreError):
                await call
        store.open_up()
        assert await Basket.at("a").get("tea") == Item("tea", 1)


@async_test
async def test_counting_waits_for_what_is_on_its_way_and_counts_it_once() -> None:
    store = ScriptedStore()
    async with running(Basket, store=store):
        await Basket.at("a").put_many(["a", "b"])
        store.hold()
        putting = asyncio.create_task(Basket.at("a").put_many(["b", "c"]))
        await store.next_commit()
        counting = asyncio.create_task(Basket.at("a").count())
        await spin()
        assert not counting.done()
        store.open_up()
        await putting
        assert await counting == 3


@async_test
async def test_counting_while_something_is_on_its_way_commits_nothing_of_this_turn() -> None:
    store = ScriptedStore()
    async with running(Basket, store=store):
        store.hold()
        putting = asyncio.create_task(Basket.at("a").put("tea"))
        await store.next_commit()
        counting = asyncio.create_task(Basket.at("a").put_count_fail("jam"))
        await spin()
        store.open_up()
        await putting
        with pytest.raises(LookupError, match="2"):
            await counting
        assert await Basket.at("a").keys() == ["tea"]


@async_test
async def test_an_interleaving_turn_counts_what_it_has_put() -> None:
    store = ScriptedStore()
    async with running(Basket, store=store):
        assert await Basket.at("a").put_and_count("tea") == 1
        assert await Basket.at("a").put_and_count("tea") == 1
        assert await Basket.at("a").put_and_count("jam") == 2


@async_test
async def test_a_turn_sees_its_own_effects_in_every_read() -> None:
    async with running(Basket):
        await Basket.at("a").put_many(["a", "b"])
        assert await Basket.at("a").swap("a", "c") == ["b", "c"]
        assert await Basket.at("a").keys() == ["b", "c"]


@async_test
async def test_ranges_begin_with_their_start_and_end_before_their_end() -> None:
    async with running(Basket):
        await Basket.at("a").put_many(list("abcdef"))
        assert await Basket.at("a").keys("b", "e") == ["b", "c", "d"]
        assert await Basket.at("a").keys("b", "e", descending=True) == ["d", "c", "b"]
        assert await Basket.at("a").keys("bb") == ["c", "d", "e", "f"]
        assert await Basket.at("a").keys("e", "b") == []
        assert await Basket.at("a").keys(None, "") == []


@async_test
async def test_pages_go_on_behind_the_last_key_in_both_directions() -> None:
    async with running(Basket):
        await Basket.at("a").put_many(list("abcde"))
        for descending, expected in ((False, ["ab", "cd", "e"]), (True, ["ed", "cb", "a"])):
            cursor = None
            for keys in expected:
                page = await Basket.at("a").page(2, cursor, descending)
                assert "".join(page) == keys
                cursor = page.next
            assert cursor is None
        assert (await Basket.at("a").page(5)).next is None


@pytest.mark.parametrize("limit", [0, -1, 1_001])
@async_test
async def test_a_page_has_a_bounded_size(limit: int) -> None:
    async with running(Basket):
        with pytest.raises(BadArgumentsError, match="1 to 1000") as refusal:
            await Basket.at("a").page(limit)
        assert refusal.value.field == "limit"


@async_test
async def test_an_iteration_loads_page_by_page() -> None:
    async with running(Basket):
        keys = [f"{number:04d}" for number in range(350)]
        await Basket.at("a").put_many(keys)
        assert await Basket.at("a").keys() == keys
        assert await Basket.at("a").keys(descending=True) == keys[::-1]


@async_test
async def test_a_map_is_cleared_bit_by_bit() -> None:
    async with running(Basket):
        await Basket.at("a").put_many(list("abcde"))
        assert await Basket.at("a").clear(3) == 3
        assert await Basket.at("a").keys() == ["d", "e"]
        assert await Basket.at("a").clear(3) == 2
        assert await Basket.at("a").clear(3) == 0


@async_test
async def test_keys_that_are_numbers_are_in_their_order() -> None:
    keys = [0, -1, 1, 10, 9, -10, -9, 2**63 - 1, -(2**63), 255]
    async with running(Basket):
        assert await Basket.at("a").number(keys) == sorted(keys)
        assert await Basket.at("a").between(-9, 10) == [9, 1, 0, -1, -9]


def test_the_stored_form_of_numbers_can_be_read_by_people() -> None:
    assert entry_of_int(7) == "0000000000000000007"
    assert entry_of_int(-1) == "-9999999999999999999"
    assert int_of_entry(entry_of_int(-(2**63))) == -(2**63)


@async_test
async def test_keys_of_another_type_are_refused() -> None:
    async with running(Basket):
        for kind in ("none", "bool", "text"):
            with pytest.raises(TypeError, match="keys of type int"):
                await Basket.at("a").use_key(kind)
        with pytest.raises(InvalidKeyError, match="64 bits"):
            await Basket.at("a").use_key("huge")
        assert await Basket.at("a").use_broken_text_keys() == 3
        with pytest.raises(InvalidKeyError, match="514 bytes"):
            await Basket.at("a").use_text_key("é" * 257)
        assert await Basket.at("a").count() == 0


@pytest.mark.parametrize("key", ["", " ", "\n", "é", "e\u0301", "😀", "\uffff", "x" * 512])
@async_test
async def test_texts_are_kept_as_they_are(key: str) -> None:
    async with running(Basket):
        await Basket.at("a").use_text_key(key)
        assert list(await Basket.at("a").page(10)) == [key]
        assert await Basket.at("a").has(key)


@async_test
async def test_a_value_must_fit_its_type() -> None:
    async with running(Basket):
        with pytest.raises(UnencodableError, match=r"Basket\.items.*qty"):
            await Basket.at("a").put_wrong()
        with pytest.raises(UnencodableError, match="JSON cannot hold"):
            await Basket.at("a").put_unencodable()
        assert await Basket.at("a").count() == 0


@async_test
async def test_what_a_turn_may_write_is_bounded() -> None:
    limits = Limits(entry_bytes_max=100, entries_per_turn_max=5, entries_bytes_per_turn_max=300)
    async with running(Basket, limits=limits):
        basket = Basket.at("a")
        await basket.put_sized(98)
        with pytest.raises(LimitError, match="at most 100"):
            await basket.put_sized(99)
        await basket.put_sized(1, 5)
        with pytest.raises(LimitError, match="5 entries"):
            await basket.put_sized(1, 6)
        await basket.put_sized(98, 3)
        with pytest.raises(LimitError, match="at most 300"):
            await basket.put_sized(98, 4)
        await basket.rewrite(98, 50)  # what was replaced does not count


@async_test
async def test_a_log_gives_indexes_that_stay() -> None:
    async with running(Journal):
        journal = Journal.at("j")
        assert await journal.write(["a", "b", "c"]) == [0, 1, 2]
        assert await journal.trim(2) == 2
        assert await journal.write(["d"]) == [3]
        assert [await journal.line(index) for index in range(-1, 5)] == [
            None, None, None, "c", "d", None,
        ]  # fmt: skip
        assert await journal.line_or(0, "gone") == "gone"
        assert await journal.size() == (2, 2, 4)
        assert await journal.span() == [(2, "c"), (3, "d")]


@async_test
async def test_the_end_and_any_range_of_a_log_can_be_read() -> None:
    async with running(Journal):
        journal = Journal.at("j")
        await journal.write([str(number) for number in range(250)])
        assert await journal.last(3) == ["247", "248", "249"]
        assert len(await journal.last(1_000)) == 250
        assert [index for index, _ in await journal.span(98, 203)] == list(range(98, 203))
        assert [index for index, _ in await journal.span(descending=True)] == [*range(249, -1, -1)]
        assert await journal.span(240, 10) == []
        assert await journal.span(-5, 1) == [(0, "0")]
        with pytest.raises(LimitError):
            await journal.last(0)


@async_test
async def test_a_log_goes_back_with_its_turn() -> None:
    async with running(Journal):
        journal = Journal.at("j")
        await journal.write(["a"])
        with pytest.raises(LookupError):
            await journal.write_then_fail("b")
        assert await journal.size() == (1, 0, 1)
        assert await journal.write(["c"]) == [1]
        assert await journal.span() == [(0, "a"), (1, "c")]


@async_test
async def test_a_log_kept_in_a_variable_does_not_fall_behind() -> None:
    async with running(Journal):
        assert await Journal.at("j").write_through_a_variable() == (2, 2, 0)
        assert await Journal.at("other").size() == (0, 0, 0)  # defaults are shared, entries not


@async_test
async def test_what_is_appended_while_reading_is_not_read() -> None:
    async with running(Journal):
        await Journal.at("j").write([str(number) for number in range(120)])
        assert await Journal.at("j").append_while_reading() == 120
        assert await Journal.at("j").size() == (240, 0, 240)


@async_test
async def test_a_log_is_trimmed_in_bounded_steps() -> None:
    async with running(Journal):
        journal = Journal.at("j")
        await journal.write(list("abcdef"))
        assert await journal.trim(4, at_most=3) == 3
        assert await journal.trim(4, at_most=3) == 1
        assert await journal.trim(4) == 0
        assert await journal.trim(-1) == 0
        assert await journal.trim(100) == 2
        assert await journal.size() == (0, 6, 6)
        assert await journal.last(5) == []


@async_test
async def test_a_new_log_that_was_assigned_starts_from_nothing() -> None:
    async with running(Journal):
        await Journal.at("j").write(list("abc"))
        assert await Journal.at("j").start_anew() == ["first again"]
        assert await Journal.at("j").size() == (1, 0, 1)


@async_test
async def test_entries_outlast_the_process() -> None:
    store = ScriptedStore()
    async with running(Basket, Journal, store=store):
        await Basket.at("a").put("tea", 3)
        await Journal.at("j").write(["a", "b"])
        await Journal.at("j").trim(1)
    async with running(Basket, Journal, store=store):
        assert await Basket.at("a").get("tea") == Item("tea", 3)
        assert await Journal.at("j").span() == [(1, "b")]
        assert await Journal.at("j").write(["c"]) == [2]


class Worker(Actor):
    done: Map[str, int] = Map()
    steps: Log[str] = Log()

    @interleave
    async def work(self, name: str, fail: bool = False) -> None:
        mine, steps = self.done, self.steps
        mine[name] = 1
        steps.append(f"{name} 1")
        await _paused.wait()
        mine[name] = 2
        steps.append(f"{name} 2")
        if fail:
            raise LookupError(name)

    @read
    async def seen(self) -> tuple[dict[str, int], list[str]]:
        done = {name: step async for name, step in self.done.items()}
        return done, await self.steps.last(10)

    async def leave(self) -> None:
        self.done["last"] = 1
        self.forget()

    @relaxed(loss_max_s=60)
    async def tick(self) -> None:
        self.done["tick"] = 1

    async def escape(self) -> None:
        async def later() -> None:
            await _paused.wait()
            self.done["late"] = 1

        _escaped.append(asyncio.create_task(later()))


_paused = asyncio.Event()
_escaped: list[asyncio.Task[None]] = []


@async_test
async def test_each_stretch_of_an_interleaving_turn_commits_its_own_entries() -> None:
    global _paused
    _paused = asyncio.Event()
    store = ScriptedStore()
    async with running(Worker, store=store):
        worker = Worker.at("w")
        working = [asyncio.create_task(worker.work(name, name == "b")) for name in "ab"]
        await spin()
        assert await worker.seen() == ({"a": 1, "b": 1}, ["a 1", "b 1"])
        _paused.set()
        await working[0]
        with pytest.raises(LookupError):
            await working[1]
        assert await worker.seen() == ({"a": 2, "b": 1}, ["a 1", "b 1", "a 2"])
    async with running(Worker, store=store):
        assert await worker.seen() == ({"a": 2, "b": 1}, ["a 1", "b 1", "a 2"])


@async_test
async def test_an_actor_that_forgets_itself_takes_its_entries_along() -> None:
    global _paused
    _paused = asyncio.Event()
    _paused.set()
    async with running(Worker):
        await Worker.at("w").work("a")
        await Worker.at("w").leave()
        assert await Worker.at("w").seen() == ({}, [])


@async_test
async def test_entries_of_a_relaxed_method_are_committed_before_its_answer() -> None:
    store = ScriptedStore()
    async with running(Worker, store=store):
        await Worker.at("w").tick()
        assert rows_of(store) == [("done", "tick")]


@async_test
async def test_outside_of_a_turn_there_is_no_collection() -> None:
    global _paused
    _paused = asyncio.Event()
    with pytest.raises(NotRunningError):
        len(Journal().lines)
    with pytest.raises(NotRunningError):
        Basket().items["x"] = Item("x")
    with pytest.raises(NotRunningError):
        await Basket().items.get("x")
    async with running(Worker):
        await Worker.at("w").escape()
        _paused.set()
        with pytest.raises(NotRunningError):
            await _escaped.pop()


@async_test
async def test_calls_of_a_transaction_see_the_entries_of_those_before_them() -> None:
    store = ScriptedStore()
    async with running(Basket, Journal, store=store):
        await Journal.at("j").write(["before"])
        store.hold()
        putting = asyncio.create_task(Basket.at("a").put("tea"))
        await store.next_commit()
        store.open_up()
        with pytest.raises(LookupError):
            async with transaction():
                await Basket.at("a").put("jam")
                assert await Basket.at("a").count() == 2
                assert await Basket.at("a").put_and_count("ink") == 3
                assert await Journal.at("j").write(["within"]) == [1]
                assert await Basket.at("a").keys() == ["ink", "jam", "tea"]
                raise LookupError
        await putting
        assert await Basket.at("a").keys() == ["tea"]
        assert await Journal.at("j").span() == [(0, "before")]
        async with transaction():
            await Basket.at("a").put("jam")
            await Journal.at("j").write(["after"])
        assert await Basket.at("a").count() == 2
        assert await Journal.at("j").span() == [(0, "before"), (1, "after")]


class Thief(Actor):
    done: int = 0

    async def steal(self) -> None:
        _elsewhere["x"] = 1


_elsewhere: Map[str, int] = Map()


@async_test
async def test_a_collection_of_nobody_or_of_another_class_is_refused() -> None:
    global _elsewhere
    async with running(Thief, Worker):
        with pytest.raises(NotRunningError, match="not a field of the actor"):
            await Thief.at("t").steal()
        _elsewhere = Worker().done
        with pytest.raises(NotRunningError, match="not a field of the actor"):
            await Thief.at("t").steal()


@async_test
async def test_a_field_can_be_added_to_a_class_that_has_rows() -> None:
    store = ScriptedStore()
    before = type("Shop", (Actor,), _shop_body(with_map=False))
    after = type("Shop", (Actor,), _shop_body(with_map=True))
    async with App(before, store=store):
        await before.at("s").rename("corner")  # type: ignore[attr-defined]
    async with App(after, store=store):
        await after.at("s").put("tea", 2)  # type: ignore[attr-defined]
        assert await after.at("s").show("tea") == ("corner", 2)  # type: ignore[attr-defined]


def _shop_body(*, with_map: bool) -> dict[str, Any]:
    async def rename(self: Any, name: str) -> None:
        self.name = name

    async def put(self: Any, key: str, qty: int) -> None:
        self.stock[key] = qty

    async def show(self: Any, key: str) -> tuple[str, int | None]:
        return self.name, await self.stock.get(key)

    body: dict[str, Any] = {"__annotations__": {"name": str}, "name": "", "rename": rename}
    if with_map:
        body["__annotations__"]["stock"] = Map[str, int]
        body |= {"stock": Map(), "put": put, "show": show}
    return {"__module__": __name__, **body}
