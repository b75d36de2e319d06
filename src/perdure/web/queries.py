"""The query of a request as arguments by name: for actors, plain functions and live views alike.

A name that comes twice is refused, as is what is not UTF-8: of two values one would have to be
picked in silence, and whoever looked at the request before us may have picked the other.
"""

from urllib.parse import parse_qsl

from perdure.base.errors import BadArgumentsError


def values_of(query: bytes) -> dict[str, str]:
    """The arguments in a raw query. Raises BadArgumentsError."""
    if not query:
        return {}
    try:
        pairs = parse_qsl(query.decode(), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        raise BadArgumentsError("the query is not UTF-8") from None
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise BadArgumentsError("a query parameter came twice", repeated)
    return values
