"""A process that serves: load the app, begin when it may, and leave in order.

Started by the supervisor as `python -m perdure.cli.serve`, or called by `run --no-supervisor`.

    SIGTERM → readiness says no, still serving → running requests end → actors stop → exit 0
    SIGHUP → the same, but for readiness: a successor is there and answers whoever comes next
    the disk failed under a commit → answers leave → exit 74, and nothing is tidied up

Requests and the mounted app are the part of those with the role `all` or `web`; a `state` process
only owns actors, and talks to the others.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from ipaddress import ip_network

import uvloop

from perdure.base.clock import SystemClock
from perdure.base.errors import PerdureError
from perdure.base.ids import new_id
from perdure.base.trail import tracing
from perdure.cli.address import is_loopback
from perdure.cli.failures import DISK_FAILED, Failure, failure_of
from perdure.cli.greeting import greeting
from perdure.cli.layout import Layout
from perdure.cli.loading import load_app
from perdure.cli.logs import set_up_logs
from perdure.cli.options import ServeOptions, options_from_line
from perdure.cli.supervised import Supervision, receive_line
from perdure.cli.traces import traces
from perdure.cli.waiting import reach_database
from perdure.runtime.doors import Doors
from perdure.runtime.station import RELEASE
from perdure.store.registry import Door
from perdure.store.url import registry_from_url
from perdure.web.app import App, Teller
from perdure.web.asgi import Lifespan
from perdure.web.edge import Edge
from perdure.web.server import Server
from perdure.web.tls import Certificate
from perdure.web.traced_edge import TracedEdge

log = logging.getLogger("perdure.server")

_REACH_S = 5.0
_REACH_POLL_S = 0.01
_BROKEN_S = 1.0  # for the answers to calls that the disk failed


def serve(
    options: ServeOptions,
    bound: socket.socket | None,
    metrics: socket.socket | None = None,
    supervision: Supervision | None = None,
) -> int:
    """Serve until told to stop; returns the exit code.

    Args:
        bound: where requests come in; None for a process that takes none.
        metrics: where its metrics are asked for, if that is somewhere else.
        supervision: says when to begin, and hears when it serves.
    """
    set_up_logs(options.log_level, options.log_format)
    if options.front.access_log:
        logging.getLogger("perdure.access").setLevel(logging.INFO)
    try:
        app = load_app(options.target)
        with traces(options):
            if supervision is not None:
                supervision.stand_by()
            code = uvloop.run(_Serving(app, options, bound, metrics, supervision).run())
            if code == DISK_FAILED:
                # Closing the store would write to the disk that failed, and wait for it.
                _leave(code)
    except PerdureError as error:
        failure = failure_of(error)
    except Failure as error:
        failure = error
    except KeyboardInterrupt:  # before anything was served
        return 128 + signal.SIGINT
    else:
        return code
    print(failure.text(), file=sys.stderr)  # noqa: T201
    return failure.exit_code


class _Serving:
    """One app while it is served."""

    def __init__(
        self,
        app: App,
        options: ServeOptions,
        bound: socket.socket | None,
        metrics: socket.socket | None,
        supervision: Supervision | None,
    ) -> None:
        self._app = app
        self._options = options
        self._bound = bound
        self._metrics = metrics
        self._teller: Server | None = None
        self._supervision = supervision
        self._server: Server | None = None
        self._lifespan: Lifespan | None = None
        self._watching: asyncio.Task[None] | None = None
        self._doors: Doors | None = None
        self._ended_by: str | None = None
        self._exit_code = 0

    async def run(self) -> int:
        self._end = asyncio.Event()
        options, place = self._options, self._options.place
        wanted = options.stores if place.role == "web" else [options.stores[place.cell]]
        self._app.metrics.audience = options.metrics
        self._app.metrics.process = place.name
        await self._tell_metrics()
        await reach_database(wanted, waits=options.waits or options.is_again)
        await self._app.start(options.stores, self._on_broken, place)
        await self._reach_owners()
        if self._bound is not None:
            await self._take_requests(self._bound)
        # Not before: a start that hangs must not take the signals away that could end it.
        numbers = [signal.SIGTERM, signal.SIGINT]
        if self._supervision is not None:  # else it is for the terminal, or nohup, to say
            numbers.append(signal.SIGHUP)
        for number in numbers:
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)
        self._say_ready()
        await self._end.wait()
        if self._ended_by != "SIGHUP":
            self._app.ready = False
        elif self._teller is not None:
            await self._teller.close()  # its successor has the same address
        if self._exit_code == DISK_FAILED:
            await self._let_answers_leave()
        else:
            await self._stop()
        return self._exit_code

    async def _reach_owners(self) -> None:
        """Give a web process a while to find somebody; then calls wait, and `/-/ready` says no."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REACH_S):
                while not self._app.is_ready:  # noqa: ASYNC110 - links announce nothing
                    await asyncio.sleep(_REACH_POLL_S)

    async def _tell_metrics(self) -> None:
        """Already now: a start that waits for a database can be seen from outside."""
        if self._metrics is not None:
            self._teller = Server(Teller(self._app), None, self._app.limits)
            await self._teller.start([self._metrics])

    async def _take_requests(self, bound: socket.socket) -> None:
        app = self._app
        if app.mount is not None:
            self._lifespan = Lifespan(app.mount)
            await self._lifespan.startup()
        state = self._lifespan.state if self._lifespan else None
        front = self._options.front
        edge: Edge | None = None
        trusted = map(ip_network, front.trusted)
        if tracing() is not None:
            edge = TracedEdge(
                trusted,
                with_log=front.access_log,
                with_ids=front.needs_edge,
                template_of=app.template,
            )
        elif front.needs_edge:
            edge = Edge(trusted, with_log=front.access_log)
        self._server = Server(
            app, app.site, app.limits, state=state, compress=app.compress, edge=edge
        )
        app.metrics.add("server", self._server.families)
        context = None
        if front.certificate is not None and front.private_key is not None:
            certificate = _certificate(front.certificate, front.private_key)
            context = certificate.context
            self._watching = asyncio.create_task(certificate.watch())
        await self._server.start([bound], context)
        self._announce()

    def _announce(self) -> None:
        place, app = self._options.place, self._app
        if place.door is None:
            return
        registries = [registry_from_url(store) for store in self._options.stores]
        self._doors = Doors(
            [registry for registry in registries if registry is not None],
            # one that replaces another announces a door of its own, which nobody else withdraws
            Door(place.door, f"{place.name}.{new_id()[:8]}", RELEASE),
            SystemClock(),
            ttl_s=app.limits.door_ttl_s,
            is_ready=lambda: app.is_ready,
        )
        self._doors.start()

    async def _stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        if self._server is not None:
            # The grace lets a balancer notice. Nobody balances before a terminal with a Ctrl-C.
            await self._server.drain(grace_s=0 if self._ended_by == "SIGINT" else None)
        if self._doors is not None:
            await self._doors.close()
        try:
            if self._lifespan is not None:
                async with asyncio.timeout(self._app.limits.drain_s):
                    await self._lifespan.shutdown()
        except (PerdureError, TimeoutError) as error:
            log.error("the mounted app did not stop", extra={"error": str(error)})
        await self._app.stop()
        if self._teller is not None:
            await self._teller.close()
        log.info("stopped")

    async def _let_answers_leave(self) -> None:
        if self._server is None:
            return  # those who called from other processes ask the next owner
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BROKEN_S):
                await self._server.drain(grace_s=0)

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
        elif self._options.is_first and self._bound is not None:
            _warn_if_open(self._app, self._bound)
        if self._supervision is not None:
            self._supervision.say_ready()
        else:
            metrics = [] if self._metrics is None else [self._metrics]
            print(greeting(self._options, self._bound, metrics, Layout()), flush=True)  # noqa: T201


def _certificate(chain: str, private_key: str) -> Certificate:
    try:
        return Certificate(chain, private_key)
    except OSError as error:
        raise Failure(f"--tls-cert {chain} with --tls-key {private_key}: {error}") from None


def _warn_if_open(app: App, bound: socket.socket) -> None:
    if app.identify is None and not is_loopback(bound):
        log.warning(
            "no identify: everyone who can reach this address can call every exposed method"
        )


def _leave(code: int) -> None:
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


def main() -> None:
    """Entry point of a process below the supervisor."""
    parser = argparse.ArgumentParser()
    parser.add_argument("title", help="for who reads the output of ps, as is the target")
    parser.add_argument("target")
    for name in ("--supervisor", "--listen", "--metrics"):
        parser.add_argument(name, type=_inherited, help="a descriptor")
    given = parser.parse_args()
    line = receive_line(given.supervisor)
    if line:
        supervision = Supervision(given.supervisor)
        sys.exit(serve(options_from_line(line), given.listen, given.metrics, supervision))


def _inherited(descriptor: str) -> socket.socket:
    inherited = socket.socket(fileno=int(descriptor))
    inherited.set_inheritable(False)  # what the app starts must not hold the port
    return inherited


if __name__ == "__main__":
    main()
