"""Who calls, and whether they may: the same for actors' methods and for plain functions.

Cross-site protection: browsers send `Sec-Fetch-Site` or `Origin` with every POST of a foreign page.
Such a request is refused, since a cookie, or the mere reach of a loopback address, is no
proof that the user meant it. Unless `cors` lets that page in.
"""

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.requests import HTTPConnection

from perdure.actor.model import Caller
from perdure.base.errors import BodyTooLargeError, ForbiddenError, NotSignedInError
from perdure.web.cors import is_admitted

if TYPE_CHECKING:
    from perdure.web.exchange import Exchange

Identify = Callable[[HTTPConnection], Awaitable[Caller | None] | Caller | None]


async def caller_of(identify: Identify | None, exchange: "Exchange") -> Caller | None:
    """Ask the app who sent this request."""
    if identify is None:
        return None
    caller = identify(_connection_of(exchange))
    return await caller if inspect.isawaitable(caller) else caller


async def check_access(access: Any, caller: Caller | None, key: str) -> None:
    """Raise NotSignedInError or ForbiddenError unless the rule lets this caller call this key."""
    if access == "anyone":
        return
    if callable(access):
        allowed = access(caller, key)
        if inspect.isawaitable(allowed):
            allowed = await allowed
    else:
        allowed = caller is not None and (access == "signed_in" or caller.id == key)
    if allowed:
        return
    if caller is None:
        raise NotSignedInError("sign in first")
    raise ForbiddenError("this is not yours to call")


def check_body(exchange: "Exchange", body_bytes_max: int | None) -> None:
    """Raise BodyTooLargeError if the route takes less than what was sent."""
    size_bytes = len(exchange.body)
    if body_bytes_max is not None and size_bytes > body_bytes_max:
        raise BodyTooLargeError(f"the body has {size_bytes} bytes; {body_bytes_max} are allowed")


def refuse_cross_site(exchange: "Exchange") -> None:
    """Raise ForbiddenError if a page of another site made the browser send this."""
    if is_admitted(exchange):
        return
    site, origin = exchange.header(b"sec-fetch-site"), exchange.header(b"origin")
    if site in {b"cross-site", b"same-site"} or (
        origin is not None and origin.partition(b"://")[2] != exchange.header(b"host")
    ):
        raise ForbiddenError("a page of another site may not call this")


def _connection_of(exchange: "Exchange") -> HTTPConnection:
    """The request in the form that users know: headers, cookies, query, client."""
    return HTTPConnection(
        {
            "type": "http",
            "method": exchange.method.decode(),
            "scheme": exchange.scheme,
            "path": unquote(exchange.path.decode("latin-1")),
            "raw_path": exchange.path,
            "root_path": "",
            "query_string": exchange.query,
            "headers": exchange.headers.copy(),  # other requests may share them
            "client": exchange.client,
        }
    )
