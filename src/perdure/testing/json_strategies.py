"""Strategies for JSON values that fit a type, with all that `msgspec.Meta` asks of them.

By way of `msgspec.inspect`, and not `st.from_type`: that one knows neither Structs nor Meta, and
would call methods with what the actor refuses at its door.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect as types

Strategy = st.SearchStrategy[Any]

_INT_MAX = (1 << 63) - 1
_ITEMS_MAX = 5  # of a list or object: longer ones are slow and find little


def json_values(wanted: Any) -> Strategy:
    """Values that decode to `wanted`; raises TypeError for what JSON has no rule for."""
    return _strategy(types.type_info(wanted), {})


def _strategy(info: types.Type, known: dict[Any, Strategy]) -> Strategy:
    make = _MAKERS.get(type(info))
    if make is None:
        raise TypeError(f"no values are known for {info!r}; give a strategy in `values`")
    return make(info, known)


def _integers(info: Any, _known: Any) -> Strategy:
    low = info.ge if info.ge is not None else info.gt + 1 if info.gt is not None else -_INT_MAX
    high = info.le if info.le is not None else info.lt - 1 if info.lt is not None else _INT_MAX
    step = info.multiple_of or 1
    return st.integers(-(-low // step), high // step).map(lambda number: number * step)


def _floats(info: Any, _known: Any) -> Strategy:
    low, high = (info.ge, info.gt), (info.le, info.lt)
    return st.floats(
        min_value=next((bound for bound in low if bound is not None), None),
        max_value=next((bound for bound in high if bound is not None), None),
        exclude_min=info.gt is not None,
        exclude_max=info.lt is not None,
        allow_nan=False,
        allow_infinity=False,
    )


def _texts(info: Any, _known: Any) -> Strategy:
    low, high = info.min_length or 0, info.max_length
    if info.pattern is None:
        return st.text(min_size=low, max_size=high)
    return st.from_regex(info.pattern).filter(
        lambda text: len(text) >= low and (high is None or len(text) <= high)
    )


def _lists(info: Any, known: dict[Any, Strategy]) -> Strategy:
    low = info.min_length or 0
    high = info.max_length if info.max_length is not None else low + _ITEMS_MAX
    unique = isinstance(info, types.SetType | types.FrozenSetType)
    return st.lists(
        _strategy(info.item_type, known),
        min_size=low,
        max_size=min(high, low + _ITEMS_MAX),
        unique_by=msgspec.json.encode if unique else None,
    )


def _tuples(info: Any, known: dict[Any, Strategy]) -> Strategy:
    return st.tuples(*[_strategy(item, known) for item in info.item_types]).map(list)


def _dicts(info: Any, known: dict[Any, Strategy]) -> Strategy:
    low = info.min_length or 0
    high = info.max_length if info.max_length is not None else low + _ITEMS_MAX
    keys = _strategy(info.key_type, known)
    return st.dictionaries(
        keys.map(lambda key: key if isinstance(key, str) else msgspec.json.encode(key).decode()),
        _strategy(info.value_type, known),
        min_size=low,
        max_size=min(high, low + _ITEMS_MAX),
    )


def _structs(info: Any, known: dict[Any, Strategy]) -> Strategy:
    if info.cls in known:  # it holds itself
        return known[info.cls]
    known[info.cls] = st.deferred(lambda: made)
    required: dict[str, Strategy] = {}
    optional: dict[str, Strategy] = {}
    for field in info.fields:
        strategy = _strategy(field.type, known)
        (required if field.required else optional)[field.encode_name] = strategy
    tag = {} if getattr(info, "tag", None) is None else {info.tag_field: info.tag}
    made: Strategy
    if getattr(info, "array_like", False):
        elements = [*map(st.just, tag.values()), *required.values(), *optional.values()]
        made = st.tuples(*elements).map(list)
    else:
        members = st.fixed_dictionaries(required, optional=optional)
        made = members.map(lambda given: {**tag, **given})
    return made


def _unions(info: Any, known: dict[Any, Strategy]) -> Strategy:
    return st.one_of([_strategy(one, known) for one in info.types])


def _as_json(values: Callable[[], Strategy]) -> Callable[[Any, Any], Strategy]:
    """Of a type that is a text in JSON."""
    return lambda _info, _known: values().map(lambda value: msgspec.to_builtins(value))


def _datetimes(info: Any, _known: Any) -> Strategy:
    zones = {None: st.none() | st.timezones(), True: st.timezones(), False: st.none()}[info.tz]
    return st.datetimes(timezones=zones, allow_imaginary=False).map(msgspec.to_builtins)


def _constant(_info: Any, _known: Any) -> Strategy:
    return st.none()


_scalars = st.none() | st.booleans() | st.integers(-_INT_MAX, _INT_MAX) | st.text()

_MAKERS: dict[type, Callable[[Any, Any], Strategy]] = {
    types.Metadata: lambda info, known: _strategy(info.type, known),
    types.AnyType: lambda _info, _known: _scalars,
    types.NoneType: _constant,
    types.BoolType: lambda _info, _known: st.booleans(),
    types.IntType: _integers,
    types.FloatType: _floats,
    types.StrType: _texts,
    types.ListType: _lists,
    types.SetType: _lists,
    types.FrozenSetType: _lists,
    types.VarTupleType: _lists,
    types.TupleType: _tuples,
    types.DictType: _dicts,
    types.StructType: _structs,
    types.DataclassType: _structs,
    types.TypedDictType: _structs,
    types.NamedTupleType: lambda info, known: st.tuples(
        *[_strategy(field.type, known) for field in info.fields]
    ).map(list),
    types.UnionType: _unions,
    types.LiteralType: lambda info, _known: st.sampled_from(info.values),
    types.EnumType: lambda info, _known: st.sampled_from(list(info.cls)).map(msgspec.to_builtins),
    types.DecimalType: _as_json(lambda: st.decimals(allow_nan=False, allow_infinity=False)),
    types.DateTimeType: _datetimes,
    types.DateType: _as_json(st.dates),
    types.TimeType: _as_json(st.times),
    types.TimeDeltaType: _as_json(st.timedeltas),
    types.UUIDType: _as_json(st.uuids),
    types.BytesType: _as_json(st.binary),
}
