"""The server process: load the app, serve it, and leave in order.

Started by the supervisor as `python -m perdure.cli.serve`, or called by `run --no-supervisor`.

    SIGTERM → readiness says no, still serving → running requests end → actors stop → exit 0
    the disk failed under a commit → answers leave → exit 74, and nothing is tidied up
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time

import uvloop

from perdure.base.errors import PerdureError
from perdure.cli.address import is_loopback, url_of
from perdure.cli.failures import DISK_FAILED, Failure, failure_of
from perdure.cli.loading import load_app
from perdure.cli.logs import set_up_logs
from perdure.cli.options import ServeOptions, options_from_text
from perdure.cli.supervisor import READY
from perdure.web.app import App
from perdure.web.asgi import Lifespan
from perdure.web.server import Server

log = logging.getLogger("perdure.server")

_BROKEN_S = 1.0  # for the answers to calls that the disk failed
_ORPHAN_S = 5.0  # for a graceful stop once the supervisor is gone


def serve(
    options: ServeOptions, bound: socket.socket, supervisor: socket.socket | None = None
) -> int:
    """Serve until told to stop; returns the exit code.

    Args:
        supervisor: hears one byte when the server is ready. When it closes, the server stops.
    """
    set_up_logs(options.log_level, options.log_format)
    if supervisor is not None:
        threading.Thread(
            target=_end_with, args=(supervisor,), name="perdure-supervised", daemon=True
        ).start()
    try:
        app = load_app(options.target)
        code = uvloop.run(_Serving(app, options, bound, supervisor).run())
    except PerdureError as error:
        failure = failure_of(error)
    except Failure as error:
        failure = error
    except KeyboardInterrupt:  # before anything was served
        return 128 + signal.SIGINT
    else:
        if code == DISK_FAILED:
            # Closing the store would write to the disk that failed, and wait for it.
            _leave(code)
        return code
    print(failure.text(), file=sys.stderr)  # noqa: T201
    return failure.exit_code


class _Serving:
    """One app while it is served."""

    def __init__(
        self,
        app: App,
        options: ServeOptions,
        bound: socket.socket,
        supervisor: socket.socket | None,
    ) -> None:
        self._app = app
        self._options = options
        self._bound = bound
        self._supervisor = supervisor
        self._ended_by: str | None = None
        self._exit_code = 0

    async def run(self) -> int:
        self._end = asyncio.Event()
        app = self._app
        await app.start(self._options.store, self._on_broken)
        lifespan = Lifespan(app.mount) if app.mount is not None else None
        if lifespan is not None:
            await lifespan.startup()
        server = Server(app, app.mount, app.limits, state=lifespan.state if lifespan else None)
        await server.start([self._bound])
        # Not before: a start that hangs must not take the signals away that could end it.
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)
        self._say_ready()
        await self._end.wait()
        app.ready = False
        if self._exit_code == DISK_FAILED:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_BROKEN_S):
                    await server.drain(grace_s=0)
        else:
            await self._stop(server, lifespan)
        return self._exit_code

    async def _stop(self, server: Server, lifespan: Lifespan | None) -> None:
        # The grace lets a balancer notice. Nobody balances load before a terminal with a Ctrl-C.
        await server.drain(grace_s=0 if self._ended_by == "SIGINT" else None)
        try:
            if lifespan is not None:
                async with asyncio.timeout(self._app.limits.drain_s):
                    await lifespan.shutdown()
        except (PerdureError, TimeoutError) as error:
            log.error("the mounted app did not stop", extra={"error": str(error)})
        await self._app.stop()
        log.info("stopped")

    def _on_signal(self, number: signal.Signals) -> None:
        if self._ended_by is not None:  # somebody does not want to wait
            _leave(128 + number)
        log.info("stopping", extra={"signal": number.name})
        self._end_by(number.name)

    def _on_broken(self, error: Exception) -> None:
        if self._exit_code != DISK_FAILED:
            log.critical("the disk failed, ending", extra={"error": str(error)})
        self._exit_code = DISK_FAILED
        self._end_by("the disk")

    def _end_by(self, reason: str) -> None:
        self._ended_by = self._ended_by or reason
        self._end.set()

    def _say_ready(self) -> None:
        if self._options.is_again:
            log.info("serving again", extra={"pid": os.getpid()})
        else:
            _greet(self._options, self._app, self._bound)
        if self._supervisor is not None:
            with contextlib.suppress(OSError):  # it is gone; the thread hears of that
                self._supervisor.send(READY)


def _greet(options: ServeOptions, app: App, bound: socket.socket) -> None:
    scheme, _, where = options.store.partition(":")
    where = where.removeprefix("embedded:")
    kept = "data in memory, gone when it stops" if scheme == "memory" else f"data in {where}"
    print(f"Perdure is serving {options.target} on {url_of(bound)} ({kept})", flush=True)  # noqa: T201
    if app.identify is None and not is_loopback(bound):
        log.warning(
            "no identify: everyone who can reach this address can call every exposed method"
        )


def _end_with(supervisor: socket.socket) -> None:
    """Wait in a thread until the supervisor is gone, then end too: nobody else would end us.

    It would not help to ask for that on the event loop: an endless loop in a method blocks it.
    """
    with contextlib.suppress(OSError):
        supervisor.recv(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_ORPHAN_S)
    os.kill(os.getpid(), signal.SIGKILL)


def _leave(code: int) -> None:
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


def main() -> None:
    """Entry point of the child process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("options", help="ServeOptions as JSON")
    parser.add_argument("listen_descriptor", type=int)
    parser.add_argument("supervisor_descriptor", type=int)
    given = parser.parse_args()
    bound = socket.socket(fileno=given.listen_descriptor)
    supervisor = socket.socket(fileno=given.supervisor_descriptor)
    for ours in (bound, supervisor):
        ours.set_inheritable(False)  # what the app starts must not hold the port
    sys.exit(serve(options_from_text(given.options), bound, supervisor))


if __name__ == "__main__":
    main()
