"""Types in TypeScript: expressions, and declarations of those that have a name.

Values stay as JSON has them, so nothing is converted and nothing can be lost on the way: dates,
decimals and the like are texts, under names that say what is in them.

A field with a default may be left out of what is sent, but is always in what comes back. So a class
with such fields has two forms: `Line` for what is received, `LineInput` for what is sent.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import inspect as types

from perdure.client.python_types import doc_of
from perdure.web.type_names import Named, free_name, named_types, parts_of, unique_names

_PLAIN: dict[type[types.Type], str] = {
    types.NoneType: "null",
    types.BoolType: "boolean",
    types.IntType: "number",
    types.FloatType: "number",
    types.StrType: "string",
    types.BytesType: "Base64",
    types.ByteArrayType: "Base64",
    types.MemoryViewType: "Base64",
    types.DateTimeType: "IsoDateTime",
    types.DateType: "IsoDate",
    types.TimeType: "IsoTime",
    types.TimeDeltaType: "IsoDuration",
    types.UUIDType: "Uuid",
    types.DecimalType: "DecimalText",
}
# words of the language, and globals that the copied text is made of
_WORDS = """
    abstract any as async await boolean break case catch class const constructor continue debugger
    declare default delete do else enum export extends false finally for from function get if
    implements import in infer instanceof interface is keyof let module namespace never new null
    number object of override package private protected public readonly require return satisfies
    set static string super switch symbol this throw true try type typeof undefined unique unknown
    using var void while with yield arguments eval

    AbortController Array AsyncGenerator Date Error Infinity JSON Map Math NaN Number Object Promise
    RangeError Readonly Record Response Set String TextDecoder TypeError Uint8Array URLSearchParams
    clearTimeout crypto encodeURIComponent fetch globalThis location performance setTimeout
"""
RESERVED = frozenset(_WORDS.split())
_IDENTIFIER = re.compile(r"[^\W\d][\w$]*")


class TypescriptTypes:
    """The names that types have in one module, and what is written with them.

    Args:
        taken: names that the module has for other things.
        sent: the types of all arguments.
        received: the types of all results.
    """

    def __init__(
        self,
        named: dict[Any, Named],
        taken: Iterable[str],
        sent: Iterable[types.Type],
        received: Iterable[types.Type],
    ) -> None:
        self._named = named
        self.names = unique_names(named, but={*taken, *RESERVED})
        self._two_forms = _with_two_forms(named)
        self._sent, self._received = named_types(sent), named_types(received)
        in_use = {*self.names.values(), *taken}
        self._input_names = {
            cls: free_name(f"{self.names[cls]}Input", in_use) for cls in self._two_forms
        }
        self.all_names = {*self.names.values(), *self._input_names.values()}

    def expression(self, described: types.Type, *, sent: bool) -> str:
        """The type as it is sent, or as it is received."""
        if isinstance(described, types.Metadata):
            return self.expression(described.type, sent=sent)
        if isinstance(described, Named):
            names = self._input_names if sent and described.cls in self._two_forms else self.names
            return names[described.cls]
        if (name := _PLAIN.get(type(described))) is not None:
            return name
        return self._composed(described, sent=sent)

    def _composed(self, described: types.Type, *, sent: bool) -> str:
        match described:
            case types.CollectionType():
                return f"Array<{self.expression(described.item_type, sent=sent)}>"
            case types.TupleType():
                items = [self.expression(one, sent=sent) for one in described.item_types]
                return f"[{', '.join(items)}]"
            case types.DictType():
                return f"Record<string, {self.expression(described.value_type, sent=sent)}>"
            case types.UnionType():
                choices = [self.expression(one, sent=sent) for one in described.types]
                return " | ".join(dict.fromkeys(choices))
            case types.LiteralType():
                return " | ".join(map(constant, described.values))
        return "unknown"

    # -- declarations ----------------------------------------------------------------------------

    def declarations(self) -> list[str]:
        """The declaration of each type, in the forms in which it is used."""
        told = []
        for cls, described in self._named.items():
            has_two = cls in self._two_forms
            if not has_two or cls in self._received:
                told.append(self._declaration(self.names[cls], described, sent=False))
            if has_two and cls in self._sent:
                told.append(self._declaration(self._input_names[cls], described, sent=True))
        return told

    def _declaration(self, name: str, described: Named, *, sent: bool) -> str:
        lines = documented(doc_of(described.cls))
        if isinstance(described, types.EnumType):
            members = [f"  {member(one.name)}: {constant(one.value)}," for one in described.cls]
            lines += [f"export const {name} = {{", *members, "} as const;"]
            return "\n".join(
                [*lines, f"export type {name} = (typeof {name})[keyof typeof {name}];"]
            )
        fields = [self._field(field, described, sent=sent) for field in described.fields]
        tag = described.tag_field if isinstance(described, types.StructType) else None
        if tag is not None and isinstance(described, types.StructType):
            name_of_tag = "tag" if described.array_like else member(tag)
            fields.insert(0, f"{name_of_tag}: {constant(described.tag)}")
        if _is_array(described):
            return "\n".join([*lines, f"export type {name} = [{', '.join(fields)}];"])
        return "\n".join(
            [*lines, f"export interface {name} {{", *(f"  {one};" for one in fields), "}"]
        )

    def _field(self, field: types.Field, owner: Named, *, sent: bool) -> str:
        is_optional = not field.required and (sent or _may_be_missing(field, owner))
        name = _label(field.name) if _is_array(owner) else member(field.encode_name)
        return f"{name}{'?' if is_optional else ''}: {self.expression(field.type, sent=sent)}"


def constant(value: Any) -> str:
    """A text, number, boolean or null."""
    return json.dumps(value, ensure_ascii=False)


def member(name: str) -> str:
    """A name as it stands in an object."""
    return name if _IDENTIFIER.fullmatch(name) else constant(name)


def documented(text: str, indent: str = "") -> list[str]:
    """A comment for documentation, as lines; none if there is no text."""
    lines = text.replace("*/", "*\\/").splitlines()
    if len(lines) <= 1:
        return [f"{indent}/** {line} */" for line in lines]
    body = [f"{indent} * {line}".rstrip() for line in lines]
    return [f"{indent}/**", *body, f"{indent} */"]


def _label(name: str) -> str:
    """The name of an element of a tuple, which can be any identifier that is no keyword."""
    return f"{name}_" if name in RESERVED or not _IDENTIFIER.fullmatch(name) else name


def _is_array(described: Named) -> bool:
    is_array_like = isinstance(described, types.StructType) and described.array_like
    return is_array_like or isinstance(described, types.NamedTupleType)


def _may_be_missing(field: types.Field, owner: Named) -> bool:
    """True if a field that is not required can be missing in what the server sends."""
    origin = getattr(owner.cls, "__origin__", owner.cls)
    config = getattr(origin, "__struct_config__", None)
    omits = config is not None and config.omit_defaults and not _is_array(owner)
    none = msgspec.NODEFAULT
    # msgspec lets an attribute of a dataclass unset that is a default of its class; it is not sent
    omits = omits or (isinstance(owner, types.DataclassType) and field.default is not none)
    return omits or (field.default is none and field.default_factory is none)


def _with_two_forms(named: dict[Any, Named]) -> set[Any]:
    """The classes that are sent in another form than they are received, or hold one that is."""
    found = {
        cls
        for cls, described in named.items()
        if not isinstance(described, types.EnumType)
        for field in described.fields
        if not field.required and not _may_be_missing(field, described)
    }
    size = -1
    while size != len(found):
        size = len(found)
        found |= {cls for cls, one in named.items() if found.intersection(_held_by(one))}
    return found


def _held_by(described: types.Type) -> set[Any]:
    """The classes that this type is made of, without those within these."""
    found: set[Any] = set()
    waiting = parts_of(described)
    while waiting:
        one = waiting.pop()
        if isinstance(one, Named):
            found.add(one.cls)
        else:
            waiting.extend(parts_of(one))
    return found
