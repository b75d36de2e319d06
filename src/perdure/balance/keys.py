"""What the policy `hash` goes by: a header, a cookie, or a part of the path."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from perdure.balance.policies import hash_of

if TYPE_CHECKING:
    from perdure.balance.exchange import Exchange

HashOf = Callable[["Exchange"], int | None]


def key_reader(spec: str) -> HashOf:
    """How to find the key of a request.

    Args:
        spec: `header:NAME`, `cookie:NAME`, or `path:N`, the N-th part of the path, from 1.

    Raises: ValueError for anything else.
    """
    kind, _, name = spec.partition(":")
    if kind == "header" and name:
        field = name.lower().encode("ascii")
        return lambda exchange: _hash(exchange.head.fields.get(field))
    if kind == "cookie" and name:
        cookie = name.encode("ascii")
        return lambda exchange: _hash(_cookie(exchange.head.fields.get(b"cookie", b""), cookie))
    if kind == "path" and name.isascii() and name.isdecimal() and int(name) > 0:
        position = int(name)
        return lambda exchange: _hash(_part(exchange.target, position))
    raise ValueError(spec)


def _hash(key: bytes | None) -> int | None:
    return None if key is None else hash_of(key)


def _cookie(cookies: bytes, wanted: bytes) -> bytes | None:
    for pair in cookies.split(b";"):
        name, equals, value = pair.strip().partition(b"=")
        if equals and name == wanted:
            return value
    return None


def _part(target: bytes, position: int) -> bytes | None:
    parts = target.partition(b"?")[0].split(b"/")
    return parts[position] if position < len(parts) else None
