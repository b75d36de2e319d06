"""What a server that faces the internet knows of each request: its origin, its id, its log line.

It exists apart from the protocol because most requests need none of it: without `--access-log` and
`--trust-proxy` there is no Edge, and each request pays for two comparisons with None.

Invariants:
- A request has one line, when its answer is on its way or its connection is gone.
- A line holds no query, no header but the id, and no body: secrets are in those.
"""

import ipaddress
import logging
import time
from collections.abc import Iterable
from functools import lru_cache

from perdure.base.request_ids import RequestIds, request_id_of
from perdure.base.trail import Trail, current_trail
from perdure.web.exchange import Exchange
from perdure.web.forwarded import Network, Origin, origin_of

logger = logging.getLogger("perdure.access")

_NAME = b"x-request-id"
_PATH_BYTES_MAX = 1024  # in a line


class Edge:
    """Looks at every request of one server when its head is complete, and when it is answered."""

    def __init__(self, trusted: Iterable[Network] = (), *, with_log: bool = False) -> None:
        networks = tuple(trusted)
        self._ids = RequestIds()
        self._with_log = with_log

        @lru_cache(maxsize=4096)
        def is_trusted(host: str) -> bool:
            address = ipaddress.ip_address(host.partition("%")[0])
            mapped = getattr(address, "ipv4_mapped", None)
            return any((mapped or address) in network for network in networks)

        self._is_trusted = is_trusted

    def note(self, exchange: Exchange) -> None:
        """Find out who sent it, and give it an id."""
        exchange.began_s = time.monotonic()
        exchange.is_plain = False  # its answer carries the id
        client = exchange.client
        if client is not None and self._is_trusted(client[0]):
            peer = Origin(client, exchange.scheme)
            origin = origin_of(peer, exchange.header, self._is_trusted)
            exchange.client, exchange.scheme = origin.client, origin.scheme
        given = exchange.fields.get(_NAME)
        name = None if given is None else request_id_of(given)
        told = name or self._ids.next()
        exchange.trail = Trail(told)
        current_trail.set(exchange.trail)  # all that is done for it begins before the next request
        exchange.request_id = told.encode()
        if name is not None:
            return
        # anew, not in place: other requests of this connection may share them
        others = exchange.headers
        if given is not None:
            others = [header for header in others if header[0] != _NAME]
        exchange.headers = [*others, (_NAME, exchange.request_id)]
        exchange.fields = {**exchange.fields, _NAME: exchange.request_id}

    def enter(self, exchange: Exchange) -> None:
        """Let the running task follow a request. The mounted app's task may have been begun by the
        end of an earlier one on the same connection."""
        current_trail.set(exchange.trail)

    def log(self, exchange: Exchange, sent_bytes: int = 0) -> None:
        """Write its line, unless that has been done."""
        if not exchange.began_s:
            return
        duration_s, exchange.began_s = time.monotonic() - exchange.began_s, 0.0
        if not self._with_log:
            return
        client = exchange.client
        logger.info(
            "request",
            extra={
                "method": exchange.method.decode("ascii"),
                "path": exchange.path[:_PATH_BYTES_MAX].decode("latin-1"),
                "status": exchange.status,  # 0: the connection was gone before there was one
                "bytes": exchange.sent_bytes + sent_bytes,
                "duration_ms": round(duration_s * 1000, 3),
                "client": client[0] if client else None,
                **({} if exchange.trail is None else exchange.trail.names),
            },
        )
