"""Compiles the fields of an actor class that are collections, and refuses them anywhere else.

A collection is a field of an actor itself. In a list, in another collection, in a parameter or a
result it would be an empty shell: its entries are not in it.
"""

import typing
from collections.abc import Callable
from typing import Any

import msgspec

from perdure.actor.collections import Collection, Log, Map, bind
from perdure.actor.entries import CollectionField
from perdure.base.codec import decoder
from perdure.base.errors import DefinitionError


def collection_fields(actor_class: type[msgspec.Struct]) -> dict[str, CollectionField]:
    """The collections of a class by field name; raises DefinitionError."""
    found: dict[str, CollectionField] = {}
    defaults: dict[int, str] = {}
    for field in msgspec.structs.fields(actor_class):
        label = f"{actor_class.__name__}.{field.name}"
        wanted = _plain(field.type)
        if not _is_collection(wanted):
            refuse_collections(label, wanted)
            continue
        found[field.name] = _compiled(label, field.name, wanted)
        if isinstance(field.default, Collection):
            other = defaults.setdefault(id(field.default), field.name)
            if other != field.name:
                raise DefinitionError(f"{label} and {other} share one default; give each its own")
            bind(field.default, field.name)
    return found


def refuse_collections(label: str, *types: Any) -> None:
    """Raise DefinitionError if any of these types is, or holds, a collection."""
    if any(_holds_collection(one, set()) for one in types):
        raise DefinitionError(
            f"{label}: a Map or a Log can only be a field of an actor, declared like "
            f"`name: Map[str, int] = Map()`"
        )


def binding(
    decode: Callable[[bytes], Any], fields: dict[str, CollectionField]
) -> Callable[[bytes], Any]:
    """`decode` for actors with collections: tells each of them which field it is."""

    def decode_and_bind(state: bytes) -> Any:
        actor = decode(state)
        for name in fields:
            bind(getattr(actor, name), name)
        return actor

    return decode_and_bind


def _compiled(label: str, name: str, wanted: Any) -> CollectionField:
    arguments = typing.get_args(wanted)
    if not arguments:
        raise DefinitionError(f"{label}: say what it holds, like `Map[str, int]` or `Log[int]`")
    refuse_collections(label, *arguments)
    key_type = int if len(arguments) == 1 else arguments[0]
    if key_type not in (str, int):
        raise DefinitionError(f"{label}: the keys of a Map are str or int")
    try:
        decode_value = decoder(arguments[-1]).decode
    except (TypeError, NameError) as error:
        raise DefinitionError(f"{label}: its values cannot be read from JSON: {error}") from error
    return CollectionField(label, name, key_type, decode_value)


def _plain(wanted: Any) -> Any:
    return typing.get_args(wanted)[0] if typing.get_origin(wanted) is typing.Annotated else wanted


def _is_collection(wanted: Any) -> bool:
    return (typing.get_origin(wanted) or wanted) in (Map, Log)


def _holds_collection(wanted: Any, seen: set[Any]) -> bool:
    if _is_collection(wanted):
        return True
    arguments = typing.get_args(wanted)
    origin = typing.get_origin(wanted) or wanted
    if any(_holds_collection(one, seen) for one in arguments):
        return True
    if not isinstance(origin, type) or origin in seen:
        return False
    seen.add(origin)
    try:
        hints = typing.get_type_hints(origin, include_extras=True)
    except Exception:  # annotations may hold anything; the decoder has its own word on them
        return False
    return any(_holds_collection(one, seen) for one in hints.values())
