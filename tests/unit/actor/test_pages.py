"""Pages: whatever comes and goes between them, each row that stays is seen once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure import Actor, App, BadArgumentsError, Log, Map, Page, indexed, read
from perdure.store.memory import MemoryStore
from perdure.testing import async_test, running

Walk = Callable[[str | None, int, bool], Awaitable[Page[Any]]]


class Shelf(Actor):
    texts: Map[str, int] = Map()
    numbers: Map[int, int] = Map()
    lines: Log[int] = Log()

    async def change(self, put: list[int], drop: list[int]) -> None:
        for number in put:
            self.texts[str(number)] = self.numbers[number] = number
        for number in drop:
            del self.texts[str(number)]
            del self.numbers[number]

    async def write(self, count: int, before: int) -> None:
        for _ in range(count):
            self.lines.append(self.lines.next)
        self.lines.drop_before(before)

    @read
    async def by_text(
        self, cursor: str | None = None, limit: int = 100, descending: bool = False
    ) -> Page[tuple[str, int]]:
        return await self.texts.page(cursor=cursor, limit=limit, descending=descending)

    @read
    async def by_number(
        self, cursor: str | None = None, limit: int = 100, descending: bool = False
    ) -> Page[tuple[int, int]]:
        return await self.numbers.page(cursor=cursor, limit=limit, descending=descending)

    @read
    async def some(self, start: int, cursor: str | None) -> Page[tuple[int, int]]:
        return await self.numbers.page(start=start, cursor=cursor, limit=1)

    @read
    async def all_lines(
        self, cursor: str | None = None, limit: int = 100, descending: bool = False
    ) -> Page[tuple[int, int]]:
        return await self.lines.page(cursor=cursor, limit=limit, descending=descending)


class Row(Actor):
    group: Annotated[int, indexed] = 0
    gone: Annotated[bool, indexed] = True  # as one that was never written

    async def put(self, gone: bool) -> None:
        self.group, self.gone = int(self.key) % 3, gone


numbers = st.sets(st.integers(-30, 30), max_size=25)
changes = st.lists(st.tuples(numbers, numbers), max_size=12)


async def _walk(
    walk: Walk, limit: int, descending: bool, change: Callable[[int], Awaitable[None]]
) -> list[Any]:
    """All rows of all pages; between two pages something changes."""
    seen: list[Any] = []
    cursor, number = None, 0
    while True:
        page = await walk(cursor, limit, descending)
        assert len(page) <= limit
        assert (page.next is None) or len(page) == limit
        seen += page
        if page.next is None:
            return seen
        cursor = page.next
        await change(number)
        number += 1
        assert number < 300, "it does not come to an end"


@pytest.mark.parametrize("listing", ["by_text", "by_number"])
def test_each_entry_of_a_map_that_stays_is_seen_once(listing: str) -> None:
    @settings(max_examples=40, deadline=None)
    @given(numbers, changes, st.integers(1, 7), st.booleans())
    def walking(first: set[int], changing: Any, limit: int, descending: bool) -> None:
        @async_test
        async def scenario() -> None:
            async with running(Shelf, store=MemoryStore()):
                shelf = Shelf.at("a")
                await shelf.change(sorted(first), [])
                stays, ever = set(first), set(first)

                async def change(number: int) -> None:
                    if number < len(changing):
                        put, drop = changing[number]
                        await shelf.change(sorted(put - drop), sorted(drop))
                        stays.difference_update(drop)
                        ever.update(put)

                walk = getattr(shelf, listing)
                seen = [value for _, value in await _walk(walk, limit, descending, change)]
                assert len(seen) == len(set(seen))
                assert stays <= set(seen) <= ever
                order = str if listing == "by_text" else int
                assert seen == sorted(seen, key=order, reverse=descending)

        scenario()

    walking()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 25),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=12),
    st.integers(1, 7),
    st.booleans(),
)
def test_each_line_of_a_log_that_stays_is_seen_once(
    first: int, changing: list[tuple[int, int]], limit: int, descending: bool
) -> None:
    @async_test
    async def scenario() -> None:
        async with running(Shelf, store=MemoryStore()):
            shelf = Shelf.at("a")
            await shelf.write(first, 0)
            dropped = 0

            async def change(number: int) -> None:
                nonlocal dropped
                if number < len(changing):
                    count, before = changing[number]
                    dropped = max(dropped, before)
                    await shelf.write(count, before)

            seen = [at for at, _ in await _walk(shelf.all_lines, limit, descending, change)]
            assert seen == sorted(set(seen), reverse=descending)
            assert set(range(dropped, first)) <= set(seen)

    scenario()


@settings(max_examples=30, deadline=None)
@given(
    st.sets(st.integers(0, 30), max_size=20),
    st.lists(st.tuples(st.sets(st.integers(0, 30), max_size=5), st.booleans()), max_size=8),
    st.integers(1, 5),
    st.booleans(),
)
def test_each_row_of_a_query_that_stays_is_seen_once(
    first: set[int], changing: list[tuple[set[int], bool]], limit: int, descending: bool
) -> None:
    @async_test
    async def scenario() -> None:
        async with running(Row, store=MemoryStore()):
            for number in first:
                await Row.at(str(number)).put(gone=False)
            stays = set(first)

            async def change(number: int) -> None:
                for one in changing[number][0] if number < len(changing) else ():
                    gone = changing[number][1]
                    await Row.at(str(one)).put(gone)
                    stays.difference_update({one} if gone else ())

            async def walk(cursor: str | None, limit: int, descending: bool) -> Page[int]:
                fields = ("-group", "-key") if descending else ("group", "key")
                selection = Row.where(gone=False).order_by(*fields).limit(limit)
                return (await selection.after(cursor)).map(lambda row: int(row.key))

            seen = await _walk(walk, limit, descending, change)
            assert len(seen) == len(set(seen))
            assert stays <= set(seen)
            order = sorted(seen, key=lambda one: (one % 3, str(one)), reverse=descending)
            assert seen == order

    scenario()


@async_test
async def test_a_cursor_is_good_for_its_own_listing_only() -> None:
    async with running(Shelf):
        for key in ("a", "b"):
            await Shelf.at(key).change([1, 2, 3], [])
            await Shelf.at(key).write(3, 0)
        shelf = Shelf.at("a")
        cursor = (await shelf.by_number(limit=1)).next
        assert cursor is not None
        assert (await shelf.by_number(cursor, 100)).items == [(2, 2), (3, 3)]  # with any limit
        for other in (
            shelf.by_text(cursor),
            shelf.by_number(cursor, descending=True),
            shelf.some(1, cursor),
            shelf.all_lines(cursor),
            Shelf.at("b").by_number(cursor),
        ):
            with pytest.raises(BadArgumentsError, match="belongs to another query") as refusal:
                await other
            assert refusal.value.field == "cursor"
        assert (await shelf.some(1, (await shelf.some(1, None)).next)).items == [(2, 2)]


@async_test
async def test_no_character_of_a_cursor_can_be_changed() -> None:
    async with running(Shelf):
        shelf = Shelf.at("a")
        await shelf.change([1, 2, 3], [])
        cursor = (await shelf.by_number(limit=1)).next
        assert cursor is not None
        for at, old in enumerate(cursor):
            for new in {"A", "b", "_", "="} - {old}:
                tampered = cursor[:at] + new + cursor[at + 1 :]
                with pytest.raises(BadArgumentsError) as refusal:
                    await shelf.by_number(tampered)
                assert refusal.value.field == "cursor"


def test_a_page_is_json_and_knows_its_items() -> None:
    page = Page([1, 2, 3], "c")
    assert (len(page), page[0], page[1:], 2 in page, 9 in page) == (3, 1, [2, 3], True, False)
    assert list(page.map(str)) == ["1", "2", "3"]
    assert page.map(str).next == "c"
    assert not Page([])
    asyncio.run(_by_value())


async def _by_value() -> None:
    """A caller gets a page of its own, with what its annotation says."""
    async with App(Shelf, store="memory:"):
        await Shelf.at("a").change([1], [])
        assert await Shelf.at("a").by_text() == Page([("1", 1)])
