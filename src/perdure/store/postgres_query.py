"""A `Query` as SQL over the expressions that the indexes are made of (see `postgres_terms`)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from perdure.base.codec import encode
from perdure.store.api import Condition, IndexedField, Query
from perdure.store.postgres_terms import (
    PREFIX,
    decimal,
    moment,
    number_of,
    prefix_of,
    terms,
    text_of,
)

_KEY = IndexedField("key")

_OPERATORS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "=", "ne": "<>"}


class _Term(NamedTuple):
    """Something to sort by: its SQL, its direction, and that of a bound value beside it."""

    sql: str
    mark: Callable[[str], str]  # of a parameter
    descending: bool


class _Builder:
    def __init__(self) -> None:
        self.values: list[Any] = []

    def bind(self, value: Any) -> str:
        self.values.append(value)
        return f"${len(self.values)}"


def query_sql(query: Query, table: str, columns: str) -> tuple[str, list[Any]]:
    """The SELECT and its bound values."""
    bound = _Builder()
    clauses = [_condition(one, bound) for one in query.conditions]
    directions = _terms(query)
    if query.after is not None:
        clauses.append(_behind(directions, _place(query), bound))
    where = f" WHERE {' AND '.join(clauses)}" if clauses else ""
    order = ", ".join(
        f"{term.sql} {'DESC NULLS LAST' if term.descending else 'ASC NULLS FIRST'}"
        for term in directions
    )
    limit = bound.bind(query.limit)
    return f"SELECT {columns} FROM {table}{where} ORDER BY {order} LIMIT {limit}", bound.values


# -- conditions ----------------------------------------------------------------------------------


def _condition(condition: Condition, bound: _Builder) -> str:
    field, name, value = condition.field, condition.operator, condition.value
    if name == "in":
        wanted = [one for one in value if one is not None]
        options = [_comparison(field, "eq", one, bound) for one in wanted]
        return f"({' OR '.join(options)})" if options else "false"
    return _comparison(field, name, value, bound)


def _comparison(field: IndexedField, name: str, value: Any, bound: _Builder) -> str:
    if field.name == _KEY.name:
        return f"key {_OPERATORS[name]} {bound.bind(value)}"
    if value is None and name in {"eq", "ne"}:
        are_null = " AND ".join(f"{term} IS NULL" for term in terms(field))
        return f"({are_null})" if name == "eq" else f"(NOT ({are_null}))"
    if field.kind != "plain":
        mark = (moment if field.kind == "time" else decimal)(f"{bound.bind(value)}::text")
        return f"{terms(field)[0]} {_OPERATORS[name]} {mark}"
    if isinstance(value, str):
        return _text_comparison(field, name, value, bound)
    return _number_comparison(field, name, value, bound)


def _text_comparison(field: IndexedField, name: str, value: str, bound: _Builder) -> str:
    # a text that is shorter than the prefix differs from another within it, or not at all
    text = prefix_of(field) if len(value) < PREFIX else text_of(field)
    clause = f"{text} {_OPERATORS[name]} {bound.bind(value)}"
    if name in {"lt", "le", "ne"}:  # every number comes before every text
        return f"({clause} OR ({prefix_of(field)} IS NULL AND {number_of(field)} IS NOT NULL))"
    return clause


def _number_comparison(field: IndexedField, name: str, value: Any, bound: _Builder) -> str:
    # with the null that every number has in the first column of the index, so that it is of use
    mark = f"{bound.bind(_digits(value))}::text::numeric"
    clause = f"{prefix_of(field)} IS NULL AND {number_of(field)} {_OPERATORS[name]} {mark}"
    if name in {"gt", "ge", "ne"}:
        return f"(({clause}) OR {prefix_of(field)} IS NOT NULL)"
    return f"({clause})"


def _digits(value: Any) -> str | None:
    """A number or a boolean as text; the driver would round a float on its way to numeric."""
    if isinstance(value, bool):
        return "1" if value else "0"
    return encode(value).decode() if isinstance(value, int | float) else None


# -- orderings -----------------------------------------------------------------------------------


def _terms(query: Query) -> list[_Term]:
    found: list[_Term] = []
    for one in query.orderings:
        if one.field.name == _KEY.name:
            continue
        for sql, mark in zip(terms(one.field), _MARKS[one.field.kind], strict=True):
            found.append(_Term(sql, mark, one.descending))
    descending = bool(query.orderings) and query.orderings[-1].descending
    return [*found, _Term("key", _as_text, descending)]


def _as_text(parameter: str) -> str:
    return f"{parameter}::text"


_MARKS: dict[str, Sequence[Callable[[str], str]]] = {
    "plain": (_as_text, lambda parameter: f"{parameter}::text::numeric"),
    "time": (lambda parameter: moment(f"{parameter}::text"),),
    "decimal": (lambda parameter: decimal(f"{parameter}::text"),),
}


def _place(query: Query) -> list[Any]:
    """The values of the terms at the row to go on behind."""
    assert query.after is not None
    values, key = query.after
    place: list[Any] = []
    for one, value in zip(query.orderings, values, strict=True):
        if one.field.name == _KEY.name:
            continue
        if one.field.kind != "plain":
            place.append(value)
        elif isinstance(value, str):
            place += (value[:PREFIX], None)
        else:
            place += (None, _digits(value))
    return [*place, key]


def _behind(directions: Sequence[_Term], at: Sequence[Any], bound: _Builder) -> str:
    """True of rows that come behind `at`. Not a comparison of row values: directions may differ,
    and NULL, which is first, is neither less nor greater to SQL."""
    marks = [
        None if value is None else term.mark(bound.bind(value))
        for term, value in zip(directions, at, strict=True)
    ]
    options: list[str] = []
    for number, (term, mark) in enumerate(zip(directions, marks, strict=True)):
        equal = [
            f"{before.sql} IS NULL" if same is None else f"{before.sql} = {same}"
            for before, same in zip(directions[:number], marks[:number], strict=True)
        ]
        if mark is None:
            beyond = "false" if term.descending else f"{term.sql} IS NOT NULL"
        elif term.descending:
            beyond = f"({term.sql} < {mark} OR {term.sql} IS NULL)"
        else:
            beyond = f"{term.sql} > {mark}"
        options.append(" AND ".join([*equal, beyond]))
    return "(" + " OR ".join(f"({option})" for option in options) + ")"
