"""Unique fields in memory: who has which value, and which writes of a batch are refused."""

from collections.abc import Iterable, Mapping, Sequence

from perdure.base.errors import UniqueError
from perdure.store.api import ActorSchema, ActorWrite, Refusal, StoredActor
from perdure.store.memory_query import NULL, Rank, ranks

ActorPlace = tuple[str, str]  # actor type and key
Value = tuple[str, Rank]  # of a field


class UniqueValues:
    """The values of one class's unique fields, and the keys of the actors that have them."""

    def __init__(self, schema: ActorSchema, rows: Iterable[StoredActor]) -> None:
        """Raises UniqueError when two of the rows share a value."""
        self._fields = [index for index in schema.indexes if index.unique]
        self._owners: dict[Value, str] = {}
        self._values: dict[str, Sequence[Value]] = {}
        for row in rows if self._fields else ():
            values = self.values_in(row.key, row.state)
            for value in values:
                if value in self._owners:
                    raise UniqueError(
                        f"{schema.name}.{value[0]} is to be unique, but at least two stored "
                        "actors have the same value",
                        value[0],
                    )
            self.put(row.key, values)

    def __bool__(self) -> bool:
        return bool(self._fields)

    def owner(self, value: Value) -> str | None:
        """Who has this value."""
        return self._owners.get(value)

    def values_of(self, key: str) -> Sequence[Value]:
        """The values of a stored actor."""
        return self._values.get(key, ())

    def values_in(self, key: str, state: bytes | None) -> Sequence[Value]:
        """The values that an actor would have with this state."""
        if state is None:
            return ()
        found = zip(self._fields, ranks(self._fields, key, state), strict=True)
        return [(field.name, value) for field, value in found if value != NULL]

    def put(self, key: str, values: Sequence[Value]) -> None:
        """Give an actor these values instead of those it has, which others may have taken since."""
        for value in self._values.pop(key, ()):
            if self._owners.get(value) == key:
                del self._owners[value]
        for value in values:
            self._owners[value] = key
        if values:
            self._values[key] = values


def refusals(
    writes: Sequence[ActorWrite], uniques: Mapping[str, UniqueValues]
) -> dict[ActorPlace, Refusal]:
    """The writes that cannot be made because of a value of another actor.

    A refused write gives back no value, so others that counted on it may fall as well: after each
    refusal all writes are looked at again without it.
    """
    refused: dict[ActorPlace, Refusal] = {}
    checked = [
        (write, uniques[write.actor_type].values_in(write.key, write.state))
        for write in writes
        if uniques[write.actor_type]
    ]
    while (found := _first_collision(checked, uniques, refused)) is not None:
        culprit, field = found
        for write in writes:
            if write is culprit or (culprit.group and write.group == culprit.group):
                why = field if write is culprit else ""
                place = (write.actor_type, write.key)
                refused[place] = Refusal(write.actor_type, write.key, why)
    return refused


def _first_collision(
    checked: Sequence[tuple[ActorWrite, Sequence[Value]]],
    uniques: Mapping[str, UniqueValues],
    refused: Mapping[ActorPlace, Refusal],
) -> tuple[ActorWrite, str] | None:
    moved: dict[tuple[str, Value], str | None] = {}  # owners, as far as the batch changes them
    for write, values in checked:
        if (write.actor_type, write.key) in refused:
            continue
        stored = uniques[write.actor_type]
        for value in stored.values_of(write.key):
            moved[write.actor_type, value] = None
        for value in values:
            owner = moved.get((write.actor_type, value), stored.owner(value))
            if owner is not None and owner != write.key:
                return write, value[0]
            moved[write.actor_type, value] = write.key
    return None
