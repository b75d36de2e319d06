"""A `Query` as SQL over the expressions that the indexes are made of."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from perdure.store.api import Condition, IndexedField, Ordering, Query
from perdure.store.sqlite_tables import expression, ordered

_KEY = IndexedField("key")

_OPERATORS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "=", "ne": "<>"}


class _Term(NamedTuple):
    """Something to sort by: its SQL, that of a bound value it is compared with, its direction."""

    sql: str
    mark: str
    descending: bool


def query_sql(query: Query, columns: str) -> tuple[str, tuple[Any, ...]]:
    """The SELECT and its bound values."""
    clauses: list[str] = []
    values: list[Any] = []
    for condition in query.conditions:
        clause, bound = _condition(condition)
        clauses.append(clause)
        values += bound
    terms = _terms(query.orderings)
    if query.after is not None:
        clause, bound = _behind(terms, [*query.after[0], query.after[1]])
        clauses.append(clause)
        values += bound
    where = f" WHERE {' AND '.join(clauses)}" if clauses else ""
    order = ", ".join(f"{term.sql} {'DESC' if term.descending else 'ASC'}" for term in terms)
    sql = f'SELECT {columns} FROM "{query.actor_type}"{where} ORDER BY {order} LIMIT ?'
    return sql, (*values, query.limit)


def _terms(orderings: Sequence[Ordering]) -> list[_Term]:
    terms = [
        _Term(_sql(one.field), _mark(one.field), one.descending)
        for one in orderings
        if one.field.name != _KEY.name
    ]
    return [*terms, _Term("key", "?", bool(orderings) and orderings[-1].descending)]


def _sql(field: IndexedField) -> str:
    return "key" if field.name == _KEY.name else expression(field)


def _mark(field: IndexedField) -> str:
    """Where a value is bound: it goes through the same expression as what it is compared with."""
    return ordered("?", field.kind)


def _condition(condition: Condition) -> tuple[str, list[Any]]:
    sql, mark, value = _sql(condition.field), _mark(condition.field), condition.value
    if condition.operator == "in":
        wanted = [one for one in value if one is not None]
        return f"{sql} IN ({','.join([mark] * len(wanted))})", wanted
    if value is None and condition.operator in {"eq", "ne"}:
        return f"{sql} IS {'NOT ' if condition.operator == 'ne' else ''}NULL", []
    return f"{sql} {_OPERATORS[condition.operator]} {mark}", [value]


def _behind(terms: Sequence[_Term], at: Sequence[Any]) -> tuple[str, list[Any]]:
    """True of rows that come behind `at`. Not a comparison of row values: directions may differ,
    and NULL, which is first, is neither less nor greater to SQL."""
    options: list[str] = []
    values: list[Any] = []
    for number, (term, value) in enumerate(
        zip(terms, (*at[: len(terms) - 1], at[-1]), strict=True)
    ):
        equal = [f"{before.sql} IS {before.mark}" for before in terms[:number]]
        values += at[:number]
        if value is None:
            beyond = "0" if term.descending else f"{term.sql} IS NOT NULL"
        else:
            comparison = "<" if term.descending else ">"
            beyond = f"{term.sql} {comparison} {term.mark}"
            values.append(value)
            if term.descending:
                beyond = f"({beyond} OR {term.sql} IS NULL)"
        options.append(" AND ".join([*equal, beyond]))
    return "(" + " OR ".join(f"({option})" for option in options) + ")", values
