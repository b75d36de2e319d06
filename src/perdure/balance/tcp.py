"""TCP mode: every connection is a pair, of a client's and one to a backend, that passes bytes on.

    accepted → (PROXY header read) → backend chosen → connected, or the next one → bytes both ways

It exists apart from HTTP mode for what is not HTTP, or is TLS that the backend ends itself.

Invariants:
- A byte that was read is written or the pair is cut: nothing is dropped, nothing comes twice.
- No side is read faster than the other takes it; what lies between is bounded.
- The end of one direction is passed on, and the other goes on until it ends too.
- Passing bytes on costs no task and no timer: one sweeper looks after all pairs.
"""

import asyncio
import contextlib
import ipaddress
import logging
import socket
import struct
from collections.abc import Sequence
from typing import cast

import msgspec

from perdure.balance import tcp_metrics
from perdure.balance.admin import AdminConnection
from perdure.balance.backends import Backend, Backends
from perdure.balance.health import HealthChecks, HealthRules
from perdure.balance.policies import hash_of
from perdure.balance.proxy_protocol import HEADER_BYTES_MAX, Endpoint, Header, decode, encode
from perdure.base.errors import ProxyProtocolError
from perdure.base.limits import BalanceLimits

log = logging.getLogger("perdure.balance")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_BACKLOG = 2048
_BUFFER_BYTES_MAX = 256 << 10  # that wait for one side; beyond it the other is not read
_SWEEP_S = 0.5
_NO_LINGER = struct.pack("ii", 1, 0)


class TcpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is told to, and believed of, the neighbours."""

    send_proxy: bool = False  # begin each connection to a backend with a PROXY header
    trusted: Sequence[Network] = ()  # from here connections must begin with one


class TcpFront:
    """Takes connections, and passes each on to a backend."""

    def __init__(
        self,
        backends: Backends,
        limits: BalanceLimits | None = None,
        options: TcpOptions | None = None,
        health: HealthRules | None = None,
    ) -> None:
        """A front that takes no connections yet.

        Args:
            health: how backends are checked; None: not at all.
        """
        self.backends = backends
        self.limits = limits or BalanceLimits()
        self.options = options or TcpOptions()
        self.clock = backends.clock
        self.pairs: set[Pair] = set()
        self.counts = tcp_metrics.Counts()
        self._checks = None if health is None else HealthChecks(backends, health)
        self._is_ready = True
        self._listeners: list[asyncio.Server] = []
        self._admin: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, bound: socket.socket, admin: socket.socket | None = None) -> None:
        """Begin to take connections on bound sockets, which belong to it from here on."""
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(lambda: Pair(self), sock=bound, backlog=_BACKLOG)
        self._listeners.append(listener)
        if admin is not None:
            self._admin = await loop.create_server(
                lambda: AdminConnection(self.metrics, lambda: self.is_ready), sock=admin
            )
            self._listeners.append(self._admin)
        if self._checks is not None:
            self._checks.start()
        self._sweeper = loop.create_task(self._sweep_forever(), name="perdure-tcp-sweeper")

    async def drain(self, grace_s: float, *, is_replaced: bool = False) -> None:
        """Stop gracefully: go on accepting for a grace, in which only `/-/balance/ready` says no;
        give the connections there are `drain_s` to end, and cut the rest.

        Args:
            is_replaced: another process serves at the same address already; so it stays ready.
        """
        limits = self.limits
        end_s = self.clock.monotonic_s() + limits.drain_s
        self._is_ready = is_replaced
        if is_replaced:
            if self._admin is not None:
                self._admin.close()  # who asks shall hear of the one that stays
        elif grace_s:
            await self.clock.sleep(min(grace_s, limits.drain_s))
        self._close_listeners()
        while self.pairs and self.clock.monotonic_s() < end_s:
            await self.clock.sleep(0.02)
        await self.close()

    async def close(self) -> None:
        """Stop at once."""
        self._close_listeners()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        if self._checks is not None:
            await self._checks.close()
        opening = [pair.opening for pair in self.pairs if pair.opening is not None]
        for pair in list(self.pairs):
            pair.cut()
        await asyncio.gather(*opening, return_exceptions=True)

    @property
    def is_ready(self) -> bool:
        """Whether connections should come here."""
        return self._is_ready and self.backends.has_any

    def metrics(self) -> bytes:
        """What it counted, in Prometheus' text format."""
        return tcp_metrics.text(self.counts, self.backends, len(self.pairs))

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def _sweep_forever(self) -> None:
        while True:
            await self.clock.sleep(_SWEEP_S)
            now_s = self.clock.monotonic_s()
            for pair in list(self.pairs):
                pair.sweep(now_s)


class _Side(asyncio.Protocol):
    """One of the two connections of a pair: what comes in here goes out at the other."""

    __slots__ = ("has_ended", "has_moved", "other", "transport", "write_on")

    def __init__(self) -> None:
        self.has_ended = False  # nothing more will come in
        self.has_moved = True  # since the sweeper looked
        self.transport: asyncio.Transport | None = None

    def join(self, other: "_Side") -> None:
        """From now on pass on what comes in."""
        assert other.transport is not None
        self.other = other
        self.write_on = other.transport.write  # looked up once: this is all that each piece costs

    def data_received(self, data: bytes) -> None:
        self.has_moved = True
        self.write_on(data)

    def eof_received(self) -> bool:
        self.has_ended = True
        transport = self.other.transport
        assert transport is not None
        if self.other.has_ended:  # both directions are over, and what is written still leaves
            transport.close()
            return False
        if not transport.is_closing():
            transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.has_moved = True
        if self.other.transport is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()


class _Upstream(_Side):
    """The connection to a backend."""

    __slots__ = ("pair",)

    def __init__(self, pair: "Pair") -> None:
        super().__init__()
        self.pair = pair

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(_BUFFER_BYTES_MAX)
        self.join(self.pair)

    def connection_lost(self, exc: Exception | None) -> None:
        self.pair.lost(self.pair, exc)


class Pair(_Side):
    """A client's connection, and what becomes of it."""

    __slots__ = (
        "_backend",
        "_begun_s",
        "_early",
        "_front",
        "_header",
        "_idle_since_s",
        "_latency_s",
        "_source",
        "_waits_for_header",
        "opening",
        "upstream",
    )

    def __init__(self, front: TcpFront) -> None:
        super().__init__()
        self._front = front
        self._early = b""  # what the client sent while there was no backend yet
        self._header = Header()
        self._waits_for_header = False
        self._backend: Backend | None = None
        self._latency_s = 0.0
        self.upstream: _Upstream | None = None
        self.opening: asyncio.Task[None] | None = None

    # -- the client's side -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        front = self._front
        self.transport = cast("asyncio.Transport", transport)
        front.counts.accepted += 1
        if len(front.pairs) >= front.limits.connections_max:
            front.counts.refused += 1
            self.transport.abort()
            return
        front.pairs.add(self)
        self.transport.set_write_buffer_limits(_BUFFER_BYTES_MAX)
        self._begun_s = self._idle_since_s = front.clock.monotonic_s()
        self._header = Header(
            _endpoint(transport.get_extra_info("peername")),
            _endpoint(transport.get_extra_info("sockname")),
        )
        self._waits_for_header = self._is_from_proxy()
        if not self._waits_for_header:
            self._open()

    def data_received(self, data: bytes) -> None:
        if self.upstream is not None:
            self.has_moved = True
            self.write_on(data)
            return
        self._early += data
        if self._waits_for_header:
            self._read_header()

    def eof_received(self) -> bool:
        if self.upstream is None:
            self.has_ended = True
            return not self._waits_for_header
        return super().eof_received()

    def pause_writing(self) -> None:
        if self.upstream is not None:
            super().pause_writing()

    def resume_writing(self) -> None:
        if self.upstream is not None:
            super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost(self.upstream, exc)

    def lost(self, other: _Side | None, error: Exception | None) -> None:
        """One of the two connections is gone: so is the other, when what it was told has left."""
        if self.opening is not None:
            self.opening.cancel()
        if self in self._front.pairs:
            self._front.pairs.remove(self)
            if self._backend is not None:
                self._backend.end(self._latency_s, failed=False)
        transport = None if other is None else other.transport
        if transport is None or transport.is_closing():
            return
        if error is None:
            transport.close()
        else:
            _reset(transport)

    # -- from accepted to connected --------------------------------------------------------------

    def _is_from_proxy(self) -> bool:
        trusted, source = self._front.options.trusted, self._header.source
        if not trusted or source is None:
            return False
        address = ipaddress.ip_address(source[0])
        return any(address in network for network in trusted)

    def _read_header(self) -> None:
        try:
            found = decode(self._early[:HEADER_BYTES_MAX])
        except ProxyProtocolError as error:
            log.warning("PROXY header refused", extra={"error": str(error)})
            self._refuse()
            return
        if found is not None:
            header, end = found
            self._early = self._early[end:]
            self._waits_for_header = False
            if header.source is not None:
                self._header = header
            self._open()

    def _refuse(self) -> None:
        self._front.counts.refused += 1
        self.cut()

    def _open(self) -> None:
        assert self.transport is not None
        self.transport.pause_reading()
        self.opening = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        front = self._front
        source = self._header.source
        request_hash = None if source is None else hash_of(source[0].encode())
        tried: list[Backend] = []
        for _ in range(front.limits.attempts_max):
            backend = front.backends.choose(request_hash, tried)
            if backend is None:
                break
            tried.append(backend)
            upstream = await self._connect_to(backend)
            if upstream is not None:
                self._begin(backend, upstream)
                return
        front.counts.unserved += 1
        log.warning("no backend for a connection", extra={"tried": len(tried)})
        self.opening = None
        self.cut()

    async def _connect_to(self, backend: Backend) -> _Upstream | None:
        upstream, target = _Upstream(self), backend.target
        loop, clock = asyncio.get_running_loop(), self._front.clock
        begun_s = clock.monotonic_s()
        has_failed = False
        backend.begin()
        try:
            async with asyncio.timeout(self._front.limits.connect_s):
                if target.path is not None:
                    await loop.create_unix_connection(lambda: upstream, target.path)
                else:
                    await loop.create_connection(lambda: upstream, target.host, target.port)
            self._latency_s = clock.monotonic_s() - begun_s
            self._backend = backend
            self._front.counts.passed_on(target.name)
            return upstream
        except (OSError, TimeoutError) as error:
            has_failed = True
            self._front.counts.failed(target.name)
            extra = {"backend": target.name, "error": str(error) or type(error).__name__}
            log.warning("backend not reached", extra=extra)
            return None
        finally:
            if self._backend is not backend:  # or else it ends with the pair
                backend.end(None, failed=has_failed, is_away=has_failed)

    def _begin(self, backend: Backend, upstream: _Upstream) -> None:
        assert self.transport is not None
        assert upstream.transport is not None
        self.opening = None
        self.join(upstream)
        self.upstream = upstream
        if self._front.options.send_proxy:
            upstream.transport.write(encode(self._header.source, self._header.destination))
        if self._early:
            upstream.transport.write(self._early)
            self._early = b""
        if self.has_ended:
            upstream.transport.write_eof()
        self.transport.resume_reading()

    # -- looked after ----------------------------------------------------------------------------

    def cut(self) -> None:
        """End it at once, at both ends."""
        if self.opening is not None:
            self.opening.cancel()
        for side in (self, self.upstream):
            if side is not None and side.transport is not None:
                _reset(side.transport)

    def sweep(self, now_s: float) -> None:
        """Cut it if it has waited for too long."""
        limits, upstream = self._front.limits, self.upstream
        if self._waits_for_header:
            if now_s - self._begun_s > limits.header_timeout_s:
                log.warning("no PROXY header came in time")
                self._refuse()
            return
        if self.has_moved or upstream is None or upstream.has_moved:
            self.has_moved = False
            if upstream is not None:
                upstream.has_moved = False
            self._idle_since_s = now_s
        elif now_s - self._idle_since_s > limits.tunnel_idle_s:
            self._front.counts.idle += 1
            self.cut()


def _reset(transport: asyncio.Transport) -> None:
    """End it with a reset, so that the other end does not take a stump for a whole."""
    if not transport.is_closing():
        with contextlib.suppress(OSError):  # it is reset already
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER
            )
    transport.abort()


def _endpoint(name: object) -> Endpoint | None:
    """Host and port of a socket's name; None for a Unix socket's."""
    if not isinstance(name, tuple):
        return None
    host = name[0].partition("%")[0].removeprefix("::ffff:")  # IPv4 on a socket for both
    return host, name[1]
