"""Marked fields: which types can be indexed, and which values a turn may leave in them."""

import enum
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType
from uuid import UUID

import msgspec
import pytest

from perdure import (
    Actor,
    BadArgumentsError,
    DefinitionError,
    UnencodableError,
    indexed,
    unique,
)
from perdure.actor.methods import actor_type_of
from perdure.store.api import IndexedField
from perdure.testing import async_test, running

Number = NewType("Number", int)


class Status(enum.Enum):
    OPEN = "open"
    PAID = "paid"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 9


class Order(Actor, rename={"renamed": "otherName"}):
    text: Annotated[str, indexed] = ""
    email: Annotated[str | None, unique] = None
    inner: Annotated[str, unique] | None = None
    both: Annotated[str | None, indexed, unique] = None
    count: Annotated[int, indexed] = 0
    number: Annotated[Number, indexed] = Number(0)
    bounded: Annotated[int, msgspec.Meta(ge=0), indexed] = 0
    ratio: Annotated[float, indexed] = 0.0
    flag: Annotated[bool, indexed] = False
    status: Annotated[Status, indexed] = Status.OPEN
    level: Annotated[Level | None, indexed] = None
    side: Annotated[Literal["left", "right"], indexed] = "left"
    uid: Annotated[UUID | None, unique] = None
    day: Annotated[date | None, indexed] = None
    hour: Annotated[time | None, indexed] = None
    placed_at: Annotated[datetime | None, indexed] = None
    total: Annotated[Decimal, indexed] = Decimal(0)
    renamed: Annotated[str, indexed] = ""
    note: str = ""
    bag: dict[str, int] = {}


INDEXES = actor_type_of(Order).indexes


def test_the_schema_names_every_field_and_the_indexed_ones_with_their_order() -> None:
    schema = actor_type_of(Order).schema
    assert schema.name == "order"
    assert list(schema.fields)[-3:] == ["otherName", "note", "bag"]
    found = {field.name: (field.kind, field.unique) for field in schema.indexes}
    assert found == {
        **dict.fromkeys(("text", "count", "number", "bounded", "ratio"), ("plain", False)),
        **dict.fromkeys(("flag", "status", "level", "side", "day"), ("plain", False)),
        **dict.fromkeys(("hour", "otherName"), ("plain", False)),
        **dict.fromkeys(("email", "inner", "both", "uid"), ("plain", True)),
        "placed_at": ("time", False),
        "total": ("decimal", False),
    }
    assert INDEXES["renamed"].field == IndexedField("otherName")


@pytest.mark.parametrize(
    ("wanted", "default"),
    [
        (dict[str, int], {}),
        (list[str], []),
        (list[Annotated[str, unique]], []),
        (dict[str, Annotated[str, unique]], {}),
        (bytes, b""),
        (timedelta, timedelta()),
        (str | int, ""),
        (Any, None),
        (Literal["a", 1], "a"),
        (msgspec.Raw, msgspec.Raw()),
    ],
)
def test_what_has_no_order_cannot_be_indexed(wanted: Any, default: Any) -> None:
    body = {"__annotations__": {"field": Annotated[wanted, indexed]}, "field": default}
    wrong = type("Wrong", (Actor,), {**body, "__module__": __name__})
    with pytest.raises(DefinitionError, match=r"Wrong\.field: .* cannot be indexed; str, int"):
        actor_type_of(wrong)


def test_a_marker_deep_in_a_type_is_refused_and_not_forgotten() -> None:
    class Wrong(Actor):
        emails: list[Annotated[str, unique]] = []

    with pytest.raises(DefinitionError, match=r"Wrong\.emails: .* cannot be indexed"):
        actor_type_of(Wrong)


def test_an_indexed_field_must_be_in_the_json() -> None:
    class Sparse(Actor, omit_defaults=True):
        status: Annotated[str, indexed] = ""

    class Hidden(Actor, rename={"status": "key"}):
        status: Annotated[str, indexed] = ""

    with pytest.raises(DefinitionError, match="leave out `omit_defaults`"):
        actor_type_of(Sparse)
    with pytest.raises(DefinitionError, match="cannot be renamed to `key`"):
        actor_type_of(Hidden)


@pytest.mark.parametrize("name", ["where", "find"])
def test_the_names_of_queries_are_taken(name: str) -> None:
    body = {"__annotations__": {name: str}, name: "", "__module__": __name__}
    with pytest.raises(DefinitionError, match="that name belongs to Actor itself"):
        actor_type_of(type("Wrong", (Actor,), body))


def test_a_default_must_have_its_place_in_the_order() -> None:
    class Wrong(Actor):
        since: Annotated[datetime, indexed] = datetime(2026, 7, 1)

    with pytest.raises(DefinitionError, match=r"Wrong\.since is indexed: .* in UTC .*its default"):
        actor_type_of(Wrong)


def test_classes_whose_values_all_have_an_order_are_not_checked() -> None:
    class Plain(Actor):
        name: Annotated[str, unique] = ""
        status: Annotated[Status, indexed] = Status.OPEN
        seen_at: datetime | None = None

    assert actor_type_of(Plain).check is None
    assert actor_type_of(Order).check is not None


# -- values to search for ------------------------------------------------------------------------

BERLIN = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("name", "value", "json"),
    [
        ("text", "a", "a"),
        ("count", 3, 3),
        ("bounded", -5, -5),  # below its bound, but a fine thing to compare with
        ("ratio", 3, 3.0),
        ("flag", True, True),
        ("status", Status.PAID, "paid"),
        ("status", "paid", "paid"),
        ("level", Level.HIGH, 9),
        ("side", "left", "left"),
        ("uid", UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        ("uid", "00000000000000000000000000000007", "00000000-0000-0000-0000-000000000007"),
        ("day", date(2026, 7, 1), "2026-07-01"),
        ("hour", time(7, 30), "07:30:00"),
        ("placed_at", datetime(2026, 7, 1, tzinfo=UTC), "2026-07-01T00:00:00Z"),
        ("placed_at", datetime(2026, 7, 1, 2, tzinfo=BERLIN), "2026-07-01T00:00:00Z"),
        ("placed_at", "2026-07-01T02:00:00.5+02:00", "2026-07-01T00:00:00.500000Z"),
        ("total", Decimal("1.50"), "1.50"),
        ("total", "1.50", "1.50"),
        ("total", 2, "2"),
        ("email", None, None),
    ],
)
def test_values_to_search_for_become_what_the_state_holds(name: str, value: Any, json: Any) -> None:
    found = INDEXES[name].to_json(value)
    assert (found, type(found)) == (json, type(json))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text", 1),
        ("text", "\ud800"),
        ("text", object()),
        ("count", "3"),
        ("count", True),
        ("count", 2**63),
        ("count", 2**70),
        ("ratio", float("nan")),
        ("flag", 1),
        ("status", "lost"),
        ("level", 2),
        ("uid", "7"),
        ("day", datetime(2026, 7, 1)),
        ("hour", time(7, tzinfo=UTC)),
        ("placed_at", datetime(2026, 7, 1)),
        ("placed_at", date(2026, 7, 1)),
        ("placed_at", datetime.max.replace(tzinfo=timezone(-timedelta(hours=2)))),
        ("total", Decimal("NaN")),
        ("total", Decimal("-Infinity")),
        ("total", "much"),
    ],
)
def test_values_that_the_field_cannot_hold_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(BadArgumentsError, match=f"^{name}: ") as caught:
        INDEXES[name].to_json(value)
    assert caught.value.field == name


# -- values that a turn leaves -------------------------------------------------------------------


class Parcel(Actor):
    sent_at: Annotated[datetime | None, indexed] = None
    hour: Annotated[time | None, indexed] = None
    weight: Annotated[Decimal | None, indexed] = None
    number: Annotated[int, indexed] = 0

    async def put(self, field: str, text: str) -> None:
        kinds: dict[str, Any] = {"sent_at": datetime, "hour": time, "weight": Decimal}
        value = msgspec.convert(text, kinds.get(field, int), strict=False)
        setattr(self, field, value)

    async def see(self) -> str:
        return repr((self.sent_at, self.hour, self.weight, self.number))


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("sent_at", "2026-07-01T00:00:00"),
        ("sent_at", "2026-07-01T00:00:00+02:00"),
        ("hour", "07:00:00Z"),
        ("weight", "NaN"),
        ("weight", "Infinity"),
        ("number", str(2**63)),
    ],
)
@async_test
async def test_a_turn_that_leaves_a_value_without_a_place_is_undone(field: str, text: str) -> None:
    async with running(Parcel):
        parcel = Parcel.at("p")
        before = await parcel.see()
        with pytest.raises(UnencodableError, match=rf"Parcel\.{field} is indexed"):
            await parcel.put(field, text)
        assert await parcel.see() == before
        assert len(await Parcel.where()) == 0


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("sent_at", "2026-07-01T00:00:00+00:00"),
        ("hour", "07:00:00"),
        ("weight", "1E+2"),
        ("number", str(-(2**63))),
    ],
)
@async_test
async def test_a_turn_that_leaves_a_value_with_a_place_is_kept(field: str, text: str) -> None:
    async with running(Parcel):
        await Parcel.at("p").put(field, text)
        (row,) = await Parcel.where(**{f"{field}__ne": None})
        assert getattr(row.state, field) is not None
