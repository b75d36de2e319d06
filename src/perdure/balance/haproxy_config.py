"""The configuration of an HAProxy 2.6 or later, as text.

Requests for actors can go straight to the machine of their owner: HAProxy computes the shard of the
key as `base.shards` does, and looks it up in a map from shards to slots.

Invariant: a shard without an owner, or whose owner cannot be reached, gets 503 and never another
slot. A plain `use-server` would not do: it falls back on balancing, which answers 200 from whoever
is next. So the servers of `owners` have no weight, and a server that is down is still the one.
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import Literal

import msgspec

from perdure.balance.haproxy_slots import Slot, State, slot_name
from perdure.balance.policies import PolicyName
from perdure.base.errors import EngineError
from perdure.base.limits import BalanceLimits
from perdure.base.shards import SHARDS

SLOTS = 64

_NAME = re.compile(r"[A-Za-z0-9_.~-]+")
_PATH = re.compile(r"/[A-Za-z0-9_.~/-]*")
_NOWHERE = "127.0.0.1:9 disabled"  # of a slot that is free; nothing is sent there
_FORWARDED = ("x-forwarded- -m beg", "forwarded", "x-real-ip")  # each rule costs a search
_NO_OWNER = (
    'http-request return status 503 content-type text/plain hdr retry-after 1 string "no owner\\n"'
)
_KEY = "path,field(3,/),url_dec"  # as `base.keys` reads it from a path
_REPEATABLE = "{ method GET HEAD OPTIONS } or { req.hdr(idempotency-key) -m found }"


class HaproxyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the balancer shall do, as far as HAProxy can."""

    listen: str  # HOST:PORT
    mode: Literal["http", "tcp"] = "http"
    policy: PolicyName = "peak-ewma"
    hash_by: str | None = None  # `header:NAME`, `cookie:NAME` or `path:N`, for the policy `hash`
    by_owner: tuple[str, ...] = ()  # the first part of actors' paths
    health_path: str | None = "/-/ready"  # None: a connection is enough; empty: not checked
    health_interval_s: float = 0.5
    send_proxy: bool = False
    trusted: tuple[str, ...] = ()  # networks of proxies that are believed
    accept_proxy: bool = False  # from those connections begin with a PROXY header


class Files(msgspec.Struct, frozen=True):
    """The paths of what belongs to one HAProxy."""

    socket: str
    owners: str


def configuration(options: HaproxyOptions, files: Files, state: State) -> str:
    """The whole file. Raises EngineError for an option that cannot be told to HAProxy."""
    _check(options)
    sections = [
        ("global", _global(files)),
        ("defaults", _defaults(options)),
        ("frontend requests", _frontend(options, files)),
        ("backend web", _web(options, state.slots)),
    ]
    if options.by_owner:
        sections.append(("backend owners", _owners(options, state.slots)))
    return "\n".join("\n  ".join([title, *lines]) + "\n" for title, lines in sections)


def _check(options: HaproxyOptions) -> None:
    if options.mode == "tcp" and (options.by_owner or options.hash_by):
        raise EngineError("TCP mode does not look into requests: no --by-owner, nothing to hash")
    for name in options.by_owner:
        if not _NAME.fullmatch(name):
            raise EngineError(f"{name!r} cannot be the first part of an actor's path")
    if options.health_path and not _PATH.fullmatch(options.health_path):
        raise EngineError(f"{options.health_path!r} is no path for checks of health")
    if options.accept_proxy and not options.trusted:
        raise EngineError("a PROXY header is taken from trusted networks only: name them")
    for network in options.trusted:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise EngineError(f"{network!r} is no network: {error}") from None


def _global(files: Files) -> list[str]:
    return [  # how many connections it takes, it works out itself from how many files it may open
        f"stats socket {files.socket} level admin mode 600",
        f"hard-stop-after {BalanceLimits().drain_s:.0f}s",
    ]


def _defaults(options: HaproxyOptions) -> list[str]:
    limits = BalanceLimits()
    is_tcp = options.mode == "tcp"
    idle_s = limits.tunnel_idle_s if is_tcp else limits.write_timeout_s
    lines = [
        f"mode {options.mode}",
        f"timeout connect {limits.connect_s * 1000:.0f}ms",
        f"timeout client {idle_s:.0f}s",
        f"timeout server {idle_s:.0f}s",
        f"timeout queue {limits.connect_s * 1000:.0f}ms",
        *_checks(options),
        "option redispatch 1",
        f"retries {limits.attempts_max - 1}",
    ]
    if not is_tcp:
        lines += [
            f"timeout http-request {limits.header_timeout_s:.0f}s",
            f"timeout http-keep-alive {limits.idle_timeout_s:.0f}s",
            f"timeout tunnel {limits.tunnel_idle_s:.0f}s",  # WebSockets
            "retry-on conn-failure empty-response response-timeout",
            "http-reuse safe",
        ]
    return lines


def _checks(options: HaproxyOptions) -> list[str]:
    if options.health_path == "":
        return []
    interval_ms = options.health_interval_s * 1000
    return [f"default-server check inter {interval_ms:.0f}ms fall 2 rise 1"]


def _frontend(options: HaproxyOptions, files: Files) -> list[str]:
    lines = [f"bind {options.listen}"]
    if options.trusted:
        lines.append(f"acl trusted src {' '.join(options.trusted)}")
    if options.accept_proxy:
        lines.append("tcp-request connection expect-proxy layer4 if trusted")
    if options.mode == "tcp":
        return [*lines, "default_backend web"]
    # with a PROXY header the source is the client, which nobody trusts
    unless = " unless trusted" if options.trusted and not options.accept_proxy else ""
    lines += [f"http-request del-header {name}{unless}" for name in _FORWARDED]
    lines += [
        "option forwardfor",
        f"http-request set-header x-forwarded-proto http{unless}",
        f"http-request set-header x-forwarded-host %[req.hdr(host)]{unless}",
        "http-request set-header x-request-id %[uuid()] unless { req.hdr(x-request-id) -m found }",
        f"http-request disable-l7-retry unless {_REPEATABLE}",
    ]
    if options.by_owner:
        lines += _owner_rules(options.by_owner, files.owners)
    return [*lines, "default_backend web"]


def _owner_rules(names: Sequence[str], path: str) -> list[str]:
    return [
        f"acl for_actor path_beg {' '.join(f'/{name}/' for name in names)}",
        f"http-request set-var(txn.shard) {_KEY},xxh32,mod({SHARDS}) if for_actor",
        # map_int would search a list: see HAProxy's own words on the types of maps
        f"http-request set-var(txn.owner) var(txn.shard),map_str({path}) if for_actor",
        f"{_NO_OWNER} if for_actor !{{ var(txn.owner) -m found }}",
        "use_backend owners if for_actor",
    ]


def _web(options: HaproxyOptions, slots: Sequence[Slot]) -> list[str]:
    lines = [f"balance {_policy(options)}"]
    if options.policy == "hash":
        lines.append("hash-type consistent")
    if options.health_path:
        lines += [f"option httpchk GET {options.health_path}", "http-check expect status 200"]
    extra = " send-proxy-v2" if options.send_proxy else ""
    for index, slot in enumerate(slots):
        weight = "" if slot.target is None else f" weight {slot.target.weight}"
        lines.append(f"server {slot_name(index)} {_address(slot)}{weight}{extra}")
    return lines


def _policy(options: HaproxyOptions) -> str:
    if options.policy == "round-robin":
        return "roundrobin"
    if options.policy == "least-connections":
        return "leastconn"
    if options.policy == "peak-ewma":
        return "random(2)"  # of two the one with less to do: HAProxy does not weigh how fast it is
    if options.mode == "tcp":
        return "source"
    kind, _, name = (options.hash_by or "").partition(":")
    if kind == "header" and _NAME.fullmatch(name):
        return f"hash req.hdr({name})"
    if kind == "cookie" and _NAME.fullmatch(name):
        return f"hash req.cook({name})"
    if kind == "path" and name.isascii() and name.isdecimal() and int(name) > 0:
        return f"hash path,field({int(name) + 1},/)"
    raise EngineError(f"{options.hash_by!r} is not header:NAME, cookie:NAME or path:N")


def _owners(options: HaproxyOptions, slots: Sequence[Slot]) -> list[str]:
    lines = [
        "retries 1",
        "retry-on conn-failure",
        "option persist",  # a server that is down is still the only one …
        "no option redispatch",  # … and no other may take its place
        "use-server %[var(txn.owner)] if { var(txn.owner) -m found }",
    ]
    for index, slot in enumerate(slots):
        name = slot_name(index)
        # weight 0: nobody is ever chosen by balancing; and no check beside that of its twin
        checked = "" if options.health_path == "" else f" no-check track web/{name}"
        lines.append(f"server {name} {_address(slot)} weight 0{checked}")
    return lines


def _address(slot: Slot) -> str:
    target = slot.target
    return _NOWHERE if target is None else f"{_bracketed(target.host)}:{target.port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
