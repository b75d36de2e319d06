"""Collections that are too big for one value: `Map` and `Log`, fields whose entries are rows.

    class Basket(Actor):
        items: Map[str, Item] = Map()
        history: Log[Event] = Log()

An actor's other fields are loaded when it wakes and written as a whole. Of a collection only those
entries are loaded that are asked for, and only those written that were changed, in the same commit
as the state. So an actor may have millions of them.

The objects here hold no entries. They know which field they are, and everything else is asked of
the turn that runs: hence they work within one only. A `Log` has in addition the index of its first
entry and of the next one; these are part of the actor's state and go back with it.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

import msgspec

from perdure.actor.cursors import (
    Position,
    decode_cursor,
    encode_cursor,
    fingerprint_of,
    garbled,
)
from perdure.actor.entries import CollectionField, Entries, behind, entry_of_int, int_of_entry
from perdure.actor.model import running_turn
from perdure.actor.pages import Page
from perdure.base.errors import BadArgumentsError, InvalidKeyError, LimitError, NotRunningError

if TYPE_CHECKING:
    from perdure.actor.turn import Turn

Key = TypeVar("Key", bound=str | int)
Value = TypeVar("Value")
Default = TypeVar("Default")

_PAGE = 100  # entries that an iteration holds in memory
_FIELD = "field"  # in the __dict__ of a collection, which is not encoded: the name of its field


class Collection(msgspec.Struct, frozen=True, eq=False, dict=True):
    """What Map and Log have in common: finding the field they are, in the turn that runs."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.__dict__.get(_FIELD, '(no field yet)')}>"


class Map(Collection, Generic[Key, Value], frozen=True, eq=False):
    """A mapping from texts or whole numbers to values, ordered by key, with a row for each entry.

    Write it with `m[key] = value` and `del m[key]`; read it with `await m.get(key)` and
    `async for key, value in m.items()`. Texts are ordered by code point. Values may be of any type
    a field may have, and what is got is a copy: to change it, put it back.
    """

    def __setitem__(self, key: Key, value: Value) -> None:
        """Put an entry; written with this turn.

        Raises InvalidKeyError, UnencodableError when the value does not fit its type, and
        LimitError when it is too large or this turn has written too much.
        """
        turn, field, entries = _open(self)
        entry = field.entry_of(key, turn.activation.limits.key_bytes_max)
        entries.put(entry, field.encode_value(turn, value))

    def __delitem__(self, key: Key) -> None:
        """Take an entry away. It is not looked up first: no error if there is none."""
        turn, field, entries = _open(self)
        entries.put(field.entry_of(key, turn.activation.limits.key_bytes_max), None)

    def discard(self, key: Key) -> None:
        """The same as `del m[key]`, by the name that sets have for it."""
        del self[key]

    @overload
    async def get(self, key: Key) -> Value | None: ...
    @overload
    async def get(self, key: Key, default: Default) -> Value | Default: ...
    async def get(self, key: Key, default: Any = None) -> Any:
        """A copy of the value of this key, or `default`."""
        turn, field, entries = _open(self)
        found = await entries.get(field.entry_of(key, turn.activation.limits.key_bytes_max))
        return default if found is None else field.decode_value(found)

    async def contains(self, key: Key) -> bool:
        """Whether there is an entry of this key."""
        turn, field, entries = _open(self)
        found = await entries.get(field.entry_of(key, turn.activation.limits.key_bytes_max))
        return found is not None

    async def count(self) -> int:
        """How many entries there are. The store counts them: the more, the longer it takes."""
        _, _, entries = _open(self)
        return await entries.count()

    async def page(
        self,
        *,
        start: Key | None = None,
        end: Key | None = None,
        cursor: str | None = None,
        limit: int = 100,
        descending: bool = False,
    ) -> Page[tuple[Key, Value]]:
        """Up to `limit` entries with keys from `start` on and before `end`, in order.

        What is put or taken away between two pages moves no other entry from one to the other.

        Args:
            cursor: go on behind the page that had it as `next`, with all else the same but `limit`.
            descending: the largest key first.

        Raises BadArgumentsError for a cursor that is none of this listing, and when `limit` is more
        than `Limits.entries_per_page_max`.
        """
        turn, field, _ = _open(self)
        span = _range(turn, field, start, end)
        return await Listing(field, span, span, descending).page(self, cursor, limit)

    async def items(
        self,
        *,
        start: Key | None = None,
        end: Key | None = None,
        descending: bool = False,
    ) -> AsyncIterator[tuple[Key, Value]]:
        """All entries with keys from `start` on and before `end`, in order, loaded bit by bit.

        What is put or taken away meanwhile counts from the next bit on.
        """
        turn, field, _ = _open(self)
        low, high = _range(turn, field, start, end)
        async for entry, value in _rows(self, low, high, descending):
            yield field.key_of(entry), field.decode_value(value)

    async def keys(
        self,
        *,
        start: Key | None = None,
        end: Key | None = None,
        descending: bool = False,
    ) -> AsyncIterator[Key]:
        """The keys of `items`. Their values are loaded too, but not decoded."""
        turn, field, _ = _open(self)
        low, high = _range(turn, field, start, end)
        async for entry, _value in _rows(self, low, high, descending):
            yield field.key_of(entry)

    def __aiter__(self) -> AsyncIterator[Key]:
        """`async for key in m`, as with a dict."""
        return self.keys()

    async def values(
        self,
        *,
        start: Key | None = None,
        end: Key | None = None,
        descending: bool = False,
    ) -> AsyncIterator[Value]:
        """The values of `items`."""
        turn, field, _ = _open(self)
        low, high = _range(turn, field, start, end)
        async for _entry, value in _rows(self, low, high, descending):
            yield field.decode_value(value)

    async def clear(self, *, at_most: int = 1_000) -> int:
        """Take away the first `at_most` entries; returns how many that were.

        Bounded, so that no turn grows with the map: call it, in turns of its own, until it returns
        less than `at_most`. Raises LimitError when that is more than one page may have.
        """
        turn, field, entries = _open(self)
        _check_limit(turn, field, at_most)
        rows = await entries.page("", None, limit=at_most)
        for entry, _ in rows:
            entries.put(entry, None)
        return len(rows)


class Log(
    Collection,
    Generic[Value],
    frozen=True,
    eq=False,
    rename={"_next": "next", "_first": "first"},
):
    """A list that grows at its end and is trimmed at its beginning, with a row for each entry.

    The index of an entry never changes: it is what `append` returned. What is got is a copy.
    """

    _next: int = 0
    _first: int = 0

    @property
    def next(self) -> int:
        """The index that the next entry will have: how many were ever appended."""
        return _current(self)._next

    @property
    def first(self) -> int:
        """The index of the oldest entry that is kept."""
        return _current(self)._first

    def __len__(self) -> int:
        current = _current(self)
        return current._next - current._first

    def append(self, value: Value) -> int:
        """Add an entry at the end, written with this turn; returns its index.

        Raises UnencodableError when the value does not fit its type, and LimitError when it is too
        large or this turn has written too much.
        """
        turn, field, entries = _open(self)
        current = _current(self)
        entries.put(entry_of_int(current._next), field.encode_value(turn, value))
        _replace(turn, field, current._first, current._next + 1)
        return current._next

    @overload
    async def get(self, index: int) -> Value | None: ...
    @overload
    async def get(self, index: int, default: Default) -> Value | Default: ...
    async def get(self, index: int, default: Any = None) -> Any:
        """A copy of the entry with this index, or `default` if there is none, or none any more."""
        _, field, entries = _open(self)
        current = _current(self)
        if not current._first <= index < current._next:
            return default
        found = await entries.get(entry_of_int(index))
        return default if found is None else field.decode_value(found)

    async def last(self, limit: int = 1) -> list[Value]:
        """The newest `limit` entries, the oldest of them first.

        Raises LimitError when `limit` is more than `Limits.entries_per_page_max`.
        """
        turn, field, entries = _open(self)
        _check_limit(turn, field, limit)
        current = _current(self)
        start = max(current._first, current._next - limit)
        rows = await entries.page(entry_of_int(start), entry_of_int(current._next), limit=limit)
        return [field.decode_value(value) for _, value in rows]

    async def page(
        self, *, cursor: str | None = None, limit: int = 100, descending: bool = False
    ) -> Page[tuple[int, Value]]:
        """Up to `limit` entries with their indexes, the oldest first.

        What is appended or dropped between two pages moves no other entry from one to the other.

        Args:
            cursor: go on behind the page that had it as `next`, in the same direction.
            descending: the newest first.

        Raises BadArgumentsError for a cursor that is none of this listing, and when `limit` is more
        than `Limits.entries_per_page_max`.
        """
        _, field, _ = _open(self)
        current = _current(self)
        span = entry_of_int(current._first), entry_of_int(current._next)
        return await Listing(field, span, (), descending).page(self, cursor, limit)

    async def range(
        self, start: int = 0, end: int | None = None, *, descending: bool = False
    ) -> AsyncIterator[tuple[int, Value]]:
        """Entries with indexes from `start` on and before `end`, in order, loaded bit by bit.

        What is appended meanwhile is not among them.
        """
        _, field, _ = _open(self)
        current = _current(self)
        low = max(start, current._first)
        high = current._next if end is None else min(end, current._next)
        if low >= high:
            return
        async for entry, value in _rows(self, entry_of_int(low), entry_of_int(high), descending):
            yield int_of_entry(entry), field.decode_value(value)

    def drop_before(self, index: int, *, at_most: int = 1_000) -> int:
        """Take away the oldest entries, those before `index`; returns how many that were.

        At most `at_most`, so that no turn grows with the log: what is left goes with the next call.
        """
        turn, field, entries = _open(self)
        current = _current(self)
        end = max(current._first, min(index, current._next, current._first + at_most))
        for old in range(current._first, end):
            entries.put(entry_of_int(old), None)
        if end > current._first:
            _replace(turn, field, end, current._next)
        return end - current._first


def _open(collection: Collection) -> "tuple[Turn, CollectionField, Entries]":
    """The running turn, and the field that this collection is in it; raises NotRunningError."""
    turn = running_turn()
    fields = turn.activation.actor_type.collections
    name = collection.__dict__.get(_FIELD)
    if name is None:  # assigned by the actor itself
        actor = turn.activation.actor
        name = next((one for one in fields if getattr(actor, one) is collection), None)
    if name not in fields:
        raise NotRunningError(
            f"{turn}: this {type(collection).__name__} is not a field of the actor that runs now"
        )
    return turn, fields[name], Entries(turn, name)


def bind(collection: Collection, name: str) -> None:
    """Tell a collection which field it is."""
    collection.__dict__[_FIELD] = name


def _current(log: Log[Any]) -> Log[Any]:
    """The indexes as they are now. Each change puts a new Log into the field, since defaults are
    shared by all actors; and one that user code has kept in a variable must not fall behind."""
    turn, field, _ = _open(log)
    return cast("Log[Any]", getattr(turn.activation.actor, field.name))


def _replace(turn: "Turn", field: CollectionField, first: int, next_: int) -> None:
    changed = Log[Any](_next=next_, _first=first)
    bind(changed, field.name)
    setattr(turn.activation.actor, field.name, changed)


class Listing(msgspec.Struct, frozen=True):
    """One way to go through a collection, page by page."""

    field: CollectionField
    span: tuple[str, str | None]  # from the first entry on, before the second
    asked: tuple[str | None, ...]  # of the span, what must be the same for each page
    descending: bool

    async def page(self, collection: Collection, cursor: str | None, limit: int) -> Page[Any]:
        """Up to `limit` entries behind a cursor."""
        turn, field, entries = _open(collection)
        activation = turn.activation
        most = activation.limits.entries_per_page_max
        if type(limit) is not int or not 1 <= limit <= most:
            raise BadArgumentsError(f"a page has 1 to {most} entries, not {limit!r}", "limit")
        fingerprint = fingerprint_of(
            activation.actor_type.name, activation.key, field.name, self.asked, self.descending
        )
        low, high = self.span
        if cursor is not None:
            last = self._entry_of(decode_cursor(fingerprint, cursor), turn)
            if self.descending:
                high = last if high is None else min(high, last)
            else:
                low = max(low, behind(last))
        # one more tells whether there is a next page
        rows = await entries.page(low, high, limit=limit + 1, descending=self.descending)
        items = [(field.key_of(at), field.decode_value(value)) for at, value in rows[:limit]]
        more = len(rows) > limit
        return Page(items, encode_cursor(fingerprint, ((), rows[limit - 1][0])) if more else None)

    def _entry_of(self, position: Position, turn: "Turn") -> str:
        """With the fingerprint right, still nothing in a cursor is trusted."""
        values, entry = position
        try:
            key = self.field.key_of(entry)
            again = self.field.entry_of(key, turn.activation.limits.key_bytes_max)
        except (ValueError, InvalidKeyError):
            raise garbled() from None
        if values or again != entry:
            raise garbled()
        return entry


async def _rows(
    collection: Collection, low: str, high: str | None, descending: bool
) -> AsyncIterator[tuple[str, bytes]]:
    while True:
        _, _, entries = _open(collection)  # anew: an iteration may outlive its turn
        rows = await entries.page(low, high, limit=_PAGE, descending=descending)
        for row in rows:
            yield row
        if len(rows) < _PAGE:
            return
        if descending:
            high = rows[-1][0]
        else:
            low = behind(rows[-1][0])
        await asyncio.sleep(0)  # a store that never waits must not keep everyone else waiting


def _range(turn: "Turn", field: CollectionField, start: Any, end: Any) -> tuple[str, str | None]:
    bytes_max = turn.activation.limits.key_bytes_max
    return (
        "" if start is None else field.entry_of(start, bytes_max),
        None if end is None else field.entry_of(end, bytes_max),
    )


def _check_limit(turn: "Turn", field: CollectionField, limit: int) -> None:
    limit_max = turn.activation.limits.entries_per_page_max
    if not 0 < limit <= limit_max:
        raise LimitError(f"{turn}: {field.label}: a page has 1 to {limit_max} entries, not {limit}")
