"""Finding actors by their fields: what `Order.where(…)` and `Order.find(…)` give.

    page = await Order.where(status="open").order_by("-placed_at").limit(50)

A `Selection` is built up without I/O and asked by awaiting it. What it finds is what is committed:
it reads the store and runs no turn, so it neither waits for actors nor wakes them. A query that saw
turns under way was rejected: it would have to ask every actor of the class.

Mistakes in a query's names are raised where they are made, in `where` and `order_by`; what depends
on the running App (limits, cursors, the store) when it is asked.
"""

from collections.abc import AsyncIterator, Generator, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar, get_args

import msgspec

from perdure.actor.cursors import Position, decode_cursor, encode_cursor, fingerprint_of, garbled
from perdure.actor.indexes import Index, declaration
from perdure.actor.methods import ActorType, actor_type_of
from perdure.actor.model import Actor
from perdure.actor.pages import Page
from perdure.base.codec import decoder
from perdure.base.errors import BadArgumentsError, InvalidKeyError
from perdure.base.keys import normalize_key
from perdure.store.api import Condition, IndexedField, Operator, Ordering, Query, StoredActor

AnyActor = TypeVar("AnyActor", bound=Actor)

_ROWS_DEFAULT = 100
_OPERATORS: tuple[Operator, ...] = get_args(Operator)
_KEY = IndexedField("key")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_decode_fields = decoder(dict[str, msgspec.Raw]).decode
_decode_value = decoder(Any).decode


class Row(msgspec.Struct, Generic[AnyActor], frozen=True):
    """One actor as it was committed when the query ran.

    `state` is an instance of the class, for looking at its fields. It is a copy that belongs to no
    turn: what is done to it goes nowhere. To call the actor's methods use `reference`.
    """

    key: str
    state: AnyActor
    version: int  # how many commits made it
    created_at: datetime  # in UTC, as is the next
    updated_at: datetime

    @property
    def reference(self) -> AnyActor:
        """The actor itself, as `Order.at(key)` gives it."""
        return type(self.state).at(self.key)


class Selection(msgspec.Struct, Generic[AnyActor], frozen=True, eq=False):
    """Which actors of one class are wanted, and in which order. Await it for one page.

    `async for row in selection` goes through all pages. Each page is read by itself: an actor
    that is changed meanwhile so that it moves in the order may be met twice or not at all; in
    the order of keys none is met twice.

    It never changes: each method returns another one.

    *Consistency:* rows are committed state. A turn under way does not show in them, not even the
    changes of the very turn that asks. Nothing holds a row still: what must not be based on the
    past belongs into a method of the actor, called through `row.reference`.
    """

    _actor_type: ActorType
    _conditions: tuple[Condition, ...]
    _orderings: tuple[Ordering, ...] = ()
    _rows_max: int | None = None
    _cursor: str | None = None

    def order_by(self, *fields: str) -> "Selection[AnyActor]":
        """Sort by these indexed fields, by a `-placed_at` from high to low.

        Actors without a value come first, or last where the order is from high to low. Those that
        are equal in all fields are sorted by key, in the direction of the last field; `key` may be
        named, in the last place. Raises BadArgumentsError.
        """
        return msgspec.structs.replace(self, _orderings=_orderings(self._actor_type, fields))

    def limit(self, rows_max: int) -> "Selection[AnyActor]":
        """At most so many rows in a page; `Limits.query_rows_max` is the most that can be had.

        Without it there are up to 100. Raises BadArgumentsError.
        """
        if type(rows_max) is not int or rows_max < 1:
            raise BadArgumentsError(f"a page cannot have {rows_max!r} rows; at least 1", "limit")
        return msgspec.structs.replace(self, _rows_max=rows_max)

    def after(self, cursor: str | None) -> "Selection[AnyActor]":
        """Go on behind the page that had this cursor; None begins at the beginning.

        A cursor is good for the same conditions and order only, with any limit; else asking raises
        BadArgumentsError.
        """
        if cursor is not None and not isinstance(cursor, str):
            raise BadArgumentsError(f"a cursor is a text, not {cursor!r}", "cursor")
        return msgspec.structs.replace(self, _cursor=cursor)

    def __await__(self) -> Generator[Any, None, Page[Row[AnyActor]]]:
        return self._ask().__await__()

    async def __aiter__(self) -> AsyncIterator[Row[AnyActor]]:
        page = await self
        while True:
            for row in page:
                yield row
            if page.next is None:
                return
            page = await self.after(page.next)

    async def _ask(self) -> Page[Row[AnyActor]]:
        actor_type = self._actor_type
        router = actor_type.router
        rows_max = self._page_size(router.limits.query_rows_max)
        fingerprint = fingerprint_of(actor_type.name, self._conditions, self._orderings)
        query = Query(
            actor_type.name,
            self._conditions,
            self._orderings,
            limit=rows_max + 1,  # one more tells whether there is a next page
            after=None if self._cursor is None else self._position(fingerprint, self._cursor),
        )
        found = await router.query(query)
        rows = [row_of(actor_type, stored) for stored in found[:rows_max]]
        cursor = None
        if len(found) > rows_max:
            cursor = encode_cursor(fingerprint, _position_of(found[rows_max - 1], self._orderings))
        return Page(rows, cursor)

    def _page_size(self, most: int) -> int:
        for condition in self._conditions:
            if condition.operator == "in" and len(condition.value) > most:
                name = condition.field.name
                raise BadArgumentsError(
                    f"{name}__in has {len(condition.value)} values; at most {most} are taken", name
                )
        if self._rows_max is None:
            return min(_ROWS_DEFAULT, most)
        if self._rows_max > most:
            raise BadArgumentsError(
                f"a page of {self._rows_max} rows was asked for; at most {most} can be had", "limit"
            )
        return self._rows_max

    def _position(self, fingerprint: bytes, cursor: str) -> Position:
        """Where the cursor points; with the fingerprint right, still nothing in it is trusted."""
        values, key = decode_cursor(fingerprint, cursor)
        by_name = {index.field.name: index for index in self._actor_type.indexes.values()}
        try:
            fits = len(values) == len(self._orderings) and normalize_key(key) == key
            for ordering, value in zip(self._orderings, values, strict=False):
                if ordering.field is not _KEY:
                    by_name[ordering.field.name].to_json(value)
                elif value != key:
                    fits = False
        except (BadArgumentsError, InvalidKeyError):
            fits = False
        if not fits:
            raise garbled()
        return values, key


def select(actor_class: type[AnyActor], conditions: dict[str, Any]) -> Selection[AnyActor]:
    """What `Actor.where` does."""
    actor_type = actor_type_of(actor_class)
    return Selection(
        actor_type,
        tuple(_condition(actor_type, name, value) for name, value in conditions.items()),
    )


async def find(actor_class: type[AnyActor], values: dict[str, Any]) -> Row[AnyActor] | None:
    """What `Actor.find` does."""
    actor_type = actor_type_of(actor_class)
    name = actor_class.__name__
    if len(values) != 1:
        raise BadArgumentsError(f"{name}.find takes one unique field, as in find(email=…)")
    ((field, value),) = values.items()
    if value is None:
        raise BadArgumentsError(f"{name}.find: any number of actors may have no {field}", field)
    condition = _condition(actor_type, field, value)
    if not condition.field.unique or condition.operator != "eq":
        if field not in actor_type.indexes:
            raise BadArgumentsError(f"{name}.find compares for equality only; use where", field)
        raise BadArgumentsError(
            f"{name}.{field} is not unique, so there may be many: use where, or declare it as "
            f"{declaration(actor_class, field, 'unique')}",
            field,
        )
    found = await actor_type.router.query(Query(actor_type.name, (condition,), limit=1))
    return row_of(actor_type, found[0]) if found else None


def row_of(actor_type: ActorType, stored: StoredActor) -> Row[Any]:
    """A stored actor, of whichever version of its class, as a row; raises StoreFormatError."""
    state, _ = actor_type.decode_stored(stored)
    return Row(
        stored.key,
        state,
        stored.version,
        _EPOCH + timedelta(milliseconds=stored.created_at_ms),
        _EPOCH + timedelta(milliseconds=stored.updated_at_ms),
    )


def _position_of(stored: StoredActor, orderings: Sequence[Ordering]) -> Position:
    """From the stored JSON and not from the decoded state, in which defaults have filled fields
    that the store sorts as absent."""
    fields = _decode_fields(stored.state)
    values: list[Any] = []
    for ordering in orderings:
        raw = fields.get(ordering.field.name)
        if ordering.field is _KEY:
            values.append(stored.key)
        else:
            values.append(None if raw is None else _decode_value(raw))
    return values, stored.key


# -- what a query may say ------------------------------------------------------------------------


def _condition(actor_type: ActorType, argument: str, value: Any) -> Condition:
    """Read one argument of `where`, such as `placed_at__lt=…`."""
    name, operator = argument, "eq"
    if argument not in actor_type.actor_class.__struct_fields__ and "__" in argument:
        name, _, operator = argument.rpartition("__")
    if operator not in _OPERATORS:
        known = ", ".join(f"__{one}" for one in _OPERATORS)
        raise BadArgumentsError(f"{argument}: there is no __{operator}, but {known}", argument)
    index = _index(actor_type, name)
    if operator == "in":
        if isinstance(value, str | bytes) or not isinstance(value, Iterable):
            raise BadArgumentsError(f"{argument} takes a list of values, not {value!r}", argument)
        values = tuple(index.to_json(one) for one in value)
        if None in values:
            raise BadArgumentsError(f"{argument}: None is no value; ask {name}=None", argument)
        return Condition(index.field, "in", values)
    if value is None and operator not in {"eq", "ne"}:
        raise BadArgumentsError(f"{argument}: None has no place in the order", argument)
    return Condition(index.field, operator, index.to_json(value))


def _orderings(actor_type: ActorType, fields: Sequence[str]) -> tuple[Ordering, ...]:
    orderings = []
    names = [field.removeprefix("-") for field in fields]
    for name, field in zip(names, fields, strict=True):
        if names.count(name) > 1:
            raise BadArgumentsError(f"{name} is to be sorted by twice", name)
        if name != "key":
            indexed_field = _index(actor_type, name).field
        elif name == names[-1]:
            indexed_field = _KEY
        else:
            raise BadArgumentsError("keys differ, so nothing can be sorted by after `key`", name)
        orderings.append(Ordering(indexed_field, descending=field.startswith("-")))
    return tuple(orderings)


def _index(actor_type: ActorType, name: str) -> Index:
    """The index of a field; raises BadArgumentsError with the declaration that would make one."""
    index = actor_type.indexes.get(name)
    if index is not None:
        return index
    actor_class = actor_type.actor_class
    if name == "key":
        raise BadArgumentsError(f"a key is no field; {actor_class.__name__}.at(key) has it", name)
    if name not in actor_class.__struct_fields__:
        raise BadArgumentsError(f"{actor_class.__name__} has no field {name!r}", name)
    raise BadArgumentsError(
        f"{actor_class.__name__}.{name} is not indexed; to search by it, declare it as "
        f"{declaration(actor_class, name, 'indexed')}",
        name,
    )
