"""Which fields of an actor class can be searched by: the markers, and what is compiled from them.

    email: Annotated[str | None, unique] = None
    placed_at: Annotated[datetime | None, indexed] = None

An indexed field must have one order, the same in Python, in JSON and in the database. That is why
only the types in `_KINDS` can be indexed, and why some of their values are refused: a datetime that
is not in UTC sorts by its digits and not by its moment. Bringing such values into UTC without a
word was rejected: a field would read back as something else than was put there.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from inspect import formatannotation
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import msgspec
import msgspec.inspect as shapes

from perdure.base.codec import decoder, encode
from perdure.base.errors import BadArgumentsError, DefinitionError, UnencodableError
from perdure.store.api import IndexedField

if TYPE_CHECKING:
    from perdure.actor.model import Actor


class IndexMarker(msgspec.Struct, frozen=True):
    """What `indexed` and `unique` are; write those."""

    is_unique: bool


indexed = IndexMarker(is_unique=False)
unique = IndexMarker(is_unique=True)


class Index(msgspec.Struct, frozen=True):
    """One searchable field of a class."""

    name: str  # in Python; `field.name` is the one in JSON
    field: IndexedField
    to_json: Callable[[Any], Any]
    """A value to search for, as the state's JSON would hold it; raises BadArgumentsError."""
    fault: Callable[[Any], str | None] | None
    """Why this value cannot be stored in an indexed field, or None."""


Check = Callable[["Actor"], None]


def compile_indexes(actor_class: "type[Actor]") -> dict[str, Index]:
    """The searchable fields of a class by name; raises DefinitionError."""
    indexes: dict[str, Index] = {}
    for field in msgspec.structs.fields(actor_class):
        markers = list(_markers(field.type))
        if markers:
            is_unique = any(marker.is_unique for marker in markers)
            label = f"{actor_class.__name__}.{field.name}"
            if field.encode_name == "key":
                raise DefinitionError(f"{label}: an indexed field cannot be renamed to `key`")
            index = _index(label, field.name, field.encode_name, field.type, is_unique)
            indexes[field.name] = index
    if indexes and actor_class.__struct_config__.omit_defaults:
        raise DefinitionError(
            f"{actor_class.__name__} has indexed fields, which the store must find in its JSON: "
            "leave out `omit_defaults`"
        )
    return indexes


def compile_check(actor_class: "type[Actor]", indexes: Sequence[Index]) -> Check | None:
    """What must hold of a state beyond its types, as a function that raises UnencodableError.

    None where all values of the indexed fields' types have their place in the order. Raises
    DefinitionError when the defaults do not pass.
    """
    faults = [(index.name, index.fault) for index in indexes if index.fault is not None]
    if not faults:
        return None
    class_name = actor_class.__name__

    def check(actor: "Actor") -> None:
        for name, fault in faults:
            value = getattr(actor, name)
            if value is not None and (why := fault(value)) is not None:
                raise UnencodableError(f"{class_name}.{name} is indexed: {why}")

    try:
        check(actor_class())
    except UnencodableError as error:
        raise DefinitionError(f"{error} (this is about its default)") from None
    return check


def declaration(actor_class: "type[Actor]", name: str, marker: str) -> str:
    """How a field would be declared with a marker, for hints in messages."""
    wanted = next(f.type for f in msgspec.structs.fields(actor_class) if f.name == name)
    if get_origin(wanted) is Annotated:
        wanted = get_args(wanted)[0]
    text = formatannotation(wanted, actor_class.__module__)
    return f"`{name}: Annotated[{text}, {marker}] = …`"


def _markers(annotation: Any) -> Iterator[IndexMarker]:
    """All markers in an annotation, also deep inside, where they are then refused."""
    if isinstance(annotation, IndexMarker):
        yield annotation
    if get_origin(annotation) is Annotated:
        for extra in annotation.__metadata__:
            yield from _markers(extra)
    for argument in get_args(annotation):
        if not isinstance(argument, IndexMarker):
            yield from _markers(argument)


# -- types ---------------------------------------------------------------------------------------

_Kind = Literal["plain", "time", "decimal"]

# The types that have one order, by what msgspec calls them: how their JSON is ordered, and with
# what a value to search for is read. None: with the field's own annotation. The others are not
# read with it, since bounds such as `Meta(ge=0)` are not for the values of a comparison.
_KINDS: dict[type[shapes.Type], tuple[_Kind, Any]] = {
    shapes.StrType: ("plain", str),
    shapes.IntType: ("plain", int),
    shapes.FloatType: ("plain", float),
    shapes.BoolType: ("plain", bool),
    shapes.EnumType: ("plain", None),
    shapes.LiteralType: ("plain", None),
    shapes.UUIDType: ("plain", None),
    shapes.DateType: ("plain", date),
    shapes.TimeType: ("plain", time),
    shapes.DateTimeType: ("time", datetime),
    shapes.DecimalType: ("decimal", Decimal),
}


def _index(label: str, name: str, encode_name: str, annotation: Any, /, is_unique: bool) -> Index:
    shape = _without_none(shapes.type_info(annotation))
    known = _KINDS.get(type(shape))
    if known is None or not _has_one_type(shape):
        raise DefinitionError(
            f"{label}: {formatannotation(annotation)} cannot be indexed; str, int, float, bool, "
            "Decimal, datetime, date, time, UUID, an Enum, a Literal of one type, and these with "
            "`| None` can"
        )
    kind, wanted = known
    fault = _FAULTS.get(type(shape))
    return Index(
        name=name,
        field=IndexedField(encode_name, kind, is_unique),
        to_json=_converter(name, annotation if wanted is None else wanted, fault),
        fault=fault,
    )


def _without_none(shape: shapes.Type) -> shapes.Type:
    """The type itself, bare of `Meta` and of `| None`."""
    if isinstance(shape, shapes.Metadata):
        return _without_none(shape.type)
    if isinstance(shape, shapes.UnionType):
        others = [member for member in shape.types if not isinstance(member, shapes.NoneType)]
        if len(others) == 1:
            return _without_none(others[0])
    return shape


def _has_one_type(shape: shapes.Type) -> bool:
    """False for a Literal that mixes texts and numbers: they have no order in Python. Enums that
    do so cannot be read from JSON in the first place."""
    if isinstance(shape, shapes.LiteralType):
        return len({type(value) for value in shape.values if value is not None}) == 1
    return True


# -- values --------------------------------------------------------------------------------------


def _integer_fault(value: Any) -> str | None:
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return None
    return "the number does not fit into 64 bits with a sign"


def _moment_fault(value: Any) -> str | None:
    if isinstance(value, datetime) and value.utcoffset() == timedelta(0):
        return None
    return "the time must be in UTC and say so, like `datetime.now(UTC)`"


def _time_of_day_fault(value: Any) -> str | None:
    if isinstance(value, time) and value.tzinfo is None:
        return None
    return "the time of day must be without a time zone"


def _decimal_fault(value: Any) -> str | None:
    if isinstance(value, Decimal) and value.is_finite():
        return None
    return "the number must be finite"


_FAULTS: dict[type[shapes.Type], Callable[[Any], str | None]] = {
    shapes.IntType: _integer_fault,
    shapes.DateTimeType: _moment_fault,
    shapes.TimeType: _time_of_day_fault,
    shapes.DecimalType: _decimal_fault,
}

_from_json = decoder(Any).decode


def _converter(
    name: str, wanted: Any, fault: Callable[[Any], str | None] | None
) -> Callable[[Any], Any]:
    """By way of JSON, as arguments go: both an enum's member and its value are understood."""
    decode = decoder(wanted).decode

    def to_json(value: Any) -> Any:
        if value is None:
            return None
        try:
            typed = decode(encode(value))
            if isinstance(typed, datetime) and typed.tzinfo is not None:
                typed = typed.astimezone(UTC)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as bad:
            raise BadArgumentsError(f"{name}: {bad}", name) from None
        if fault is not None and (why := fault(typed)) is not None:
            raise BadArgumentsError(f"{name}: {why}", name)
        return _from_json(encode(typed))

    return to_json
