"""Which indexes a process may drop when it starts.

It makes those that its code declares, and drops those that its code could have declared and does
not: of fields that it has. What is not of its fields was made by a newer code, beside which it may
be starting again amid a deploy, or was left by one that is gone, and harms nobody: states that
lack a field are not in its index.
"""

from collections.abc import Iterator
from typing import Literal, get_args

from perdure.store.api import ActorSchema, IndexedField

_KINDS: tuple[Literal["plain", "time", "decimal"], ...] = get_args(
    IndexedField.__annotations__["kind"]
)


def possible(schema: ActorSchema) -> Iterator[IndexedField]:
    """Every declaration that there could be of a field of this class."""
    for name in {*schema.fields, *(field.name for field in schema.indexes)}:
        for kind in _KINDS:
            yield IndexedField(name, kind, unique=False)
            yield IndexedField(name, kind, unique=True)
