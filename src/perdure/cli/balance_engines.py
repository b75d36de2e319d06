"""`perdure balance` where something else than the built-in HTTP balancer does the work: TCP mode,
and HAProxy."""

import asyncio
import ipaddress
import socket

import uvloop

from perdure.balance.backends import Backends
from perdure.balance.haproxy import Haproxy
from perdure.balance.haproxy_config import HaproxyOptions
from perdure.balance.sources import Source, follow, into
from perdure.balance.tcp import TcpFront, TcpOptions
from perdure.base.clock import SystemClock
from perdure.base.errors import EngineError
from perdure.base.limits import BalanceLimits
from perdure.cli.address import joined
from perdure.cli.ending import Ending
from perdure.cli.failures import UNAVAILABLE, Failure


def run_tcp(backends: Backends, source: Source, options: TcpOptions, bound: socket.socket) -> int:
    """Pass connections on until told to stop; returns the exit code."""
    uvloop.run(_pass_on(backends, source, options, bound))
    return 0


async def _pass_on(
    backends: Backends, source: Source, options: TcpOptions, bound: socket.socket
) -> None:
    front, ending = TcpFront(backends, options=options), Ending()
    following = asyncio.create_task(follow(source, into(backends), SystemClock()))
    host, port = bound.getsockname()[:2]
    await front.start([bound])
    print(f"perdure balances tcp://{joined(host, port)}", flush=True)  # noqa: T201
    at_once = await ending.wait()
    await front.drain(0.0 if at_once else BalanceLimits().drain_s)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


def run_haproxy(source: Source, options: HaproxyOptions) -> int:
    """Let HAProxy balance until told to stop; returns the exit code. Raises Failure."""
    try:
        uvloop.run(_drive(source, options))
    except EngineError as error:
        raise Failure(str(error), exit_code=UNAVAILABLE) from error
    return 0


async def _drive(source: Source, options: HaproxyOptions) -> None:
    engine, ending = Haproxy(options), Ending()
    following = asyncio.create_task(follow(source, engine.take, SystemClock()))
    running = asyncio.create_task(engine.run())
    told = asyncio.create_task(ending.wait())
    print(f"perdure drives haproxy on {options.listen}", flush=True)  # noqa: T201
    await asyncio.wait({running, told}, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    following.cancel()
    running.cancel()
    await asyncio.gather(following, told, return_exceptions=True)
    try:
        await running
    except asyncio.CancelledError:
        return


def networks(ranges: list[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """The networks that --trust names; raises Failure."""
    try:
        return [ipaddress.ip_network(text) for text in ranges]
    except ValueError as error:
        raise Failure(f"--trust: {error}", "for example --trust 10.0.0.0/8") from error
