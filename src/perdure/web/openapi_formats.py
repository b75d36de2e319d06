"""What msgspec's JSON schemas leave out, or say too narrowly, of the text that stands for a value.

It exists because a caller who knows only the document must be able to send what is taken:
- a datetime and a time have a format, also where both kinds, with a zone and without, are taken;
- a Decimal is taken as text and as a number, and not every text is one;
- neither is every text base64, nor every duration one that is taken: months have no length;
- an array in which a value comes twice is taken for a set.

The types are walked beside their schemas, since a schema by itself does not tell a datetime from
any other text. To write all schemas here was rejected: everything else of msgspec's is right.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import inspect

_DECIMAL = {
    "anyOf": [
        {
            "type": "string",
            "format": "decimal",
            "pattern": r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$",
        },
        {"type": "number"},
    ]
}

_DURATION: dict[str, Any] = {
    "pattern": r"^[+-]?P(?!$)([0-9]{1,9}D)?"
    r"(T(?!$)([0-9]{1,6}H)?([0-9]{1,6}M)?([0-9]{1,6}(\.[0-9]{1,6})?S)?)?$",
    "examples": ["PT1H30M"],
}
_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_NULL = {"type": "null"}
_NULL_AS_TEXT = {"type": "string", "enum": ["null"]}
_SINCE_1970 = {"type": "number", "minimum": -62_135_596_800, "maximum": 253_402_300_799}
_SECONDS = {"type": "number", "minimum": -86_399_999_913_600, "maximum": 86_399_999_999_999}
_SPECIAL = frozenset(("format", "enum", "contentEncoding"))
_ABOUT_ALL = ("default", "description", "examples")

Schema = dict[str, Any]


def add_formats(
    types: Iterable[Any], schemas: Iterable[Schema], components: dict[str, Schema]
) -> None:
    """Completes, in place, the schemas of these types and the components they refer to."""
    todo = list(zip(inspect.multi_type_info(types), schemas, strict=True))
    done: set[str] = set()
    while todo:
        info, schema = todo.pop()
        while isinstance(info, inspect.Metadata):
            info = info.type
        if (reference := schema.get("$ref")) is not None:
            if reference in done:
                continue
            done.add(reference)
            schema = components[reference.rpartition("/")[2]]
        if isinstance(info, inspect.DateTimeType) and info.tz is not False:
            schema["format"] = "date-time"
        elif isinstance(info, inspect.TimeType) and info.tz is not False:
            schema["format"] = "time"
        elif isinstance(info, inspect.DecimalType):
            del schema["type"], schema["format"]
            schema |= _DECIMAL
        elif isinstance(info, inspect.TimeDeltaType):
            del schema["format"]  # that one has no sign, and has months
            schema |= _DURATION
        elif isinstance(info, inspect.BytesType | inspect.ByteArrayType):
            schema["pattern"] = _BASE64
        else:
            schema.pop("uniqueItems", None)
            todo.extend(_parts(info, schema))


def as_text(schema: Schema) -> Schema:
    """The schema of what is sent as text: the word `null` is null, except where any text is taken;
    points in time and durations may be numbers of seconds."""
    choices = [dict(choice) for choice in schema.get("anyOf", (schema,))]
    is_nullable = _NULL in choices
    if is_nullable:
        choices.remove(_NULL)
        if not any(map(_is_any_text, choices)):
            choices.append(_NULL_AS_TEXT)
    if any(choice.get("format") == "date-time" for choice in choices):
        choices.append(_SINCE_1970)
    if any(choice.get("pattern") == _DURATION["pattern"] for choice in choices):
        choices.append(_SECONDS)
    if len(choices) == len(schema.get("anyOf", (schema,))) and not is_nullable:
        return schema
    rest = {name: schema[name] for name in _ABOUT_ALL if schema.get(name) is not None}
    return choices[0] | rest if len(choices) == 1 else {"anyOf": choices} | rest


def _parts(info: inspect.Type, schema: Schema) -> Iterator[tuple[inspect.Type, Schema]]:
    """The types that a type is made of, each with the schema within the schema."""
    if isinstance(info, inspect.CollectionType):
        if "items" in schema:
            yield info.item_type, schema["items"]
    elif isinstance(info, inspect.TupleType):
        yield from zip(info.item_types, schema.get("prefixItems", ()), strict=True)
    elif isinstance(info, inspect.DictType):
        if "additionalProperties" in schema:
            yield info.value_type, schema["additionalProperties"]
    elif isinstance(info, inspect.UnionType):
        yield from _choices(info, schema)
    elif isinstance(
        info,
        inspect.StructType | inspect.TypedDictType | inspect.DataclassType | inspect.NamedTupleType,
    ):
        properties = schema.get("properties")
        # a tag comes first
        listed = schema.get("prefixItems", [])[-len(info.fields) :]
        for number, field in enumerate(info.fields):
            yield field.type, properties[field.encode_name] if properties else listed[number]


def _choices(info: inspect.UnionType, schema: Schema) -> Iterator[tuple[inspect.Type, Schema]]:
    """Those of a union, in msgspec's order: what is no Struct, the Structs, and None."""
    structs: list[inspect.Type] = []
    others: list[inspect.Type] = []
    for choice in info.types:
        bare = choice
        while isinstance(bare, inspect.Metadata):
            bare = bare.type
        if not isinstance(bare, inspect.NoneType):
            is_object = isinstance(bare, inspect.StructType) and not bare.array_like
            (structs if is_object else others).append(choice)
    choices = schema["anyOf"]
    yield from zip(others, choices, strict=False)
    if structs:
        # several stand in an `anyOf` of their own, unless there is nothing else
        place = choices if "discriminator" in schema else choices[len(others) :]
        yield from zip(structs, place[0].get("anyOf", place), strict=False)


def _is_any_text(schema: Schema) -> bool:
    special = schema.get("pattern") == _DURATION["pattern"] or not _SPECIAL.isdisjoint(schema)
    return schema.get("type") == "string" and not special
