"""Where a Map or a Log may stand in a class, and where it is refused."""

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pytest

from perdure import Actor, DefinitionError, Log, Map
from perdure.actor.methods import actor_type_of


class Holder(msgspec.Struct):
    inner: dict[str, Log[int]] = {}


@dataclass
class PlainHolder:
    inner: Map[str, int]


class Tree(msgspec.Struct):
    children: list["Tree"] = []


def class_of(wanted: Any, default: Any) -> type[Actor]:
    body = {"__annotations__": {"field": wanted}, "field": default, "__module__": __name__}
    return type("Some", (Actor,), body)  # type: ignore[return-value]


@pytest.mark.parametrize(
    "wanted",
    [
        list[Map[str, int]],
        dict[str, Log[int]],
        Map[str, int] | None,
        list[Holder],
        PlainHolder | None,
        Map[str, Log[int]],
        Map[str, list[Holder]],
        Log[Map[str, int]],
        tuple[int, tuple[Log[int], ...]],
    ],
)
def test_a_collection_within_something_else_is_refused(wanted: Any) -> None:
    with pytest.raises(DefinitionError, match=r"Some\.field: a Map or a Log can only be a field"):
        actor_type_of(class_of(wanted, msgspec.field(default_factory=list)))


@pytest.mark.parametrize("wanted", [Map, Log])
def test_a_collection_must_say_what_it_holds(wanted: Any) -> None:
    with pytest.raises(DefinitionError, match="say what it holds"):
        actor_type_of(class_of(wanted, wanted()))


@pytest.mark.parametrize("key", [float, bytes, str | int, bool, Any])
def test_keys_are_texts_or_whole_numbers(key: Any) -> None:
    with pytest.raises(DefinitionError, match="str or int"):
        actor_type_of(class_of(Map[key, int], Map()))


def test_values_must_be_of_a_type_that_json_can_tell() -> None:
    with pytest.raises(DefinitionError, match="cannot be read from JSON"):
        actor_type_of(class_of(Map[str, Tree | PlainHolderless], Map()))


class PlainHolderless(msgspec.Struct):
    other: int = 0


def test_two_fields_must_not_share_one_default() -> None:
    shared: Map[str, int] = Map()

    class Twins(Actor):
        first: Map[str, int] = shared
        second: Map[str, int] = shared

    with pytest.raises(DefinitionError, match="first share one default"):
        actor_type_of(Twins)


def test_a_collection_is_neither_a_parameter_nor_a_result() -> None:
    class Giving(Actor):
        items: Map[str, int] = Map()

        async def give(self) -> Map[str, int]:
            return self.items

    class Taking(Actor):
        async def take(self, items: list[Log[int]]) -> None: ...

    with pytest.raises(DefinitionError, match=r"Giving\.give"):
        actor_type_of(Giving)
    with pytest.raises(DefinitionError, match=r"Taking\.take"):
        actor_type_of(Taking)


def test_a_type_that_holds_itself_is_no_trouble() -> None:
    actor_type = actor_type_of(class_of(Map[str, Tree], Map()))
    assert set(actor_type.collections) == {"field"}


def test_an_annotated_field_and_a_subclass_have_their_collections() -> None:
    class Base(Actor):
        items: Annotated[Map[int, str], "what is in it"] = Map()

    class Derived(Base):
        log: Log[int] = Log()

    assert actor_type_of(Base).collections["items"].key_type is int
    assert set(actor_type_of(Derived).collections) == {"items", "log"}


def test_the_state_holds_no_entries() -> None:
    class Both(Actor):
        items: Map[str, int] = Map()
        log: Log[int] = Log()

    actor_type = actor_type_of(Both)
    encoded = msgspec.json.encode(Both())
    assert encoded == b'{"items":{},"log":{"next":0,"first":0}}'
    assert msgspec.json.encode(actor_type.decode_state(encoded)) == encoded
    assert repr(actor_type.decode_state(b"{}").items) == "<Map items>"


def test_indexes_cannot_be_changed_by_assignment() -> None:
    with pytest.raises(AttributeError):
        Log().next = 5  # type: ignore[misc]
