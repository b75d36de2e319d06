"""The entries of one collection as a turn sees them, and the form in which they are stored.

A collection (`Map`, `Log`) keeps each entry as a row of its own. Three layers lie over one another,
and the upper one wins: what this turn has put or taken away, what earlier turns did that is not yet
durable, and the store. Writing only adds to the turn's effects, so that a turn that fails leaves
nothing, and what is committed is the difference and not the collection.

Keys of entries are texts in the order of their code points. Whole numbers are written so that this
order is theirs: `0000000000000000007`, and below zero `-` with what is missing to 10^19.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from perdure.actor.effects import put_entry
from perdure.base.codec import encode
from perdure.base.errors import InvalidKeyError, LimitError, UnencodableError
from perdure.base.texts import unstorable

if TYPE_CHECKING:
    from perdure.actor.activation import Activation
    from perdure.actor.turn import Turn

_DIGITS = 19  # of the largest whole number of 64 bits
_COMPLEMENT = 10**_DIGITS
_INT_MAX = 2**63 - 1
_INT_MIN = -(2**63)


class EntryReader(Protocol):
    """What collections need of the process they live in: what is stored of them."""

    def entry(self, activation: "Activation", field: str, entry: str) -> Awaitable[bytes | None]:
        """The stored value of one entry of a collection."""
        ...

    def entries(
        self,
        activation: "Activation",
        field: str,
        *,
        start: str,
        end: str | None,
        limit: int,
        descending: bool,
    ) -> Awaitable[list[tuple[str, bytes]]]:
        """Stored entries of a collection; see `Store.entries`."""
        ...

    def count_entries(self, activation: "Activation", field: str) -> Awaitable[int]:
        """How many stored entries a collection has."""
        ...


class CollectionField:
    """A field of an actor class that holds a collection: its name, and how its rows are written."""

    __slots__ = ("decode_value", "key_type", "label", "name")

    def __init__(
        self,
        label: str,
        name: str,
        key_type: type[str] | type[int],
        decode_value: Callable[[bytes], Any],
    ) -> None:
        self.label = label
        self.name = name
        self.key_type = key_type
        self.decode_value = decode_value

    def entry_of(self, key: Any, bytes_max: int) -> str:
        """The stored form of a key; raises TypeError, or InvalidKeyError when it cannot be one."""
        if self.key_type is int:
            if not isinstance(key, int) or isinstance(key, bool):
                raise TypeError(f"{self.label} has keys of type int, not {type(key).__name__}")
            return entry_of_int(key)
        if not isinstance(key, str):
            raise TypeError(f"{self.label} has keys of type str, not {type(key).__name__}")
        return _checked(str.__str__(key), bytes_max)

    def key_of(self, entry: str) -> Any:
        """The key of a stored entry."""
        return entry if self.key_type is str else int_of_entry(entry)

    def encode_value(self, turn: "Turn", value: Any) -> bytes:
        """A value as JSON that is known to be readable; raises UnencodableError or LimitError."""
        try:
            encoded = encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise UnencodableError(
                f"{turn}: {self.label}: JSON cannot hold this: {error}"
            ) from error
        bytes_max = turn.activation.limits.entry_bytes_max
        if len(encoded) > bytes_max:
            raise LimitError(
                f"{turn}: {self.label}: the value has {len(encoded)} bytes; "
                f"at most {bytes_max} fit into one entry"
            )
        try:
            self.decode_value(encoded)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise UnencodableError(
                f"{turn}: {self.label}: the value could not be read back: {error}"
            ) from None
        return encoded


class Entries:
    """One collection of the actor that runs `turn`. Values are JSON here, and keys are entries."""

    __slots__ = ("_field", "_turn")

    def __init__(self, turn: "Turn", field: str) -> None:
        self._turn = turn
        self._field = field

    @property
    def _activation(self) -> "Activation":
        return self._turn.activation

    def put(self, entry: str, value: bytes | None) -> None:
        """Put an entry, or take it away; raises LimitError when this turn has written too much."""
        put_entry(self._turn, self._activation.limits, (self._field, entry), value)

    async def get(self, entry: str) -> bytes | None:
        """The value of an entry, or None."""
        at = (self._field, entry)
        effects, recent = self._turn.effects, self._activation.entries
        if effects is not None and at in effects.entries:
            return effects.entries[at]
        if recent and at in recent:
            return recent[at][1]
        return await self._activation.host.entry(self._activation, self._field, entry)

    async def page(
        self, start: str, end: str | None, *, limit: int, descending: bool = False
    ) -> list[tuple[str, bytes]]:
        """Up to `limit` entries from `start` on, before `end`."""
        found: list[tuple[str, bytes]] = []
        while end is None or start < end:
            # Taken before the store is asked: what is not durable now may be when it answers, and
            # would then be missing in both.
            changed = self._changed(start, end)
            rows = await self._activation.host.entries(
                self._activation,
                self._field,
                start=start,
                end=end,
                limit=limit,
                descending=descending,
            )
            is_last = len(rows) < limit
            if not is_last:  # what was changed behind the last row belongs to the next round
                last = rows[-1][0]
                changed = {
                    entry: value
                    for entry, value in changed.items()
                    if (entry >= last if descending else entry <= last)
                }
                start, end = (start, last) if descending else (behind(last), end)
            merged = sorted({**dict(rows), **changed}.items(), reverse=descending)
            found += [(entry, value) for entry, value in merged if value is not None]
            if is_last or len(found) >= limit:
                break
        return found[:limit]

    async def count(self) -> int:
        """How many entries there are."""
        activation = self._activation
        # Whether a change is a new entry or replaces one is asked of the store, and what becomes
        # durable in the middle of that could be counted twice, or not at all. So first all that is
        # on its way gets there.
        if not self._turn.holds_alone:  # others may write meanwhile: what is durable counts
            await activation.save(self._turn)
            return await activation.host.count_entries(activation, self._field)
        if activation.entries:
            await activation.durable()
        counted = await activation.host.count_entries(activation, self._field)
        for entry, value in self._changed("", None).items():
            stored = await activation.host.entry(activation, self._field, entry)
            counted += (value is not None) - (stored is not None)
        return counted

    def _changed(self, start: str, end: str | None) -> dict[str, bytes | None]:
        """What lies over the store in this range."""
        effects, recent = self._turn.effects, self._activation.entries
        changed: dict[str, bytes | None] = {}
        for (field, entry), (_, value) in (recent or {}).items():
            if field == self._field and start <= entry and (end is None or entry < end):
                changed[entry] = value
        for (field, entry), value in (effects.entries if effects is not None else {}).items():
            if field == self._field and start <= entry and (end is None or entry < end):
                changed[entry] = value
        return changed


def behind(entry: str) -> str:
    """The first text behind `entry` in the order of code points."""
    return entry + "\0"


def entry_of_int(number: int) -> str:
    """A whole number as an entry; raises InvalidKeyError when it has more than 64 bits."""
    if 0 <= number <= _INT_MAX:
        return f"{number:0{_DIGITS}d}"
    if _INT_MIN <= number < 0:
        return f"-{_COMPLEMENT + number:0{_DIGITS}d}"
    raise InvalidKeyError(f"the key {number} has more than 64 bits")


def int_of_entry(entry: str) -> int:
    """The number of an entry made by `entry_of_int`."""
    return int(entry[1:]) - _COMPLEMENT if entry.startswith("-") else int(entry)


def _checked(key: str, bytes_max: int) -> str:
    """Unlike keys of actors, which travel in paths, these are taken as they are: what was put in
    comes out."""
    if what := unstorable(key):
        raise InvalidKeyError(f"the key of an entry holds {what}")
    if (size := len(key) if key.isascii() else len(key.encode())) > bytes_max:
        raise InvalidKeyError(f"the key of an entry has {size} bytes; at most {bytes_max} fit")
    return key
