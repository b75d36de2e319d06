"""The server process: load the app, serve it, and leave in order.

Started by the supervisor as `python -m perdure.cli.serve`, or called by `run --no-supervisor`.

    SIGTERM → readiness says no, still serving → running requests end → actors stop → exit 0
"""

import argparse
import asyncio
import logging
import signal
import socket
import sys
from pathlib import Path

import msgspec
import uvloop

from perdure.base.errors import PerdureError
from perdure.cli.address import is_loopback, url_of
from perdure.cli.failures import DISK_FAILED, Failure, failure_of
from perdure.cli.loading import load_app
from perdure.cli.logs import set_up_logs
from perdure.web.app import App
from perdure.web.asgi import Lifespan
from perdure.web.server import Server

log = logging.getLogger("perdure.server")

_FIRST_TIME = b"1"  # what the supervisor sends to its first child only


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `perdure run` was told."""

    target: str
    store: str
    log_level: str = "warning"
    log_format: str = "text"


def serve(options: ServeOptions, bound: socket.socket, supervisor: socket.socket | None) -> int:
    """Serve until told to stop; returns the exit code.

    Args:
        supervisor: tells whether this is its first child, hears one byte when the server is ready,
            and when it closes, the server stops.
    """
    set_up_logs(options.log_level, options.log_format)
    try:
        app = load_app(options.target)
        return uvloop.run(_serve(app, options, bound, supervisor))
    except PerdureError as error:
        failure = failure_of(error)
    except Failure as error:
        failure = error
    print(failure.text(), file=sys.stderr)  # noqa: T201
    return failure.exit_code


async def _serve(
    app: App, options: ServeOptions, bound: socket.socket, supervisor: socket.socket | None
) -> int:
    stop, exit_code = asyncio.Event(), 0

    def broken(error: Exception) -> None:
        nonlocal exit_code
        log.critical("the store is broken, ending", extra={"error": str(error)})
        exit_code = DISK_FAILED
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await app.start(options.store, broken)
    lifespan = Lifespan(app.mount) if app.mount is not None else None
    if lifespan is not None:
        await lifespan.startup()
    server = Server(app, app.mount, app.limits, state=lifespan.state if lifespan else None)
    await server.start([bound])
    if supervisor is None or supervisor.recv(1) == _FIRST_TIME:
        _greet(options, app, bound)
    if supervisor is not None:
        supervisor.send(b"r")
        loop.add_reader(supervisor, stop.set)  # readable means closed: the supervisor is gone
    await stop.wait()
    app.ready = False
    if exit_code:
        await server.close()
    else:
        await server.drain()
    if lifespan is not None:
        await lifespan.shutdown()
    await app.stop()
    return exit_code


def _greet(options: ServeOptions, app: App, bound: socket.socket) -> None:
    where = options.store.removeprefix("sqlite:")
    print(  # noqa: T201
        f"Perdure is serving {options.target} on {url_of(bound)} (data in {where})", flush=True
    )
    if app.identify is None and not is_loopback(bound):
        log.warning(
            "no identify: everyone who can reach this address can call every exposed method"
        )


def main() -> None:
    """Entry point of the child process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("options", help="ServeOptions as JSON")
    parser.add_argument("listen_descriptor", type=int)
    parser.add_argument("supervisor_descriptor", type=int)
    given = parser.parse_args()
    sys.path[:] = [path for path in sys.path if path not in {"", str(Path(__file__).parent)}]
    options = msgspec.json.decode(given.options, type=ServeOptions)
    bound = socket.socket(fileno=given.listen_descriptor)
    supervisor = socket.socket(fileno=given.supervisor_descriptor)
    sys.exit(serve(options, bound, supervisor))


if __name__ == "__main__":
    main()
