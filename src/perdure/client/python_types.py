"""Types in Python: annotations, and declarations of those that have a name.

Classes become dataclasses rather than TypedDicts: dates, decimals and the like come as what they
are, fields have their defaults, attributes read better than keys, and a union can be told apart.
What is a TypedDict in the app stays one, since its keys may be missing, or be any text.

Where a name is a keyword, or means something else there, it gets a `_`; the wire keeps the app's.
"""

import builtins
import datetime
import decimal
import enum
import inspect
import json
import keyword
import math
import re
import uuid
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import inspect as types

from perdure.web.type_names import Named, unique_names

_PLAIN: dict[type[types.Type], str] = {
    types.NoneType: "None",
    types.BoolType: "bool",
    types.IntType: "int",
    types.FloatType: "float",
    types.StrType: "str",
    types.BytesType: "bytes",
    types.ByteArrayType: "bytes",
    types.MemoryViewType: "bytes",
    types.DateTimeType: "datetime.datetime",
    types.DateType: "datetime.date",
    types.TimeType: "datetime.time",
    types.TimeDeltaType: "datetime.timedelta",
    types.UUIDType: "uuid.UUID",
    types.DecimalType: "decimal.Decimal",
}
_COLLECTIONS: dict[type[types.Type], str] = {
    types.ListType: "list",
    types.SetType: "set",
    types.FrozenSetType: "frozenset",
}
_BUILTINS = frozenset(
    ("bool", "int", "float", "str", "bytes", "list", "set", "frozenset", "tuple", "dict")
)
_KEYWORDS = frozenset(keyword.kwlist)
_EMPTY = {list: "list", dict: "dict", set: "set", frozenset: "frozenset", bytearray: "bytes"}
_MODULES = ("builtins", "dataclasses", "datetime", "decimal", "enum", "uuid", "typing")
# what annotations and bodies of methods are made of, and so cannot name an argument or a field
_SPOKEN_FOR = frozenset((*_MODULES, "Any", "AsyncIterator", "UNSET", "Unset", "self", "result"))


class PythonTypes:
    """The names that types have in one module, and what is written with them.

    Args:
        taken: names that the module has for other things.
    """

    def __init__(self, named: dict[Any, Named], taken: Iterable[str]) -> None:
        reserved = {*taken, *_KEYWORDS, *dir(builtins), *_SPOKEN_FOR}
        self._named = named
        self.names = unique_names(named, but=reserved)
        self._known = {*self.names.values(), *_SPOKEN_FOR}

    def annotation(self, described: types.Type, hidden: Iterable[str] = ()) -> str:
        """The type as an annotation.

        Args:
            hidden: names that mean something else where it stands, as within a class that has a
                method called `list`.
        """
        text = self._annotation(described)
        for name in _BUILTINS.intersection(hidden):
            text = _with_module(text, name)
        return text

    def _annotation(self, described: types.Type) -> str:
        if isinstance(described, types.Metadata):
            return self._annotation(described.type)
        if isinstance(described, Named):
            return self.names[described.cls]
        if (name := _PLAIN.get(type(described))) is not None:
            return name
        return self._composed(described)

    def _composed(self, described: types.Type) -> str:
        match described:
            case types.VarTupleType():
                return f"tuple[{self._annotation(described.item_type)}, ...]"
            case types.CollectionType():
                name = _COLLECTIONS[type(described)]
                return f"{name}[{self._annotation(described.item_type)}]"
            case types.TupleType():
                return f"tuple[{', '.join(map(self._annotation, described.item_types)) or '()'}]"
            case types.DictType():
                key, value = described.key_type, described.value_type
                return f"dict[{self._annotation(key)}, {self._annotation(value)}]"
            case types.UnionType():
                return " | ".join(dict.fromkeys(map(self._annotation, described.types)))
            case types.LiteralType():
                values = [_constant(one) for one in described.values if one is not None]
                parts = [f"typing.Literal[{', '.join(values)}]"] if values else []
                return " | ".join([*parts, *(["None"] if None in described.values else [])])
        return "Any"

    def local_name(self, name: str, taken: Iterable[str] = ()) -> str:
        """What an argument or a field is called."""
        name = "".join(one if f"a{one}".isidentifier() else "_" for one in name)
        name = name if name.isidentifier() else f"field_{name}"
        while name in _KEYWORDS or name in self._known or name in taken:
            name += "_"
        return name

    def argument_name(self, name: str) -> str:
        """What an argument of a method is called, in which types are written too."""
        return self.local_name(name, _BUILTINS)

    def default(self, field: Any) -> str | None:
        """An expression for the default of an argument or a field; None if none can be written."""
        if field.default_factory is not msgspec.NODEFAULT:
            empty = _EMPTY.get(field.default_factory)
            return None if empty is None else f"builtins.{empty}()"
        return self.literal(field.default)

    def literal(self, value: Any) -> str | None:
        """An expression for a value that cannot change; None if it is no such value."""
        if isinstance(value, enum.Enum):
            name = self.names.get(type(value))
            return None if name is None else f"{name}.{self.local_name(value.name)}"
        if type(value) is str:
            return quoted(value)
        if value is None or type(value) in {bool, int, bytes}:
            return repr(value)
        if type(value) is float:
            return repr(value) if math.isfinite(value) else None
        if isinstance(value, decimal.Decimal | uuid.UUID):
            return f"{type(value).__module__}.{type(value).__name__}({quoted(str(value))})"
        if type(value) in {datetime.datetime, datetime.date, datetime.time}:
            return f"datetime.{type(value).__name__}.fromisoformat({quoted(value.isoformat())})"
        if isinstance(value, datetime.timedelta):
            return repr(value)
        if type(value) is tuple:
            parts = [self.literal(one) for one in value]
            return None if None in parts else f"({''.join(f'{part}, ' for part in parts)})"
        return None

    # -- declarations ----------------------------------------------------------------------------

    def declarations(self) -> list[str]:
        """The declaration of each type; enumerations first, since defaults are made of them."""
        ordered = sorted(self._named.values(), key=lambda one: not isinstance(one, types.EnumType))
        return [self._declaration(one) for one in ordered]

    def _declaration(self, described: Named) -> str:
        name = self.names[described.cls]
        match described:
            case types.EnumType():
                return self._enumeration(name, described.cls)
            case types.TypedDictType():
                return self._typed_dict(name, described)
            case types.NamedTupleType():
                lines = [self._field(field, described) for field in described.fields]
                head = f"class {name}(typing.NamedTuple):"
                return "\n".join([head, *documented(doc_of(described.cls)), *lines])
        return self._dataclass(name, described)

    def _enumeration(self, name: str, enumeration: Any) -> str:
        base = "Enum"
        if issubclass(enumeration, int | str):
            base = "IntEnum" if issubclass(enumeration, int) else "StrEnum"
        lines = [f"    {self.local_name(one.name)} = {_constant(one.value)}" for one in enumeration]
        head = f"class {name}(enum.{base}):"
        return "\n".join([head, *documented(doc_of(enumeration)), *lines])

    def _typed_dict(self, name: str, described: types.TypedDictType) -> str:
        lines = [f"# {line}".rstrip() for line in doc_of(described.cls).splitlines()]
        lines += [f"{name} = typing.TypedDict(", f'    "{name}",', "    {"]
        for field in described.fields:
            hint = f'"{self._annotation(field.type)}"'
            hint = hint if field.required else f"typing.NotRequired[{hint}]"
            lines.append(f"        {quoted(field.encode_name)}: {hint},")
        return "\n".join([*lines, "    },", ")"])

    def _dataclass(self, name: str, described: types.StructType | types.DataclassType) -> str:
        options = _dataclass_options(described)
        lines = [f"@dataclasses.dataclass({options})" if options else "@dataclasses.dataclass"]
        lines += [f"class {name}:", *documented(doc_of(described.cls))]
        if isinstance(described, types.StructType):
            if described.tag_field is not None:
                lines.append(
                    f"    __tag__ = ({quoted(described.tag_field)}, {_constant(described.tag)})"
                )
            if described.array_like:
                lines.append("    __is_array__ = True")
        lines += [self._field(field, described) for field in described.fields]
        return "\n".join(lines if len(lines) > 2 else [*lines, "    pass"])

    def _field(self, field: types.Field, owner: Named) -> str:
        assert not isinstance(owner, types.EnumType)
        name = self.local_name(field.name)
        annotation = self.annotation(field.type, hidden=[one.name for one in owner.fields])
        options = []
        if not field.required:
            default = self.default(field)
            if default is None:
                annotation, default = f"{annotation} | Unset", "UNSET"
            is_call = default.startswith("builtins.") and default.endswith("()")
            options.append(
                f"default_factory={default.removesuffix('()')}" if is_call else f"default={default}"
            )
        if name != field.encode_name and not isinstance(owner, types.NamedTupleType):
            options.append(f'metadata={{"name": {quoted(field.encode_name)}}}')
        if not options:
            return f"    {name}: {annotation}"
        if len(options) == 1 and options[0].startswith("default="):
            return f"    {name}: {annotation} = {options[0].removeprefix('default=')}"
        return f"    {name}: {annotation} = dataclasses.field({', '.join(options)})"


def doc_of(cls: Any) -> str:
    """The docstring of a class, if somebody wrote it."""
    origin = getattr(cls, "__origin__", cls)
    text = vars(origin).get("__doc__") or ""
    made = ("An enumeration.", f"{origin.__name__}(")
    return "" if text.startswith(made) else inspect.cleandoc(text)


def documented(text: str, indent: str = "    ") -> list[str]:
    """A docstring as lines, with an empty one behind it; none if there is no text."""
    if not text:
        return []
    text = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    text = f"{text} " if text.endswith('"') else text
    first, *rest = text.splitlines()
    if not rest:
        return [f'{indent}"""{first}"""', ""]
    lines = [f"{indent}{line}".rstrip() for line in rest]
    return [f'{indent}"""{first}', *lines, f'{indent}"""', ""]


def quoted(text: str) -> str:
    """A text as a literal, in the quotes that formatters use."""
    return json.dumps(text, ensure_ascii=False)


def _constant(value: Any) -> str:
    return quoted(value) if isinstance(value, str) else repr(value)


def _dataclass_options(described: types.StructType | types.DataclassType) -> str:
    origin: Any = getattr(described.cls, "__origin__", described.cls)
    is_frozen = (
        origin.__struct_config__.frozen
        if isinstance(described, types.StructType)
        else getattr(getattr(origin, "__dataclass_params__", None), "frozen", False)
    )
    required = [field.required for field in described.fields]
    is_out_of_order = sorted(required, reverse=True) != required
    options = {"frozen": is_frozen, "kw_only": is_out_of_order}
    return ", ".join(f"{name}=True" for name, wanted in options.items() if wanted)


def _with_module(text: str, name: str) -> str:
    """The annotation with `builtins.` before this name, where it is a whole word."""
    return re.sub(rf"(?<![\w.'\"]){name}(?![\w'\"])", f"builtins.{name}", text)
