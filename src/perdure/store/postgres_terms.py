"""What the indexes are made of, and what queries sort by and compare.

The state is of type `json` and not `jsonb`: what was written is what is read, byte for byte, with
its numbers, the order of its keys and its escapes, and nothing is parsed and built anew at each
commit. So no index can be over the state as such; all are over expressions that give a field's
value in a form whose order in SQL is the one the protocol wants.

    time      one text, with a fraction of six digits in any case
    decimal   one numeric
    plain     two columns, a text and a number, of which at most one is not null. Sorted by both
              with nulls first, that is: nulls, then numbers (booleans are 0 and 1), then texts

A B-tree takes rows of up to 2,700 bytes, so of a text only the first `PREFIX` characters are
indexed and sorted by. Comparisons and uniqueness are about all of it.
"""

from perdure.store.api import IndexedField
from perdure.store.postgres_names import literal

PREFIX = 400  # characters, of four bytes at most; beside them stand a number and a key

_DECIMAL = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
_DECIMAL_CHARACTERS_MAX = 100


def text_of(field: IndexedField) -> str:
    """The field if it is a text, else null."""
    name = literal(field.name)
    return (
        f"(CASE WHEN json_typeof(state -> {name}) = 'string' THEN state ->> {name} END)"
        ' COLLATE "C"'
    )


def number_of(field: IndexedField) -> str:
    """The field if it is a number or a boolean, else null."""
    name = literal(field.name)
    return (
        f"(CASE json_typeof(state -> {name}) WHEN 'number' THEN (state ->> {name})::numeric"
        f" WHEN 'boolean' THEN (CASE state ->> {name} WHEN 'true' THEN 1 ELSE 0 END)::numeric END)"
    )


def prefix_of(field: IndexedField) -> str:
    """The beginning of the field if it is a text, else null."""
    return f'(left({text_of(field)}, {PREFIX})) COLLATE "C"'


def moment(text: str) -> str:
    """SQL that turns RFC 3339 text in UTC into one whose order is that of the moments."""
    return f"(left(replace({text}, 'Z', '') || '.000000', 26)) COLLATE \"C\""


def decimal(text: str) -> str:
    """SQL that turns text into the number it holds, or null."""
    return (
        f"(CASE WHEN length({text}) <= {_DECIMAL_CHARACTERS_MAX} AND {text} ~ {literal(_DECIMAL)}"
        f" THEN ({text})::numeric END)"
    )


def terms(field: IndexedField) -> list[str]:
    """What the field is sorted by."""
    if field.kind == "time":
        return [moment(text_of(field))]
    if field.kind == "decimal":
        return [decimal(text_of(field))]
    return [prefix_of(field), number_of(field)]


def unique_parts(field: IndexedField) -> list[tuple[str, str]]:
    """The unique indexes that together make the field unique: suffixes of names, and columns."""
    if field.kind != "plain":
        return [("", f"{terms(field)[0]} NULLS FIRST")]
    # a long text counts with its hash: the index holds only its beginning
    tail = f"(CASE WHEN length({text_of(field)}) > {PREFIX} THEN md5({text_of(field)}) ELSE '' END)"
    return [("", f"{prefix_of(field)} NULLS FIRST, {tail}"), ("n", number_of(field))]
