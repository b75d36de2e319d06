"""A process that balances: read what it was told, serve, leave in order.

SIGTERM → `/-/balance/ready` says no, still accepting → what is under way ends → exit 0
a second signal → exit at once
"""

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, get_args

import msgspec
import uvloop

from perdure.balance.access_log import write_access
from perdure.balance.backends import Backends, Target
from perdure.balance.explain import Rules, explain
from perdure.balance.haproxy_config import HaproxyOptions
from perdure.balance.health import HealthRules
from perdure.balance.keys import HashOf, key_reader
from perdure.balance.policies import PolicyName
from perdure.balance.server import Balancer
from perdure.balance.shared import Shared
from perdure.balance.sources import Source, follow, into, read_once
from perdure.balance.tcp import TcpOptions
from perdure.base.clock import SystemClock
from perdure.base.errors import SourceError
from perdure.base.limits import BalanceLimits
from perdure.cli.address import bind, joined, split
from perdure.cli.balance_engines import networks, run_haproxy, run_tcp
from perdure.cli.balance_sources import SourceOptions, source_of
from perdure.cli.ending import Ending
from perdure.cli.failures import Failure
from perdure.cli.logs import set_up_logs

_EXAMPLE = "10.0.0.1:8000"


class BalanceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `perdure balance` was told."""

    backends: list[str]
    sources: SourceOptions = SourceOptions()
    mode: str = "http"
    engine: str = "builtin"
    by_owner: tuple[str, ...] = ()
    send_proxy: bool = False
    accept_proxy: bool = False
    listen: str
    policy: str
    hash_key: str | None
    health: str
    health_interval_s: float
    trust: list[str]
    via: str | None
    tls_cert: Path | None
    tls_key: Path | None
    admin: str | None
    access_log: bool
    grace_s: float
    log_level: str
    log_format: str


def run_balancer(options: BalanceOptions) -> int:
    """Balance until told to stop; returns the exit code. Raises Failure."""
    source = _source(options)
    _check(options)
    if options.engine == "haproxy":
        return run_haproxy(source, _for_haproxy(options))
    if options.mode == "tcp":
        tcp = TcpOptions(
            send_proxy=options.send_proxy,
            trusted=networks(options.trust) if options.accept_proxy else (),
        )
        set_up_logs(options.log_level, options.log_format)
        return run_tcp(Backends(_policy(options)), source, tcp, bind(options.listen))
    return _run_http(options, source)


def explain_url(options: BalanceOptions, url: str) -> str:
    """Where a balancer with these options would send a request. Raises Failure."""
    source = _source(options)
    _check(options)
    rules = Rules(
        policy=_policy(options),
        hash_key=options.hash_key,
        by_owner=options.by_owner,
        is_haproxy=options.engine == "haproxy",
        is_tcp=options.mode == "tcp",
    )
    _hash_of(options)
    try:
        return explain(url, rules, asyncio.run(read_once(source)))
    except SourceError as error:
        raise Failure(str(error)) from error


def _source(options: BalanceOptions) -> Source:
    targets = [_target(text) for text in options.backends]
    if len({target.name for target in targets}) < len(targets):
        raise Failure("a backend is named twice", "give each once, with =WEIGHT if it is bigger")
    return source_of(targets, options.sources, with_owners=bool(options.by_owner))


def _check(options: BalanceOptions) -> None:
    """Raise Failure for what does not go together."""
    is_haproxy = options.engine == "haproxy"
    if options.engine not in ("builtin", "haproxy"):
        raise Failure(f"--engine is {options.engine!r}", "use builtin or haproxy")
    if options.mode not in ("http", "tcp"):
        raise Failure(f"--mode is {options.mode!r}", "use http or tcp")
    if options.by_owner and not is_haproxy:
        raise Failure("--by-owner is for --engine haproxy", "the built-in one spreads all requests")
    if options.mode == "tcp" and options.hash_key is not None:
        raise Failure("--mode tcp does not look into requests", "it hashes the client's address")
    if options.mode == "http" and options.send_proxy:
        raise Failure("--send-proxy is for --mode tcp", "in HTTP mode X-Forwarded-For tells it")
    if options.accept_proxy and not options.trust:
        raise Failure("--accept-proxy would believe anybody", "say whom: --trust 10.0.0.0/8")
    if options.accept_proxy and options.mode == "http" and not is_haproxy:
        raise Failure("--accept-proxy is for --mode tcp or --engine haproxy")
    if (is_haproxy or options.mode == "tcp") and options.tls_cert is not None:
        raise Failure("TLS is ended by the built-in balancer in HTTP mode only")


def _for_haproxy(options: BalanceOptions) -> HaproxyOptions:
    set_up_logs(options.log_level, options.log_format)
    return HaproxyOptions(
        listen=options.listen,
        mode="tcp" if options.mode == "tcp" else "http",
        policy=_policy(options),
        hash_by=options.hash_key,
        by_owner=options.by_owner,
        health_path=options.health,
        send_proxy=options.send_proxy,
        trusted=tuple(str(network) for network in networks(options.trust)),
        accept_proxy=options.accept_proxy,
    )


def _run_http(options: BalanceOptions, source: Source) -> int:
    backends = Backends(_policy(options))
    shared = Shared(
        backends,
        BalanceLimits(),
        hash_of=_hash_of(options),
        is_trusted=_trusting(options.trust),
        via=(options.via or "").encode("ascii", "replace"),
        access_log=write_access if options.access_log else None,
    )
    health = None
    if options.health:
        if not options.health.startswith("/") or not options.health.isprintable():
            raise Failure(f"--health is {options.health!r}", "use a path, such as /-/ready")
        health = HealthRules(path=options.health, interval_s=options.health_interval_s)
    context = _context(options.tls_cert, options.tls_key)
    set_up_logs(options.log_level, options.log_format)
    if options.access_log:
        logging.getLogger("perdure.balance.access").setLevel(logging.INFO)
    admin = None if options.admin is None else bind(options.admin)
    bound = bind(options.listen)
    balancer = Balancer(shared, health)
    following = follow(source, into(backends), SystemClock())
    uvloop.run(_balance(balancer, options, following, (bound, admin, context)))
    return 0


async def _balance(
    balancer: Balancer,
    options: BalanceOptions,
    source: Coroutine[Any, Any, None],
    sockets: tuple[socket.socket, socket.socket | None, ssl.SSLContext | None],
) -> None:
    bound, admin, context = sockets
    following = asyncio.create_task(source)
    await asyncio.sleep(0)  # backends that were named are there before the first request
    await balancer.start(bound, context, admin)
    ending = Ending()
    scheme = "http" if context is None else "https"
    host, port = bound.getsockname()[:2]
    count = len(options.backends)
    over = f" over {count} backend{'s' if count > 1 else ''}" if count else ""
    print(f"perdure balances {scheme}://{joined(host, port)}{over}", flush=True)  # noqa: T201
    # The grace lets others notice. Nobody waits for that before a terminal with a Ctrl-C.
    await balancer.drain(0 if await ending.wait() else options.grace_s)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


def _target(text: str) -> Target:
    address, equals, weight = text.partition("=")
    host, port = split(address, _EXAMPLE)
    if equals and not (weight.isascii() and weight.isdecimal() and 1 <= int(weight) <= 1000):
        raise Failure(f"{text!r} has no weight from 1 to 1000", f"for example {_EXAMPLE}=2")
    if port == 0:
        raise Failure(f"{text!r} has no port", f"for example {_EXAMPLE}")
    return Target(name=address, host=host, port=port, weight=int(weight or 1))


def _policy(options: BalanceOptions) -> PolicyName:
    names: tuple[PolicyName, ...] = get_args(PolicyName)
    for name in names:
        if name == options.policy:
            if name == "hash" and options.hash_key is None and options.mode == "http":
                raise Failure("--policy hash does not say of what", "for example --hash path:2")
            return name
    raise Failure(f"--policy is {options.policy!r}", f"use one of: {', '.join(names)}")


def _hash_of(options: BalanceOptions) -> HashOf | None:
    if options.hash_key is None:
        return None
    if options.policy != "hash":
        raise Failure("--hash is for --policy hash")
    try:
        return key_reader(options.hash_key)
    except ValueError as error:
        hint = "use header:NAME, cookie:NAME or path:N"
        raise Failure(f"--hash is {options.hash_key!r}", hint) from error


def _trusting(ranges: list[str]) -> Callable[[str], bool] | None:
    if not ranges:
        return None
    try:
        networks = [ipaddress.ip_network(text) for text in ranges]
    except ValueError as error:
        raise Failure(f"--trust: {error}", "for example --trust 10.0.0.0/8") from error

    def is_trusted(address: str) -> bool:
        if not address:
            return True  # a Unix socket: who may open it is for the file's mode to say
        parsed = ipaddress.ip_address(address.partition("%")[0])
        return any(parsed in network for network in networks)

    return is_trusted


def _context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None or key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise Failure(f"the certificate {certificate} cannot be used: {error}") from error
    return context
