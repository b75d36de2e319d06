"""Finding actors by their fields, over each store: conditions, orders, pages, cursors."""

import asyncio
import base64
import enum
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure import (
    Actor,
    BadArgumentsError,
    DeadlineError,
    Limits,
    NotRunningError,
    Page,
    StoppingError,
    StoreError,
    StoreFormatError,
    indexed,
    migrate,
    unique,
)
from perdure.actor.cursors import decode_cursor, encode_cursor
from perdure.actor.methods import actor_type_of
from perdure.store.api import ActorSchema, ActorWrite, Batch, Query, Store, StoredActor
from perdure.store.memory import MemoryStore
from perdure.store.sqlite import SqliteStore
from perdure.testing import async_test, running
from perdure.testing.scripted_store import ScriptedStore

DAY = datetime(2026, 7, 1, tzinfo=UTC)


class Status(enum.Enum):
    OPEN = "open"
    PAID = "paid"


class Order(Actor, rename={"note": "Note"}):
    email: Annotated[str | None, unique] = None
    status: Annotated[Status, indexed] = Status.OPEN
    placed_at: Annotated[datetime | None, indexed] = None
    total: Annotated[Decimal, indexed] = Decimal(0)
    items: Annotated[int, indexed] = 0
    note: Annotated[str | None, indexed] = None
    remark: str = ""
    lines: dict[str, int] = {}

    async def put(
        self,
        status: Status = Status.OPEN,
        day: float | None = None,
        total: Decimal = Decimal(0),
        items: int = 0,
        note: str | None = None,
        email: str | None = None,
    ) -> None:
        self.status, self.total, self.items = status, total, items
        self.note, self.email = note, email
        self.placed_at = None if day is None else DAY + timedelta(days=day)

    async def put_and_count(self, note: str) -> int:
        self.note = note
        return len(await Order.where(note=note))

    async def key_of_found(self) -> str:
        (row,) = await Order.where(items=1)
        return row.state.key

    async def call_found(self) -> str:
        (row,) = await Order.where(items=1)
        await row.reference.put(note=f"from {self.key}")
        return row.key


MakeStore = Callable[[Path], Store]
each_store = pytest.mark.parametrize(
    "make_store", [lambda _folder: MemoryStore(), SqliteStore], ids=["memory", "sqlite"]
)


async def _fill() -> None:
    await Order.at("a").put(Status.OPEN, 2, Decimal("9.50"), 1, "x", "a@b.c")
    await Order.at("b").put(Status.PAID, 1.5, Decimal("10"), 2, None, "b@b.c")
    await Order.at("c").put(Status.OPEN, 1, Decimal("100"), 3, "z")
    await Order.at("d").put(Status.PAID, None, Decimal("-1.5"), 3, None)


def _keys(page: Page[Order]) -> str:
    return "".join(row.key for row in page)


@each_store
@async_test
async def test_conditions_find_what_fits(make_store: MakeStore, tmp_path: Path) -> None:
    async with running(Order, store=make_store(tmp_path)):
        await _fill()
        expected: list[tuple[dict[str, Any], str]] = [
            ({}, "abcd"),
            ({"status": "open"}, "ac"),
            ({"status": Status.PAID}, "bd"),
            ({"status__ne": Status.PAID}, "ac"),
            ({"status__in": ["paid", Status.OPEN]}, "abcd"),
            ({"status__in": {Status.PAID}}, "bd"),
            ({"status__in": []}, ""),
            ({"items__gt": 1}, "bcd"),
            ({"items__ge": 2, "items__lt": 3}, "b"),
            ({"items__le": 2}, "ab"),
            ({"items__in": (1, 3)}, "acd"),
            ({"note": None}, "bd"),
            ({"note__ne": None}, "ac"),
            ({"note__ne": "x"}, "c"),  # no value is no other value
            ({"note__gt": "x"}, "c"),
            ({"email": "b@b.c"}, "b"),
            ({"placed_at__lt": DAY + timedelta(days=2)}, "bc"),
            ({"placed_at": DAY + timedelta(days=1.5)}, "b"),
            ({"total__ge": Decimal("10.0")}, "bc"),  # by number, not by text
            ({"total__lt": 0}, "d"),
            ({"total": "9.5"}, "a"),
            ({"status": "open", "items": 3}, "c"),
        ]
        for conditions, keys in expected:
            assert _keys(await Order.where(**conditions)) == keys, conditions


@each_store
@async_test
async def test_rows_come_in_the_order_asked_for(make_store: MakeStore, tmp_path: Path) -> None:
    async with running(Order, store=make_store(tmp_path)):
        await _fill()
        expected = {
            (): "abcd",
            ("key",): "abcd",
            ("-key",): "dcba",
            ("items",): "abcd",
            ("-items",): "dcba",  # keys follow the direction
            ("-items", "key"): "cdba",
            ("placed_at",): "dcba",
            ("-placed_at",): "abcd",
            ("total",): "dabc",
            ("status", "-total"): "cabd",
            ("note", "-key"): "dbac",
        }
        for fields, keys in expected.items():
            assert _keys(await Order.where().order_by(*fields)) == keys, fields
            found, cursor = "", None
            while True:  # the same, row by row
                page = await Order.where().order_by(*fields).limit(1).after(cursor)
                found += _keys(page)
                cursor = page.next
                if cursor is None:
                    break
            assert found == keys, fields


@each_store
@async_test
async def test_a_row_tells_what_was_committed(make_store: MakeStore, tmp_path: Path) -> None:
    async with running(Order, store=make_store(tmp_path)):
        before = datetime.now(UTC) - timedelta(milliseconds=1)
        await _fill()
        await Order.at("a").put(Status.PAID, 2, Decimal("9.50"), 1, "x", "a@b.c")
        (row,) = await Order.where(email="a@b.c")
        assert (row.key, row.version, type(row.state)) == ("a", 2, Order)
        assert row.state.status is Status.PAID
        assert before <= row.created_at <= row.updated_at <= datetime.now(UTC)
        assert row.created_at.utcoffset() == timedelta(0)
        assert repr(row.reference) == "Order.at('a')"


@async_test
async def test_a_page_is_a_sequence() -> None:
    async with running(Order):
        await _fill()
        page = await Order.where().limit(3)
        assert len(page) == 3
        assert [row.key for row in page] == ["a", "b", "c"]
        assert (page[0].key, page[-1].key) == ("a", "c")
        assert [row.key for row in page[1:]] == ["b", "c"]
        assert page[0] in page
        assert page.next is not None
        assert repr(page).startswith("Page(items=[Row(key='a'")
        assert page.map(lambda row: row.key) == Page(["a", "b", "c"], page.next)
        assert (await Order.where().limit(4)).next is None


@async_test
async def test_iterating_goes_through_all_pages() -> None:
    async with running(Order):
        await _fill()
        for rows_max in (1, 2, 3, 4, 100):
            selection = Order.where(items__ge=0).order_by("-total").limit(rows_max)
            assert [row.key async for row in selection] == ["c", "b", "a", "d"]
        assert [row.key async for row in Order.where(items=77)] == []


@async_test
async def test_a_selection_never_changes() -> None:
    async with running(Order):
        await _fill()
        all_of_them = Order.where()
        assert _keys(await all_of_them.order_by("-key").limit(1)) == "d"
        assert _keys(await all_of_them) == "abcd"
        assert _keys(await all_of_them.order_by("-key").order_by()) == "abcd"


# -- pages ---------------------------------------------------------------------------------------

_orders = st.lists(
    st.tuples(
        st.sampled_from(Status),
        st.none() | st.sampled_from([0, 0.5, 0.000001, 1]),
        st.decimals(-2, 12, places=1),
        st.integers(-2, 2),
        st.none() | st.text("aé\U0001f600", max_size=2),
    ),
    max_size=12,
)
_sort_fields = st.lists(
    st.sampled_from(["status", "placed_at", "total", "items", "note"]), unique=True, max_size=3
).flatmap(lambda names: st.tuples(*(st.sampled_from([name, f"-{name}"]) for name in names)))


@settings(max_examples=60, deadline=None)
@given(_orders, _sort_fields, st.sampled_from(["", "key", "-key"]), st.integers(1, 5))
def test_pages_together_are_the_whole_listing(
    orders: list[tuple[Any, ...]], fields: tuple[str, ...], last: str, rows_max: int
) -> None:
    async def compare() -> None:
        async with running(Order):
            for number, order in enumerate(orders):
                await Order.at(f"k{number:02}").put(*order)
            selection = Order.where(items__ge=-1).order_by(*fields, *filter(None, [last]))
            whole = [row.key for row in await selection]
            assert sorted(whole) == [
                f"k{number:02}" for number, order in enumerate(orders) if order[3] >= -1
            ]
            assert [row.key async for row in selection.limit(rows_max)] == whole

    asyncio.run(compare())


@async_test
async def test_a_listing_by_key_meets_none_twice_while_actors_come_and_change() -> None:
    async with running(Order):
        await _fill()
        seen = []
        async for row in Order.where().limit(2):
            seen.append(row.key)
            await Order.at("a").put(note=row.key)
            await Order.at("aa").put(items=1)  # too late: the first page was read before
            await Order.at("e").put(items=1)
        assert seen == ["a", "b", "c", "d", "e"]


async def _cursor(*fields: str, **conditions: Any) -> str:
    page = await Order.where(**conditions).order_by(*fields).limit(1)
    assert page.next is not None
    return page.next


@async_test
async def test_a_cursor_is_bound_to_its_conditions_and_order() -> None:
    async with running(Order):
        await _fill()
        cursor = await _cursor("items", status="open")
        page = await Order.where(status="open").order_by("items").limit(50).after(cursor)
        assert _keys(page) == "c"
        for other in (
            Order.where(status="paid").order_by("items"),
            Order.where(status__ne="open").order_by("items"),
            Order.where().order_by("items"),
            Order.where(status="open").order_by("-items"),
            Order.where(status="open"),
        ):
            with pytest.raises(BadArgumentsError, match="belongs to another query"):
                await other.after(cursor)


@async_test
async def test_a_cursor_is_safe_in_a_url_and_holds_no_more_than_the_position() -> None:
    async with running(Order):
        await Order.at("ÿ?&=/ü").put(items=3, email="secret@b.c", note="secret")
        await Order.at("\U0001f600").put(items=4)
        cursor = await _cursor("items", "placed_at", items__ge=3)
        assert cursor.replace("-", "").replace("_", "").isalnum()
        assert cursor.isascii()
        assert decode_cursor(_raw(cursor)[:8], cursor) == ([3, None], "ÿ?&=/ü")
        assert _raw(cursor)[12:] == '[[3,null],"ÿ?&=/ü"]'.encode()


def _raw(cursor: str) -> bytes:
    return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))


@async_test
async def test_garbled_cursors_are_refused() -> None:
    async with running(Order):
        await _fill()
        selection = Order.where().order_by("items", "placed_at", "key")
        cursor = await _cursor("items", "placed_at", "key")
        fingerprint = _raw(cursor)[:8]
        forged = [
            encode_cursor(fingerprint, position)
            for position in (
                ([1, None], "a"),  # too few
                ([1, None, "a", "a"], "a"),
                ([1, None, "b"], "a"),  # two keys
                (["1", None, "a"], "a"),  # no int
                ([1, "yesterday", "a"], "a"),
                ([{}, None, "a"], "a"),
                ([2**63, None, "a"], "a"),
            )
        ]
        for bad in ("", "!", "a", cursor[:-1], cursor + "A", cursor + "=", cursor[:12], *forged):
            with pytest.raises(BadArgumentsError) as refusal:
                await selection.after(bad)
            assert refusal.value.field == "cursor"
        for key in ("", "..", "a\n", "e\u0301"):
            with pytest.raises(BadArgumentsError, match="garbled"):
                await selection.after(encode_cursor(fingerprint, ([1, None, key], key)))
        with pytest.raises(BadArgumentsError, match="a cursor is a text"):
            selection.after(3)  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: encode_cursor(raw, ((), ""))))
def test_no_text_makes_a_cursor_fail_in_another_way(text: str) -> None:
    with pytest.raises(BadArgumentsError):
        decode_cursor(b"12345678", text)


# -- what a query may say ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"colour": 1}, "Order has no field 'colour'"),
        ({"colour__lt": 1}, "Order has no field 'colour'"),
        ({"key": "a"}, r"a key is no field; Order\.at\(key\) has it"),
        ({"Note": "a"}, "Order has no field 'Note'"),
        ({"remark": "a"}, r"declare it as `remark: Annotated\[str, indexed\] = …`"),
        ({"lines": {}}, r"declare it as `lines: Annotated\[dict\[str, int\], indexed\] = …`"),
        ({"note__like": "a"}, "there is no __like, but __eq, __ne, __lt"),
        ({"note__": "a"}, "there is no __, but"),
        ({"note": 1}, "note: Expected `str`, got `int`"),
        ({"status": "lost"}, "status: Invalid enum value 'lost'"),
        ({"note__in": "abc"}, "note__in takes a list of values, not 'abc'"),
        ({"items__in": 3}, "items__in takes a list"),
        ({"note__in": ["a", None]}, "None is no value; ask note=None"),
        ({"note__lt": None}, "None has no place in the order"),
        ({"placed_at__gt": datetime(2026, 7, 1)}, "must be in UTC"),
    ],
)
def test_mistakes_in_conditions_are_told_where_they_are_made(
    conditions: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadArgumentsError, match=message) as caught:
        Order.where(**conditions)
    assert caught.value.field is not None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["colour"], "Order has no field 'colour'"),
        (["--items"], "Order has no field '-items'"),
        ([""], "Order has no field ''"),
        (["-remark"], "is not indexed"),
        (["items", "-items"], "items is to be sorted by twice"),
        (["key", "items"], "nothing can be sorted by after `key`"),
    ],
)
def test_mistakes_in_orders_are_told_where_they_are_made(fields: list[str], message: str) -> None:
    with pytest.raises(BadArgumentsError, match=message):
        Order.where().order_by(*fields)


@pytest.mark.parametrize("rows_max", [0, -1, True, "5", 2.0])
def test_a_page_has_at_least_one_row(rows_max: Any) -> None:
    with pytest.raises(BadArgumentsError, match="a page cannot have"):
        Order.where().limit(rows_max)


def test_a_field_with_two_underscores_is_a_field_first() -> None:
    class Odd(Actor):
        a__lt: Annotated[int, indexed] = 0

    Odd.where(a__lt=1)
    Odd.where(a__lt__ge=1)
    with pytest.raises(BadArgumentsError, match="Odd has no field 'a'"):
        Odd.where(a__ge=1)


@async_test
async def test_pages_and_lists_are_bounded() -> None:
    async with running(Order, limits=Limits(query_rows_max=3)):
        await _fill()
        assert len(await Order.where()) == 3  # the default bows to the bound
        assert len(await Order.where().limit(3)) == 3
        with pytest.raises(BadArgumentsError, match="at most 3") as caught:
            await Order.where().limit(4)
        assert caught.value.field == "limit"
        assert len(await Order.where(items__in=[1, 2, 3])) == 3
        with pytest.raises(BadArgumentsError, match="items__in has 4 values; at most 3"):
            await Order.where(items__in=[1, 2, 3, 4])


# -- find ----------------------------------------------------------------------------------------


@each_store
@async_test
async def test_find_gives_the_one_row_or_none(make_store: MakeStore, tmp_path: Path) -> None:
    async with running(Order, store=make_store(tmp_path)):
        await _fill()
        row = await Order.find(email="b@b.c")
        assert row is not None
        assert (row.key, row.state.items) == ("b", 2)
        assert await Order.find(email="B@b.c") is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "takes one unique field"),
        ({"email": "a", "items": 1}, "takes one unique field"),
        ({"items": 1}, r"declare it as `items: Annotated\[int, unique\] = …`"),
        ({"remark": "a"}, r"`remark: Annotated\[str, indexed\] = …`"),
        ({"colour": 1}, "has no field 'colour'"),
        ({"email": None}, "any number of actors may have no email"),
        ({"email": 3}, "email: Expected `str`"),
        ({"email__ne": "a"}, "compares for equality only"),
        ({"email__in": ["a"]}, "compares for equality only"),
    ],
)
@async_test
async def test_find_is_for_one_unique_field(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadArgumentsError, match=message):
        await Order.find(**values)


# -- committed state, turns, and the life of the App ---------------------------------------------


@async_test
async def test_rows_are_committed_state_and_nothing_is_waited_for() -> None:
    store = ScriptedStore()
    async with running(Order, store=store):
        await Order.at("a").put(note="old")
        store.hold()
        writing = asyncio.ensure_future(Order.at("a").put(note="new"))
        await store.next_commit()
        assert [row.state.note for row in await Order.where()] == ["old"]
        assert len(await Order.where(note="new")) == 0
        store.open_up()
        await writing
        assert [row.state.note for row in await Order.where()] == ["new"]


@async_test
async def test_a_turn_does_not_see_its_own_change() -> None:
    async with running(Order):
        assert await Order.at("a").put_and_count("mine") == 0
        assert await Order.at("b").put_and_count("mine") == 1


@async_test
async def test_a_query_wakes_nobody() -> None:
    store = MemoryStore()
    async with running(Order, store=store):
        await _fill()
    async with running(Order, store=store) as app:
        assert len(await Order.where()) == 4
        assert app.statistics()["awake"] == 0


@async_test
async def test_a_found_state_belongs_to_no_turn() -> None:
    async with running(Order):
        await Order.at("a").put(items=1)
        with pytest.raises(NotRunningError):
            await Order.at("b").key_of_found()  # and not "b"
        (row,) = await Order.where(items=1)
        row.state.items = 77
        assert len(await Order.where(items=77)) == 0


@async_test
async def test_a_found_actor_is_called_through_its_reference() -> None:
    async with running(Order):
        await Order.at("a").put(items=1)
        assert await Order.at("b").call_found() == "a"
        assert [row.key for row in await Order.where(note="from b")] == ["a"]


@async_test
async def test_without_an_app_nothing_can_be_asked() -> None:
    with pytest.raises(NotRunningError, match="no App with Order runs"):
        await Order.where()
    with pytest.raises(NotRunningError):
        await Order.find(email="a@b.c")
    with pytest.raises(NotRunningError):
        async for _ in Order.where():
            pass


@async_test
async def test_a_stopping_process_takes_no_more_queries() -> None:
    async with running(Order) as app:
        assert app._node is not None
        app._node._running = False
        with pytest.raises(StoppingError):
            await Order.where()


class SlowStore(MemoryStore):
    """Answers queries never, or with an error."""

    error: Exception | None = None

    async def query(self, query: Query) -> list[StoredActor]:
        if self.error is not None:
            raise self.error
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


@async_test
async def test_a_query_has_a_deadline() -> None:
    async with running(Order, store=SlowStore(), limits=Limits(call_timeout_s=0.01)):
        with pytest.raises(DeadlineError, match=r"the query took longer than 0\.01 s"):
            await Order.where()


@pytest.mark.parametrize("error", [StoreError("the disk is gone"), TimeoutError("its own")])
@async_test
async def test_what_the_store_raises_comes_through(error: Exception) -> None:
    store = SlowStore()
    store.error = error
    async with running(Order, store=store):
        with pytest.raises(type(error), match=str(error)):
            await Order.where()


@async_test
async def test_a_row_that_cannot_be_decoded_is_named() -> None:
    store = MemoryStore()
    await store.open([actor_type_of(Order).schema])
    write = ActorWrite("order", "spoilt", b'{"email":"a@b.c","remark":3}', 1)
    await store.commit(Batch([write], [], 0))
    async with running(Order, store=store):
        with pytest.raises(StoreFormatError, match=r"Order\('spoilt'\).* does not fit the class"):
            await Order.where()
        with pytest.raises(StoreFormatError, match=r"Order\('spoilt'\).* does not fit the class"):
            await Order.find(email="a@b.c")


@async_test
async def test_rows_of_older_versions_are_migrated_for_the_reader() -> None:
    class Parcel(Actor):
        number: Annotated[int, indexed] = 0
        name: str = ""

        @migrate(to=2)
        def rename(state: dict[str, Any]) -> dict[str, Any]:
            state["name"] = state.pop("label")
            return state

    store = MemoryStore()
    await store.open([ActorSchema("parcel", indexes=actor_type_of(Parcel).schema.indexes)])
    await store.commit(Batch([ActorWrite("parcel", "a", b'{"number":7,"label":"x"}', 1)], [], 0))
    async with running(Parcel, store=store):
        (row,) = await Parcel.where(number=7)
        assert row.state.name == "x"


@async_test
async def test_fields_that_rows_of_old_do_not_have_are_null_in_the_order() -> None:
    """And the cursor says so: by the default, 0, it would go on behind the wrong row."""
    store = MemoryStore()
    await store.open([actor_type_of(Order).schema])
    states = {"a": b"{}", "b": b'{"items":-5}', "c": b'{"items":0}', "d": b"{}"}
    writes = [ActorWrite("order", key, state, 1) for key, state in states.items()]
    await store.commit(Batch(writes, [], 0))
    async with running(Order, store=store):
        rows = [row async for row in Order.where().order_by("items").limit(1)]
        assert [row.key for row in rows] == ["a", "d", "b", "c"]
        assert [row.state.items for row in rows] == [0, 0, -5, 0]
