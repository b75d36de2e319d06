"""What `perdure balance` was told, and whether it goes together."""

import ipaddress
import socket
from collections.abc import Callable, Mapping
from typing import get_args

import msgspec

from perdure.balance.backends import Target
from perdure.balance.keys import HashOf, key_reader
from perdure.balance.policies import PolicyName
from perdure.balance.sources import WEIGHT_MAX, target_of
from perdure.base.errors import SourceError
from perdure.cli.address import joined
from perdure.cli.balance_sources import SourceOptions
from perdure.cli.choices import check_logs
from perdure.cli.failures import Failure

_EXAMPLE = "10.0.0.1:8000"

_UNSEEN = "TCP mode does not look into requests"
_HAPROXYS = "HAProxy is given none of that; the built-in balancer has it"
_FOR_PROXIES = "in HTTP mode X-Forwarded-For tells who asks"
_SPREADS = "the built-in balancer spreads all requests; --engine haproxy can do that"

# What an option would have no effect with, by engine and mode; and why, or what to do instead.
_MEANINGLESS: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("builtin", "http"): {
        "--by-owner": _SPREADS,
        "--send-proxy": _FOR_PROXIES,
        "--accept-proxy": "it is for --mode tcp and --engine haproxy",
    },
    ("builtin", "tcp"): {
        "--by-owner": _UNSEEN,
        "--hash": f"{_UNSEEN}; it hashes the client's address",
        "--via": _UNSEEN,
        "--access-log": _UNSEEN,
        "--tls-cert": "it passes TLS on unopened, to backends that end it",
    },
    ("haproxy", "http"): {
        "--send-proxy": _FOR_PROXIES,
        "--via": _HAPROXYS,
        "--access-log": _HAPROXYS,
        "--admin": _HAPROXYS,
        "--grace": _HAPROXYS,
        "--tls-cert": _HAPROXYS,
        "--no-supervisor": "HAProxy is a child of this process anyway",
    },
    ("haproxy", "tcp"): {
        "--by-owner": _UNSEEN,
        "--hash": f"{_UNSEEN}; it hashes the client's address",
        "--via": _UNSEEN,
        "--access-log": _UNSEEN,
        "--admin": _HAPROXYS,
        "--grace": _HAPROXYS,
        "--tls-cert": "it passes TLS on unopened, to backends that end it",
        "--no-supervisor": "HAProxy is a child of this process anyway",
    },
}


class BalanceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `perdure balance` was told; None: nothing."""

    backends: list[str]
    sources: SourceOptions = SourceOptions()
    mode: str = "http"
    engine: str = "builtin"
    by_owner: tuple[str, ...] = ()
    send_proxy: bool = False
    accept_proxy: bool = False
    listen: str
    policy: str = "peak-ewma"
    hash_key: str | None = None
    health: str | None = None
    health_interval_s: float = 0.5
    trust: tuple[str, ...] = ()
    via: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    admin: str | None = None
    access_log: bool = False
    grace_s: float | None = None
    with_supervisor: bool = True
    log_level: str = "warning"
    log_format: str = "text"

    @property
    def is_haproxy(self) -> bool:
        """Whether HAProxy does the work."""
        return self.engine == "haproxy"

    @property
    def is_tcp(self) -> bool:
        """Whether bytes are passed on unseen."""
        return self.mode == "tcp"

    @property
    def health_path(self) -> str | None:
        """The path that backends are asked for; None: a connection is enough; empty: they are not
        checked."""
        if self.health is None:
            return None if self.is_tcp else "/-/ready"
        return self.health

    def to_line(self) -> bytes:
        """As a line for the descriptor that a process inherits: a store's URL holds a password."""
        return msgspec.json.encode(self) + b"\n"


def options_from_line(line: bytes) -> BalanceOptions:
    """The options that `to_line` wrote."""
    return msgspec.json.decode(line, type=BalanceOptions)


def check(options: BalanceOptions) -> None:
    """Raise Failure for what does not go together, or cannot be understood."""
    if options.engine not in ("builtin", "haproxy"):
        raise Failure(f"--engine is {options.engine!r}", "use builtin or haproxy")
    if options.mode not in ("http", "tcp"):
        raise Failure(f"--mode is {options.mode!r}", "use http or tcp")
    for option, hint in _MEANINGLESS[options.engine, options.mode].items():
        if _given(options)[option]:
            engine = "" if options.engine == "builtin" else "--engine haproxy "
            where = f"{engine}--mode {options.mode}"
            raise Failure(f"{option} has no effect with {where}", hint)
    if (options.tls_cert is None) != (options.tls_key is None):
        raise Failure("--tls-cert and --tls-key go together")
    if options.accept_proxy and not options.trust:
        raise Failure("--accept-proxy would believe anybody", "say whom: --trust 10.0.0.0/8")
    if options.is_tcp and options.trust and not options.accept_proxy:
        raise Failure(f"--trust has no effect: {_UNSEEN}", "is --accept-proxy missing?")
    health = options.health_path
    if health and not (health.startswith("/") and health.isprintable()):
        raise Failure(f"--health is {health!r}", "use a path, such as /-/ready")
    check_logs(options.log_level, options.log_format)
    networks(options)
    policy(options)
    hash_of(options)


def _given(options: BalanceOptions) -> Mapping[str, bool]:
    return {
        "--by-owner": bool(options.by_owner),
        "--send-proxy": options.send_proxy,
        "--accept-proxy": options.accept_proxy,
        "--hash": options.hash_key is not None,
        "--via": options.via is not None,
        "--access-log": options.access_log,
        "--admin": options.admin is not None,
        "--grace": options.grace_s is not None,
        "--tls-cert": options.tls_cert is not None or options.tls_key is not None,
        "--no-supervisor": not options.with_supervisor,
    }


def targets(options: BalanceOptions) -> list[Target]:
    """The backends that were named; raises Failure."""
    found = [target(text) for text in options.backends]
    if len({one.name for one in found}) < len(found):
        raise Failure("a backend is named twice", "give each once, with =WEIGHT if it is bigger")
    return found


def target(text: str) -> Target:
    """`HOST:PORT` or `HOST:PORT=WEIGHT`; raises Failure."""
    address, equals, weight = text.partition("=")
    is_number = weight.isascii() and weight.isdecimal()
    if equals and not (is_number and 1 <= int(weight) <= WEIGHT_MAX):
        hint = f"for example {_EXAMPLE}=2"
        raise Failure(f"{text!r} has no weight from 1 to {WEIGHT_MAX}", hint)
    try:
        return target_of(address, weight=int(weight or 1))
    except SourceError as error:
        raise Failure(str(error), f"for example {_EXAMPLE}") from error


def policy(options: BalanceOptions) -> PolicyName:
    """The policy; raises Failure."""
    names: tuple[PolicyName, ...] = get_args(PolicyName)
    for name in names:
        if name == options.policy:
            if name == "hash" and options.hash_key is None and not options.is_tcp:
                raise Failure("--policy hash does not say of what", "for example --hash path:2")
            return name
    raise Failure(f"--policy is {options.policy!r}", f"use one of: {', '.join(names)}")


def hash_of(options: BalanceOptions) -> HashOf | None:
    """What the policy `hash` goes by; raises Failure."""
    if options.hash_key is None:
        return None
    if options.policy != "hash":
        raise Failure("--hash is for --policy hash")
    try:
        return key_reader(options.hash_key)
    except ValueError as error:
        hint = "use header:NAME, cookie:NAME or path:N"
        raise Failure(f"--hash is {options.hash_key!r}", hint) from error


def greeting(options: BalanceOptions, bound: socket.socket) -> str:
    """The line that says where it balances."""
    scheme = "tcp" if options.is_tcp else "http" if options.tls_cert is None else "https"
    host, port = bound.getsockname()[:2]
    count = len(options.backends)
    over = f" over {count} backend{'s' if count > 1 else ''}" if count else ""
    return f"perdure balances {scheme}://{joined(host, port)}{over}"


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(options: BalanceOptions) -> list[Network]:
    """The networks that --trust names; raises Failure."""
    try:
        return [ipaddress.ip_network(text) for text in options.trust]
    except ValueError as error:
        raise Failure(f"--trust: {error}", "for example --trust 10.0.0.0/8") from error


def trusting(trusted: list[Network]) -> Callable[[str], bool] | None:
    """Whether an address is one of a proxy that is trusted; None: there is none."""
    if not trusted:
        return None

    def is_trusted(address: str) -> bool:
        if not address:
            return True  # a Unix socket: who may open it is for the file's mode to say
        parsed = ipaddress.ip_address(address.partition("%")[0])
        mapped = getattr(parsed, "ipv4_mapped", None)  # on a socket for both
        return any((mapped or parsed) in network for network in trusted)

    return is_trusted
