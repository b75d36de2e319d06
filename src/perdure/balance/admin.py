"""The address for operators: `/metrics` and `/-/balance/ready`, on a port of its own.

It exists apart from the front because what it tells is nobody's business outside.

Invariants:
- One request a connection, which is closed behind its answer.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from perdure.balance import metrics
from perdure.balance.front import READY_PATH
from perdure.web.problems import CONTENT_TYPE, problem
from perdure.web.replies import CLOSE_LINE, status_line

_HEAD_BYTES_MAX = 16 << 10
_PATIENCE_S = 5.0


class AdminConnection(asyncio.Protocol):
    """One connection of an operator, or of Prometheus."""

    def __init__(self, tell: Callable[[], bytes], is_ready: Callable[[], bool]) -> None:
        """A connection that was not made yet.

        Args:
            tell: the metrics, in Prometheus' text format.
            is_ready: whether requests should come to this balancer.
        """
        self._tell = tell
        self._is_ready = is_ready
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._deadline = asyncio.get_running_loop().call_later(_PATIENCE_S, transport.close)

    def connection_lost(self, error: Exception | None) -> None:
        self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        self._held += data
        if b"\r\n\r\n" not in self._held:
            if len(self._held) > _HEAD_BYTES_MAX:
                self._transport.close()
            return
        method, _, rest = self._held.partition(b" ")
        status, content_type, body = self._answer(method, rest.partition(b" ")[0])
        self._transport.write(
            b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b\r\n"
            % (status_line(status), content_type, len(body), CLOSE_LINE)
            + (b"" if method == b"HEAD" else body)
        )
        self._transport.close()

    def _answer(self, method: bytes, target: bytes) -> tuple[int, bytes, bytes]:
        path = target.partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return 405, CONTENT_TYPE, problem(405, "method-not-allowed", "Only GET is for here")
        if path == b"/metrics":
            return 200, metrics.CONTENT_TYPE, self._tell()
        if path == READY_PATH:
            is_ready = self._is_ready()
            body = b'{"ok":true}' if is_ready else b'{"ok":false}'
            return 200 if is_ready else 503, b"application/json", body
        return 404, CONTENT_TYPE, problem(404, "not-found", "Nothing is here")
