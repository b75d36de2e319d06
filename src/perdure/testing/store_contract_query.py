"""The part of the store contract that is about queries.

What a query finds is compared with a few lines of Python over typed values, so that the reference
has nothing in common with how a store reads its JSON.
"""

import operator
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cmp_to_key
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.base.codec import encode
from perdure.store.api import ActorSchema, Condition, IndexedField, Ordering, Query, Store
from perdure.testing.store_contract_base import STRANGE_KEYS, StoreCase, batch, write

TEXT = IndexedField("text")
NUMBER = IndexedField("number")
FLAG = IndexedField("flag")
MOMENT = IndexedField("moment", "time")
PRICE = IndexedField("price", "decimal")
FIELDS = (TEXT, NUMBER, FLAG, MOMENT, PRICE)
SEARCHED = ActorSchema("cart", fields=[field.name for field in FIELDS], indexes=FIELDS)

_DAY = datetime(2026, 7, 1, tzinfo=UTC)
_VALUES: dict[str, list[Any]] = {
    "text": ["", "a", "A", "ä", "a\u0308", "10", "9", "😀", "\uffee", "'; --", "%"],
    "number": [0, -1, 1, 9, 10, 1.5, -0.5, 1e300, 2**53 + 1, 2**53, 2**63 - 1, -(2**63)],
    "flag": [False, True],
    "moment": [
        _DAY + timedelta(microseconds=offset)
        for offset in (0, 1, 10, 500_000, 999_999, 1_000_000, -1, 86_400_000_000)
    ],
    "price": [Decimal(one) for one in ("0", "-1.5", "9.5", "9.50", "10", "1E+2", "0.001", "99.99")],
}
_VALUES["price"] += [Decimal("1234567890123.01"), Decimal("1234567890123.02")]
_ABSENT = object()

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


class Row(NamedTuple):
    """An actor as the reference sees it."""

    key: str
    values: dict[str, Any]

    def value(self, field: IndexedField) -> Any:
        """Null and absent are one."""
        if field.name == "key":
            return self.key
        found = self.values.get(field.name)
        return None if found is _ABSENT else found

    @property
    def state(self) -> bytes:
        """Its JSON."""
        return encode({name: one for name, one in self.values.items() if one is not _ABSENT})


def _optional(name: str) -> st.SearchStrategy[Any]:
    return st.sampled_from([*_VALUES[name], None, _ABSENT])


ROWS = st.dictionaries(
    st.sampled_from(STRANGE_KEYS),
    st.fixed_dictionaries({name: _optional(name) for name in _VALUES}),
).map(lambda rows: [Row(key, values) for key, values in rows.items()])


@st.composite
def conditions(draw: st.DrawFn) -> tuple[IndexedField, str, Any]:
    """A field, an operator, and a typed value."""
    field = draw(st.sampled_from(FIELDS))
    name = draw(st.sampled_from([*_OPERATORS, "in"]))
    some = st.sampled_from(_VALUES[field.name])
    if name == "in":
        return field, name, draw(st.lists(some | st.none(), max_size=4))
    return field, name, draw(some | st.none() if name in {"eq", "ne"} else some)


ORDERINGS = st.lists(
    st.builds(Ordering, st.sampled_from(FIELDS), st.booleans()),
    max_size=3,
    unique_by=lambda one: one.field.name,
)


class QueryContract(StoreCase):
    """What every store answers to queries."""

    def test_a_query_finds_what_python_finds(self, tmp_path: Path) -> None:
        numbers = count()

        @settings(max_examples=self.examples, deadline=None)
        @given(ROWS, st.lists(st.lists(conditions(), max_size=3), min_size=1, max_size=8))
        def check(rows: list[Row], questions: list[list[tuple[IndexedField, str, Any]]]) -> None:
            async def body(store: Store) -> None:
                await _put(store, rows)
                for asked in questions:
                    found = await store.query(Query("cart", [_condition(*one) for one in asked]))
                    expected = [row.key for row in rows if all(_holds(row, *one) for one in asked)]
                    assert [row.key for row in found] == sorted(expected), asked

            self.run(tmp_path / str(next(numbers)), body, SEARCHED)

        check()

    def test_pages_go_through_all_in_the_order_of_python(self, tmp_path: Path) -> None:
        numbers = count()

        @settings(max_examples=self.examples, deadline=None)
        @given(ROWS, st.lists(ORDERINGS, min_size=1, max_size=5), st.integers(1, 4))
        def check(rows: list[Row], orders: list[list[Ordering]], limit: int) -> None:
            async def body(store: Store) -> None:
                await _put(store, rows)
                for orderings in orders:
                    query = Query("cart", (), orderings, limit)
                    assert await _all_pages(store, query) == _sorted(rows, orderings)

            self.run(tmp_path / str(next(numbers)), body, SEARCHED)

        check()

    def test_pages_of_a_search_have_only_what_fits(self, tmp_path: Path) -> None:
        rows = [Row(f"{n:02}", {"number": n % 4, "flag": n % 2 == 0}) for n in range(30)]

        async def body(store: Store) -> None:
            await _put(store, rows)
            asked = [Condition(FLAG, "eq", True)]
            for descending in (False, True):
                orderings = [Ordering(NUMBER, descending)]
                found = await _all_pages(store, Query("cart", asked, orderings, 4))
                assert found == _sorted([row for row in rows if row.values["flag"]], orderings)

        self.run(tmp_path, body, SEARCHED)

    def test_the_key_can_be_sorted_by(self, tmp_path: Path) -> None:
        rows = [Row(key, {"number": n % 2}) for n, key in enumerate(STRANGE_KEYS)]
        key = IndexedField("key")

        async def body(store: Store) -> None:
            await _put(store, rows)
            for orderings in (
                [],
                [Ordering(key)],
                [Ordering(key, descending=True)],
                [Ordering(NUMBER, descending=True), Ordering(key)],
                [Ordering(NUMBER), Ordering(key, descending=True)],
            ):
                query = Query("cart", (), orderings, 3)
                assert await _all_pages(store, query) == _sorted(rows, orderings)

        self.run(tmp_path, body, SEARCHED)

    def test_going_on_behind_a_row_that_is_gone(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await _put(store, [Row(str(n), {"number": n // 2}) for n in range(6)])
            await store.commit(batch(write("2", 2, None)))
            for descending, expected in ((False, ["3", "4", "5"]), (True, ["1", "0"])):
                query = Query("cart", (), [Ordering(NUMBER, descending)], after=([1], "2"))
                assert [row.key for row in await store.query(query)] == expected
            query = Query("cart", (), [Ordering(TEXT)], after=([None], "3"))
            assert [row.key for row in await store.query(query)] == ["4", "5"]

        self.run(tmp_path, body, SEARCHED)

    def test_numbers_come_before_texts(self, tmp_path: Path) -> None:
        """A field may have held something else in an older version of its class."""
        states: list[Any] = ["", "1", 2, 10, True, None, "a", -1.5]

        async def body(store: Store) -> None:
            await _put(store, [Row(str(n), {"text": one}) for n, one in enumerate(states)])
            found = await store.query(Query("cart", (), [Ordering(TEXT)]))
            assert [states[int(row.key)] for row in found] == [
                None, -1.5, True, 2, 10, "", "1", "a",
            ]  # fmt: skip
            found = await store.query(Query("cart", [Condition(TEXT, "eq", "1")]))
            assert [row.key for row in found] == ["1"]

        self.run(tmp_path, body, SEARCHED)

    def test_a_query_sees_the_newest_states_of_its_own_class(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await _put(store, [Row("a", {"number": 1}), Row("b", {"number": 1})])
            await store.commit(batch(write("a", 1, b'{"number":1}', "order"), at_ms=3))
            await store.commit(batch(write("a", 2, b'{"number":2}'), write("b", 2, None), at_ms=4))
            asked = Query("cart", [Condition(NUMBER, "ge", 1)])
            (row,) = await store.query(asked)
            assert (row.key, row.state, row.version) == ("a", b'{"number":2}', 2)
            assert (row.created_at_ms, row.updated_at_ms, list(row.timers)) == (1, 4, [])
            assert await store.query(msgspec.structs.replace(asked, limit=1)) == [row]
            found = await store.query(msgspec.structs.replace(asked, actor_type="order"))
            assert [one.key for one in found] == ["a"]

        self.run(tmp_path, body, SEARCHED, msgspec.structs.replace(SEARCHED, name="order"))

    def test_states_without_the_fields_are_found_as_null(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            writes = [write(str(n), 1, one) for n, one in enumerate([b"[]", b'"x"', b"1", b"{}"])]
            await store.commit(batch(*writes))
            for field in FIELDS:
                found = await store.query(Query("cart", [Condition(field, "eq", None)]))
                assert len(found) == len(writes)
                assert await store.query(Query("cart", [Condition(field, "ne", None)])) == []

        self.run(tmp_path, body, SEARCHED)

    def test_a_field_can_be_indexed_when_rows_are_there(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await _put(store, [Row("a", {"number": 1}), Row("b", {"number": 2})])
            await store.close()
            await store.open([SEARCHED])
            found = await store.query(Query("cart", [Condition(NUMBER, "gt", 1)]))
            assert [row.key for row in found] == ["b"]

        self.run(tmp_path, body, ActorSchema("cart"))


async def _put(store: Store, rows: Sequence[Row]) -> None:
    await store.commit(batch(*[write(row.key, 1, row.state) for row in rows]))


async def _all_pages(store: Store, query: Query) -> list[str]:
    """The keys of all pages; the places between them are read from the states, as users do."""
    seen = list[str]()
    while page := await store.query(query):
        assert len(page) <= query.limit
        seen += [row.key for row in page]
        assert len(set(seen)) == len(seen)
        last = page[-1]
        state = msgspec.json.decode(last.state)
        place = [
            last.key if one.field.name == "key" else state.get(one.field.name)
            for one in query.orderings
        ]
        query = msgspec.structs.replace(query, after=(place, last.key))
    return seen


def _condition(field: IndexedField, name: Any, value: Any) -> Condition:
    return Condition(field, name, msgspec.json.decode(encode(value)))


def _holds(row: Row, field: IndexedField, name: str, value: Any) -> bool:
    found = row.value(field)
    if name == "in":
        return found is not None and found in value
    if value is None:
        return (found is None) == (name == "eq")
    return found is not None and _OPERATORS[name](found, value)


def _sorted(rows: Sequence[Row], orderings: Sequence[Ordering]) -> list[str]:
    directions = [*orderings, Ordering(IndexedField("key"), _last_direction(orderings))]

    def compare(left: Row, right: Row) -> int:
        for one in directions:
            x, y = left.value(one.field), right.value(one.field)
            if x == y:
                continue
            is_less = x is None or (y is not None and x < y)
            return -1 if is_less != one.descending else 1
        return 0

    return [row.key for row in sorted(rows, key=cmp_to_key(compare))]


def _last_direction(orderings: Sequence[Ordering]) -> bool:
    return orderings[-1].descending if orderings else False
