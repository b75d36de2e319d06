"""Names for the types of an API, which the document and the written clients refer to them by.

Invariants:
- No two types have one name. Those whose classes are called alike are named with their modules;
  where that does not help they get numbers, in the order in which they are met.
- The same types in the same order get the same names.
"""

import re
from collections.abc import Iterable
from typing import Any

from msgspec import inspect as types

Named = (
    types.StructType
    | types.DataclassType
    | types.NamedTupleType
    | types.TypedDictType
    | types.EnumType
)


def named_types(described: Iterable[types.Type]) -> dict[Any, Named]:
    """All types with a name of their own among these, and within them, by class."""
    found: dict[Any, Named] = {}
    waiting = list(described)
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, Named):
            if one.cls in found:
                continue
            found[one.cls] = one
        waiting[:0] = parts_of(one)
    return found


def parts_of(described: types.Type) -> list[types.Type]:
    """The types that this one is directly made of."""
    match described:
        case types.EnumType():
            return []
        case (
            types.StructType()
            | types.DataclassType()
            | types.NamedTupleType()
            | types.TypedDictType()
        ):
            return [field.type for field in described.fields]
        case types.Metadata():
            return [described.type]
        case types.CollectionType():
            return [described.item_type]
        case types.TupleType():
            return list(described.item_types)
        case types.DictType():
            return [described.key_type, described.value_type]
        case types.UnionType():
            return list(described.types)
    return []


def unique_names(
    classes: Iterable[Any], but: Iterable[str] = (), allowed: str = r"\w"
) -> dict[Any, str]:
    """A name for each class.

    Args:
        but: names that are taken.
        allowed: the characters that a name may have; each run of others becomes one `_`.
    """
    classes = list(classes)
    taken = set(but)
    modules: dict[str, set[str]] = {}
    for one in classes:
        modules.setdefault(_short_name(one), set()).add(one.__module__)
    names: dict[Any, str] = {}
    for one in classes:
        name = _short_name(one)
        if len(modules[name]) > 1:
            name = f"{one.__module__.rpartition('.')[2]}.{name}"
        name = re.sub(f"[^{allowed}]+", "_", name).strip("_") or "Type"
        names[one] = free_name(name, taken)
    return names


def free_name(wanted: str, taken: set[str]) -> str:
    """The name, or one like it that is not taken; takes it."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    taken.add(name)
    return name


def _short_name(cls: Any) -> str:
    """`Line`, or `Page[Line]` for a generic class with its arguments."""
    origin = getattr(cls, "__origin__", None)
    if origin is None:
        name: str = cls.__name__
        return name
    return f"{origin.__name__}[{', '.join(map(_argument_name, cls.__args__))}]"


def _argument_name(argument: Any) -> str:
    return _short_name(argument) if hasattr(argument, "__name__") else repr(argument)
