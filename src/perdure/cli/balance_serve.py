"""A process that balances: read what it was told, serve, leave in order.

Started by its supervisor as `python -m perdure.cli.balance_serve`, or called by `perdure balance
--no-supervisor`.

    SIGTERM → `/-/balance/ready` says no, still accepting → what is under way ends → exit 0
    SIGHUP → the same, but for readiness: a successor is there and answers whoever comes next
    a second signal → exit at once
"""

import argparse
import asyncio
import logging
import signal
import socket
import sys
from typing import Protocol

import uvloop

from perdure.balance.access_log import write_access
from perdure.balance.backends import Backends
from perdure.balance.health import HealthRules
from perdure.balance.server import Balancer
from perdure.balance.shared import Shared
from perdure.balance.sources import Found, follow, into
from perdure.balance.tcp import TcpFront, TcpOptions
from perdure.base.clock import SystemClock
from perdure.base.limits import BalanceLimits
from perdure.cli.balance_options import (
    BalanceOptions,
    greeting,
    hash_of,
    networks,
    options_from_line,
    policy,
    targets,
    trusting,
)
from perdure.cli.balance_sources import source_of
from perdure.cli.ending import Ending
from perdure.cli.failures import Failure
from perdure.cli.logs import set_up_logs
from perdure.cli.supervised import Supervision, inherited, receive_line
from perdure.cli.tls_files import certificate

_GRACE_S = 1.0
_FIRST_LIST_S = 5.0  # to wait for it, before requests are taken and answered 503


class Front(Protocol):
    """What clients come to, in each mode."""

    async def start(self, bound: socket.socket, admin: socket.socket | None = None) -> None:
        """Begin to serve on bound sockets."""
        ...

    async def drain(self, grace_s: float, *, is_replaced: bool = False) -> None:
        """Stop gracefully."""
        ...


def serve(
    options: BalanceOptions,
    bound: socket.socket,
    admin: socket.socket | None,
    supervision: Supervision | None = None,
) -> int:
    """Balance until told to stop; returns the exit code."""
    set_up_logs(options.log_level, options.log_format)
    if options.access_log:
        logging.getLogger("perdure.balance.access").setLevel(logging.INFO)
    try:
        if supervision is not None:
            supervision.stand_by()
        uvloop.run(_balance(options, bound, admin, supervision))
    except Failure as failure:
        print(failure.text(), file=sys.stderr)  # noqa: T201
        return failure.exit_code
    return 0


async def _balance(
    options: BalanceOptions,
    bound: socket.socket,
    admin: socket.socket | None,
    supervision: Supervision | None,
) -> None:
    backends = Backends(policy(options))
    tasks = [await _follow(options, backends)]
    front = _tcp(options, backends) if options.is_tcp else _http(options, backends, tasks)
    ending = Ending(*([] if supervision is None else [signal.SIGHUP]))
    await front.start(bound, admin)
    if supervision is not None:
        supervision.say_ready()
    else:
        print(greeting(options, bound), flush=True)  # noqa: T201
    is_at_terminal = await ending.wait()
    # The grace lets others notice. Nobody waits for that before a terminal with a Ctrl-C.
    grace_s = _GRACE_S if options.grace_s is None else options.grace_s
    await front.drain(0 if is_at_terminal else grace_s, is_replaced=ending.number == signal.SIGHUP)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _follow(options: BalanceOptions, backends: Backends) -> asyncio.Task[None]:
    """Follow the source; returns when its first list is there, or late.

    A process that replaces another takes requests from the moment it listens, so it must know by
    then where to.
    """
    source = source_of(targets(options), options.sources)
    take, is_there = into(backends), asyncio.Event()

    def take_and_tell(found: Found) -> None:
        take(found)
        is_there.set()

    following = asyncio.create_task(follow(source, take_and_tell, SystemClock()))
    waiting = asyncio.create_task(is_there.wait())
    await asyncio.wait({waiting}, timeout=_FIRST_LIST_S)
    waiting.cancel()
    return following


def _http(options: BalanceOptions, backends: Backends, tasks: list[asyncio.Task[None]]) -> Balancer:
    shared = Shared(
        backends,
        BalanceLimits(),
        hash_of=hash_of(options),
        is_trusted=trusting(networks(options)),
        via=(options.via or "").encode("ascii", "replace"),
        access_log=write_access if options.access_log else None,
    )
    context = None
    if options.tls_cert is not None and options.tls_key is not None:
        shown = certificate(options.tls_cert, options.tls_key)
        context = shown.context
        tasks.append(asyncio.create_task(shown.watch()))
    return Balancer(shared, _health(options), context)


def _tcp(options: BalanceOptions, backends: Backends) -> TcpFront:
    told = TcpOptions(
        send_proxy=options.send_proxy,
        trusted=networks(options) if options.accept_proxy else (),
    )
    return TcpFront(backends, options=told, health=_health(options))


def _health(options: BalanceOptions) -> HealthRules | None:
    path = options.health_path
    if path == "":
        return None
    return HealthRules(
        path=path, interval_s=options.health_interval_s, sends_proxy=options.send_proxy
    )


def main() -> None:
    """Entry point of a process below the supervisor."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address", help="for who reads the output of ps")
    for name in ("--supervisor", "--listen", "--admin"):
        parser.add_argument(name, type=inherited, help="a descriptor")
    given = parser.parse_args()
    line = receive_line(given.supervisor)
    if line:
        supervision = Supervision(given.supervisor)
        sys.exit(serve(options_from_line(line), given.listen, given.admin, supervision))


if __name__ == "__main__":
    main()
