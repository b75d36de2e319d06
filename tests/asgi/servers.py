"""Servers that the socket client can put before an application: ours, and uvicorn beside it."""

import asyncio
import contextlib
import socket
import threading
from ipaddress import ip_network
from typing import Any, Protocol

import uvloop

from perdure.web.asgi import Lifespan
from perdure.web.edge import Edge
from perdure.web.server import Server

WAIT_S = 10.0


class Serving(Protocol):
    """An application that is being served."""

    port: int
    state: dict[str, Any]

    def __init__(
        self, app: Any, root_path: str, *, has_lifespan: bool, is_proxied: bool
    ) -> None: ...

    def stop(self) -> None:
        """Stop, and end the lifespan."""


class _Nothing:
    """No actors."""

    def match(self, _method: bytes, _path: bytes) -> None:
        return None

    def handle(self, _route: object, _exchange: Any) -> None:
        raise AssertionError

    def subscriber(self, _route: object) -> None:
        return None


class _OnThread:
    """A loop on a thread of its own, and a socket to listen on."""

    def __init__(self) -> None:
        self.bound = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.bound.getsockname()[1]
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(WAIT_S)

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(WAIT_S)
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.bound.close()


class Perdure(_OnThread):
    """Our server."""

    def __init__(self, app: Any, root_path: str, *, has_lifespan: bool, is_proxied: bool) -> None:
        super().__init__()
        self.state: dict[str, Any] = {}
        self._lifespan = Lifespan(app) if has_lifespan else None
        self._app, self._root_path, self._is_proxied = app, root_path, is_proxied
        try:
            self.run(self._start())
        except BaseException:
            self.end()
            raise

    async def _start(self) -> None:
        if self._lifespan is not None:
            await self._lifespan.startup()
            self.state = self._lifespan.state
        edge = Edge([ip_network("127.0.0.1/32")]) if self._is_proxied else None
        self._server = Server(
            _Nothing(), self._app, state=self.state, root_path=self._root_path, edge=edge
        )
        await self._server.start([self.bound])

    def stop(self) -> None:
        try:
            self.run(self._server.close())
            if self._lifespan is not None:
                self.run(self._lifespan.shutdown())
        finally:
            self.end()


class Uvicorn(_OnThread):
    """uvicorn, for comparison."""

    def __init__(self, app: Any, root_path: str, *, has_lifespan: bool, is_proxied: bool) -> None:
        import uvicorn

        super().__init__()
        config = uvicorn.Config(
            app,
            root_path=root_path,
            lifespan="on" if has_lifespan else "off",
            log_level="critical",
            ws="websockets-sansio",
            proxy_headers=is_proxied,
        )
        self._server = uvicorn.Server(config)
        self._task = asyncio.run_coroutine_threadsafe(self._server._serve([self.bound]), self.loop)
        self.run(self._wait())
        self.state = getattr(self._server.lifespan, "state", {})

    async def _wait(self) -> None:
        while not self._server.started:
            if self._task.done():
                raise RuntimeError("uvicorn did not start")
            await asyncio.sleep(0.002)

    def stop(self) -> None:
        self._server.should_exit = True
        self._server.force_exit = self._server.config.lifespan == "off"
        with contextlib.suppress(SystemExit):
            self._task.result(WAIT_S)
        self.end()


SERVERS: dict[str, Any] = {"perdure": Perdure, "uvicorn": Uvicorn}
