"""The `Link` from a page to the next one (RFC 8288), for clients that know this header.

It is relative, a query alone: so it is right behind any proxy, whatever path that has taken off.
"""

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

import msgspec

from perdure.base.codec import decoder

if TYPE_CHECKING:
    from perdure.web.exchange import Exchange


class _Next(msgspec.Struct):
    """All that is read of a Page: its items are passed over."""

    next: str | None = None


_next_of = decoder(_Next).decode


def link_next(exchange: "Exchange", body: bytes) -> None:
    """Let the answer to a GET, which is a Page, link to the next one, if there is one."""
    cursor = _next_of(body).next
    if cursor is None:
        return
    asked = parse_qsl(exchange.query.decode(errors="replace"), keep_blank_values=True)
    kept = [(name, value) for name, value in asked if name != "cursor"]
    query = urlencode([*kept, ("cursor", cursor)])
    exchange.lines += b'link: <?%b>; rel="next"\r\n' % query.encode("ascii")
    exchange.is_plain = False
