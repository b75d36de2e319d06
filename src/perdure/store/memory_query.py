"""Queries over states in memory: the fields of their JSON, compared as a database would.

A value becomes a *rank*, which compares in Python as it does in the index of a database: nulls
first, then numbers (booleans are 0 and 1), then texts by code point. What does not fit the kind of
its field, such as a list, or a text that is no number in a `decimal`, counts as null.
"""

import heapq
import operator
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import Any

import msgspec

from perdure.base.codec import decoder
from perdure.store.api import Condition, IndexedField, Query, StoredActor

Rank = tuple[int, Any]

NULL: Rank = (0, 0)
_NUMBER, _TEXT = 1, 2

_decode_fields = decoder(dict[str, msgspec.Raw]).decode
_decode_value = decoder(Any).decode


def rank(field: IndexedField, value: Any) -> Rank:
    """Where a value, as in JSON, stands among all values of the field."""
    if field.kind == "plain" and isinstance(value, int | float):
        return (_NUMBER, value)
    if not isinstance(value, str):
        return NULL
    if field.kind == "time":
        return (_TEXT, _moment(value))
    if field.kind == "decimal":
        return _number_in(value)
    return (_TEXT, value)


def ranks(fields: Sequence[IndexedField], key: str, state: bytes) -> list[Rank]:
    """The ranks of an actor's fields; the one named `key` is its key."""
    try:
        found = _decode_fields(state)
    except msgspec.MsgspecError:  # not an object
        found = {}
    return [
        rank(field, key)
        if field.name == "key"
        else rank(field, _decode_value(found.get(field.name, b"null")))
        for field in fields
    ]


def select(rows: Iterable[StoredActor], query: Query) -> list[StoredActor]:
    """What `Store.query` promises, of one actor type's rows."""
    tests = [_test(condition) for condition in query.conditions]
    fields = [condition.field for condition in query.conditions]
    fields += [ordering.field for ordering in query.orderings]
    after = _place_after(query)
    placed: list[tuple[tuple[Any, ...], StoredActor]] = []
    for row in rows:
        found = ranks(fields, row.key, row.state)
        # `found` goes on with the fields to sort by
        if not all(test(value) for test, value in zip(tests, found, strict=False)):
            continue
        place = _place(query, found[len(tests) :], row.key)
        if after is None or place > after:
            placed.append((place, row))
    placed.sort(key=operator.itemgetter(0))
    return [row for _, row in placed[: query.limit]]


def merged(query: Query, parts: Sequence[Sequence[StoredActor]]) -> list[StoredActor]:
    """What several databases have found, each in order, as if one had."""
    if len(parts) == 1:
        return list(parts[0])
    fields = [ordering.field for ordering in query.orderings]

    def place(row: StoredActor) -> tuple[Any, ...]:
        return _place(query, ranks(fields, row.key, row.state), row.key)

    return list(islice(heapq.merge(*parts, key=place), query.limit))


# -- conditions ----------------------------------------------------------------------------------

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


def _test(condition: Condition) -> Callable[[Rank], bool]:
    """As in SQL a comparison with null is not true, but for `eq` and `ne` that ask for null."""
    field, name, value = condition.field, condition.operator, condition.value
    if name == "in":
        wanted = {rank(field, one) for one in value} - {NULL}
        return wanted.__contains__
    compare = _COMPARISONS[name]
    if value is None and name in {"eq", "ne"}:
        return lambda found: compare(found, NULL)
    bound = rank(field, value)
    return lambda found: NULL not in (found, bound) and compare(found, bound)


# -- orderings -----------------------------------------------------------------------------------


class _Descending:
    """Sorts the other way round."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Descending) and self.value == other.value

    def __lt__(self, other: "_Descending") -> bool:
        return bool(other.value < self.value)

    __hash__ = None  # type: ignore[assignment]


def _place(query: Query, found: Sequence[Rank], key: str) -> tuple[Any, ...]:
    """Where a row stands in the order asked for."""
    directions = [ordering.descending for ordering in query.orderings]
    directions.append(directions[-1] if directions else False)
    return tuple(
        _Descending(value) if descending else value
        for value, descending in zip([*found, key], directions, strict=True)
    )


def _place_after(query: Query) -> tuple[Any, ...] | None:
    if query.after is None:
        return None
    values, key = query.after
    orderings = zip(query.orderings, values, strict=True)
    return _place(query, [rank(ordering.field, value) for ordering, value in orderings], key)


# -- kinds ---------------------------------------------------------------------------------------


def _moment(text: str) -> str:
    """RFC 3339 in UTC without its zone, and without zeros at the end of the fraction: then the
    order of the texts is that of the moments."""
    text = text.removesuffix("Z").removesuffix("+00:00")
    return text.rstrip("0").removesuffix(".") if "." in text else text


def _number_in(text: str) -> Rank:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return NULL
    return (_NUMBER, number) if number.is_finite() else NULL
