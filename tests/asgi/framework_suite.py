"""A pytest plugin that sends the requests of a framework's own tests through sockets to a server.

It puts the socket client in the place of Starlette's TestClient, which the tests of Starlette and
of FastAPI use. `test_framework_suites.py` runs it in a checkout of theirs:

    python -m pytest -p asgi.framework_suite tests

`PERDURE_ASGI_SERVER` is `perdure` or `uvicorn`.
"""

import os
from typing import Any

import pytest
import starlette.testclient
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from .servers import SERVERS
from .socket_client import SocketClient, httpx

_open: set[SocketClient] = set()


def _denied(response: Any) -> Exception:
    """Closing before accepting is 403 on the wire, and its code is not told."""
    is_denial = response.status_code != 403 or b"perdure" not in response.content
    if is_denial and response.content:
        return WebSocketDenialResponse(
            status_code=response.status_code, headers=response.headers, content=response.content
        )
    return WebSocketDisconnect(1006)


class _Client(SocketClient):
    __test__ = False
    serving = SERVERS[os.environ.get("PERDURE_ASGI_SERVER", "perdure")]
    disconnected = WebSocketDisconnect
    denied = staticmethod(_denied)

    def port(self, *, is_proxied: bool = False) -> int:
        _open.add(self)
        return super().port(is_proxied=is_proxied)


assert issubclass(_Client, httpx.Client), "the suite compares with the same library"
starlette.testclient.TestClient = _Client  # type: ignore[misc,assignment]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The server runs on asyncio."""
    items[:] = [item for item in items if "[trio" not in item.name and "-trio" not in item.name]


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Most tests leave their clients open."""
    while _open:
        _open.pop().end()
