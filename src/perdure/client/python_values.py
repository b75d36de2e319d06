"""Values as Python has them, and as JSON has them, by the types in annotations.

Every generated client in Python holds this word for word; so it needs nothing but Python. The rules
are msgspec's, which the server follows: ISO 8601 for dates, times and durations, base64 for bytes,
texts for decimals, UUIDs and the keys of objects, arrays for sets and tuples.
"""

import base64
import dataclasses
import datetime
import decimal
import enum
import json
import re
import types
import typing
import uuid
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from perdure.client.unset import UNSET

_DURATION = re.compile(
    r"(-?)P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)(?:\.(\d+))?S)?)?"
)

# -- to JSON -------------------------------------------------------------------------------------


def to_json(value: object) -> bytes:
    """The value as JSON; raises ValueError or TypeError for what JSON cannot hold."""
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()


def plain(value: Any) -> Any:
    """The value, made of nothing but what JSON has."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        members = value.items()
        return {_key_text(name): plain(inner) for name, inner in members if inner is not UNSET}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain_object(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return _scalar_text(value)


def _plain_object(value: Any) -> Any:
    members = {
        field.metadata.get("name", field.name): plain(inner)
        for field in dataclasses.fields(value)
        if (inner := getattr(value, field.name)) is not UNSET
    }
    tag = getattr(value, "__tag__", None)
    if getattr(value, "__is_array__", False):
        return [*([] if tag is None else [tag[1]]), *members.values()]
    return members if tag is None else {tag[0]: tag[1], **members}


def _scalar_text(value: object) -> str:
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        size = abs(value)
        sign = "-" if value < datetime.timedelta(0) else ""
        return f"{sign}P{size.days}DT{size.seconds}.{size.microseconds:06}S"
    if isinstance(value, uuid.UUID | decimal.Decimal):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be sent")


def _key_text(key: object) -> str:
    made = plain(key)
    return made if isinstance(made, str) else json.dumps(made)


# -- from JSON -----------------------------------------------------------------------------------


def from_json(data: Any, hint: Any) -> Any:
    """The value of this type; raises KeyError, TypeError or ValueError if the data do not fit."""
    return _reader(hint)(data)


@cache  # once for each type; those within a class are found when it is first read
def _reader(hint: Any) -> Callable[[Any], Any]:
    origin = typing.get_origin(hint)
    if origin in {typing.Union, types.UnionType}:
        return _union_reader(typing.get_args(hint))
    if origin is typing.Literal:
        return _literal_reader(typing.get_args(hint))
    if origin is not None:
        return _collection_reader(origin, typing.get_args(hint))
    if hint in _SCALARS:
        return _SCALARS[hint]
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint
    if typing.is_typeddict(hint):
        return lambda data: _read_members(hint, data)
    if isinstance(hint, type) and issubclass(hint, tuple):
        return lambda data: hint(*map(from_json, data, _hints_of(hint).values()))
    if dataclasses.is_dataclass(hint):
        return lambda data: _read_object(hint, data)
    return lambda data: data


def _exactly(*kinds: type) -> Callable[[Any], Any]:
    def read(data: Any) -> Any:
        if type(data) not in kinds:
            raise TypeError(f"{type(data).__name__} instead of {kinds[0].__name__}")
        return data

    return read


def _read_duration(data: str) -> datetime.timedelta:
    found = _DURATION.fullmatch(data)
    if found is None:
        raise ValueError(f"{data!r} is no duration")
    sign, weeks, days, hours, minutes, seconds, fraction = found.groups(default="0")
    size = datetime.timedelta(
        weeks=int(weeks),
        days=int(days),
        hours=int(hours),
        minutes=int(minutes),
        seconds=int(seconds),
        microseconds=int(f"{fraction:0<6.6}"),
    )
    return -size if sign == "-" else size


_SCALARS: dict[Any, Callable[[Any], Any]] = {
    None: _exactly(type(None)),
    type(None): _exactly(type(None)),
    bool: _exactly(bool),
    int: _exactly(int),
    str: _exactly(str),
    float: lambda data: float(_exactly(float, int)(data)),
    bytes: base64.b64decode,
    datetime.datetime: datetime.datetime.fromisoformat,
    datetime.date: datetime.date.fromisoformat,
    datetime.time: datetime.time.fromisoformat,
    datetime.timedelta: _read_duration,
    uuid.UUID: uuid.UUID,
    decimal.Decimal: lambda data: decimal.Decimal(str(data)),
}


def _collection_reader(origin: Any, arguments: tuple[Any, ...]) -> Callable[[Any], Any]:
    readers = [_reader(one) for one in arguments if one is not ...]
    if origin is dict:
        read_key = _key_reader(arguments[0])
        return lambda data: {read_key(key): readers[1](value) for key, value in data.items()}
    if origin is tuple and ... not in arguments:
        return lambda data: tuple(read(value) for read, value in zip(readers, data, strict=True))
    return lambda data: origin(map(readers[0], _exactly(list)(data)))


def _key_reader(hint: Any) -> Callable[[str], Any]:
    """Reads the key of an object: a text, which may stand for a number."""
    read = _reader(hint)
    if hint is str or hint is Any:
        return read

    def read_key(key: str) -> Any:
        try:
            return read(key)
        except (KeyError, TypeError, ValueError):
            return read(json.loads(key))

    return read_key


def _literal_reader(choices: tuple[Any, ...]) -> Callable[[Any], Any]:
    def read(data: Any) -> Any:
        if not any(data == one and type(data) is type(one) for one in choices):
            raise ValueError(f"{data!r} is none of {choices}")
        return data

    return read


def _union_reader(choices: tuple[Any, ...]) -> Callable[[Any], Any]:
    """What JSON has tells which one it is; for several classes, their tag does."""
    by_kind: dict[type, Callable[[Any], Any]] = {}
    by_tag: dict[Any, Callable[[Any], Any]] = {}
    tag_name: Any = None
    for one in sorted(choices, key=_breadth):
        tag = getattr(one, "__tag__", None)
        if tag is not None and not getattr(one, "__is_array__", False):
            tag_name, by_tag[tag[1]] = tag[0], _reader(one)
        for kind in _kinds_of(one):
            by_kind.setdefault(kind, _reader(one))

    def read(data: Any) -> Any:
        if isinstance(data, dict) and tag_name in data:
            return by_tag[data[tag_name]](data)
        return by_kind[type(data)](data)

    return read


def _breadth(hint: Any) -> int:
    """Sorts a choice behind those that know better what to do with the same JSON."""
    if hint is float or hint is decimal.Decimal:
        return 1
    return 2 if typing.get_origin(hint) is typing.Literal else 0


def _kinds_of(hint: Any) -> tuple[type, ...]:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return tuple(type(one) for one in typing.get_args(hint))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return tuple(type(one.value) for one in hint)
    if hint in {bool, int, str, type(None)}:
        return (hint,)
    if hint is float:
        return (float, int)
    if hint is decimal.Decimal:
        return (str, float, int)
    if origin is dict or typing.is_typeddict(hint):
        return (dict,)
    if hint is Any:
        return (bool, int, str, type(None), float, list, dict)
    if dataclasses.is_dataclass(hint):
        return (list,) if getattr(hint, "__is_array__", False) else (dict,)
    is_array = origin is not None or (isinstance(hint, type) and issubclass(hint, tuple))
    return (list,) if is_array else (str,)


@cache
def _hints_of(one: Any) -> dict[str, Any]:
    return typing.get_type_hints(one)


def _read_members(wanted: Any, data: Any) -> dict[str, Any]:
    hints = _hints_of(wanted)
    missing = wanted.__required_keys__ - data.keys()
    if missing:
        raise KeyError(*sorted(missing))
    return {name: from_json(data[name], hint) for name, hint in hints.items() if name in data}


def _read_object(wanted: Any, data: Any) -> Any:
    hints = _hints_of(wanted)
    fields = dataclasses.fields(wanted)
    if getattr(wanted, "__is_array__", False):
        skipped = 0 if getattr(wanted, "__tag__", None) is None else 1
        found = dict(zip([field.name for field in fields], data[skipped:], strict=False))
    else:
        names = {field.name: field.metadata.get("name", field.name) for field in fields}
        found = {name: data[alias] for name, alias in names.items() if alias in data}
    return wanted(**{name: from_json(value, hints[name]) for name, value in found.items()})
