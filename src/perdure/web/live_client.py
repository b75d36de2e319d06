"""A live view of another process, followed from Python."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from perdure.base.codec import decoder
from perdure.base.errors import PerdureError
from perdure.base.ids import jittered
from perdure.base.merge_patch import apply
from perdure.web.problems import error_of

_WAIT_S = 0.25
_WAIT_MAX_S = 15.0
_MESSAGE_BYTES_MAX = 64 << 20

_decode = decoder(Any).decode


class LiveClient:
    """Follows a live view over a WebSocket, through restarts of its server.

        async for view in LiveClient("http://shop.internal/cart/alice/view?only=tea"):
            ...

    Gives the whole value as JSON has it: first as it is, then after each change; none is given
    twice because the connection was lost. Connects anew after a growing, random wait, and goes on
    where it was. Raises the PerdureError that the server answers with, unless that is 503.

    Args:
        url: of a live method, or of an actor for its live fields; `http`, `https`, `ws` or `wss`.
        headers: sent with each attempt, such as a cookie.
    """

    def __init__(self, url: str, *, headers: Mapping[str, str] | None = None) -> None:
        self._url = urlsplit(url)
        self._headers = headers
        self._token = ""
        self._failures = 0
        self._value: Any = None

    async def __aiter__(self) -> AsyncIterator[Any]:
        while True:
            try:
                async with connect(
                    self._address(),
                    additional_headers=self._headers,
                    compression=None,
                    max_size=_MESSAGE_BYTES_MAX,
                ) as socket:
                    async for text in socket:
                        self._take(_decode(text))
                        yield self._value
            except InvalidStatus as error:
                if error.response.status_code < 500:
                    raise _refusal(error) from None
            except (OSError, TimeoutError, WebSocketException):
                pass
            except PerdureError as error:
                if error.status != 503:
                    raise
            await asyncio.sleep(jittered(min(_WAIT_S * 2**self._failures, _WAIT_MAX_S)))
            self._failures = min(self._failures + 1, 10)

    def _address(self) -> str:
        scheme = {"http": "ws", "https": "wss"}.get(self._url.scheme, self._url.scheme)
        query = [self._url.query] if self._url.query else []
        if self._token:
            query.append(urlencode({"last_event_id": self._token}))
        path = self._url.path.rstrip("/") + "/live"
        return urlunsplit((scheme, self._url.netloc, path, "&".join(query), ""))

    def _take(self, message: dict[str, Any]) -> None:
        self._failures = 0
        data = message["data"]
        if message["event"] == "error":
            raise error_of(data)
        self._value = data if message["event"] == "snapshot" else apply(self._value, data)
        self._token = message["id"]


def _refusal(error: InvalidStatus) -> PerdureError:
    try:
        document = _decode(error.response.body or b"{}")
    except ValueError:
        document = {}
    if not isinstance(document, dict):
        document = {}
    return error_of({"status": error.response.status_code} | document)
