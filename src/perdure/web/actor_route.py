"""The route to actors: `POST /{class}/{key}/{method}`, arguments as one JSON object.

The path from a parsed request to a running turn: names → key → access → arguments → submit. All of
it is one call without a task, unless the app has to ask somebody who the caller is.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

import msgspec

from perdure.actor.methods import ActorType, Method
from perdure.actor.model import Caller
from perdure.actor.state_tags import Look
from perdure.actor.turn import Turn
from perdure.base.errors import (
    BadArgumentsError,
    MethodNotAllowedError,
    NotFoundError,
    PerdureError,
    StoppingError,
)
from perdure.base.keys import key_of_path_segment
from perdure.base.trail import current_trail
from perdure.runtime.gateway import Gateway
from perdure.runtime.live import Subscription
from perdure.runtime.node import Node
from perdure.web.access import Identify, caller_of, check_access, check_body, refuse_cross_site
from perdure.web.entity_tags import reply_tagged, wanted_states
from perdure.web.live_wire import split_query
from perdure.web.metrics import CallMeter
from perdure.web.page_links import link_next
from perdure.web.queries import values_of
from perdure.web.rate_limits import RatesOfRoutes
from perdure.web.versions import lines_of, segments_of

if TYPE_CHECKING:
    from perdure.web.exchange import Exchange

log = logging.getLogger("perdure.web")

_REQUEST_ID_BYTES_MAX = 255
_READING = frozenset((b"GET", b"HEAD"))
_REPLAYED = b"idempotent-replayed: true\r\n"


class HttpTurn(Turn, kw_only=True):
    """A turn whose caller waits for an HTTP reply."""

    exchange: "Exchange"
    node: "Node | Gateway"
    meter: CallMeter

    def succeed(self, body: bytes) -> None:
        self.meter.note(self.node.now_s() - self.deadline_s)
        if self.replayed:
            self.exchange.reply(200, body, extra=_REPLAYED)
        else:
            self.exchange.reply(200, body)

    def fail(self, error: BaseException) -> None:
        if self.node.takes_again(self, error):
            return
        if not isinstance(error, PerdureError):
            log.error("turn failed", exc_info=error, extra=self.names())
        past_deadline_s = self.node.now_s() - self.deadline_s
        self.meter.failed(getattr(error, "status", 500), past_deadline_s)
        self.exchange.reply_problem(error)


class LookingHttpTurn(HttpTurn, kw_only=True):
    """A GET, or what came with If-Match: it looks at the state that it begins on."""

    asks_first = True

    look: Look = None  # type: ignore[assignment]  # set as soon as it is made

    def __post_init__(self) -> None:
        self.look = Look(wanted_states(self.exchange))

    def begin(self) -> bool:
        return self.look.begin(self)

    @property
    def holds_alone(self) -> bool:
        return self.look.wanted is not None or super().holds_alone

    def succeed(self, body: bytes) -> None:
        if self.replayed or self.exchange.method == b"POST":
            super().succeed(body)
        else:
            self.meter.note(self.node.now_s() - self.deadline_s)
            if self.method.is_paged:
                link_next(self.exchange, body)
            reply_tagged(self.exchange, body, self.look.tag(self))


class ActorRoutes:
    """The exposed methods of an app, as an endpoint of the web server."""

    def __init__(
        self,
        actor_types: list[ActorType],
        node: Node | Gateway,
        identify: Identify | None,
        rates: RatesOfRoutes,
        versions: int,
    ) -> None:
        self._node = node
        self._identify = identify
        self._default_access = "signed_in" if identify else "anyone"
        self._types: dict[bytes, ActorType] = {}
        self._exposed: dict[bytes, dict[bytes, Method]] = {}
        self._segments = frozenset(segment.encode() for segment in segments_of(versions))
        for actor_type in actor_types:
            name = _segment(actor_type.route_name)
            self._add(name, actor_type, 1)
            for version, segment in enumerate(segments_of(versions), start=1):
                self._add(b"%b/%b" % (segment.encode(), name), actor_type, version)
        if self._segments:  # else no request pays for it
            self.match = self._match_versioned  # type: ignore[method-assign]
        self._dated = {
            (path, name): lines
            for path, exposed in self._exposed.items()
            for name, method in exposed.items()
            if (lines := lines_of(method.lifetime))
        }
        if self._dated:
            self.handle = self._handle_dated  # type: ignore[method-assign]
        self._rates = {
            method: found
            for method in self._methods()
            if (found := rates.of(method.options.rate, _rate_name(method))) is not None
        }
        for_all = frozenset(method for method in self._methods() if self._is_for_all(method))
        self._open = for_all.difference(self._rates)
        self._counted_at_once = (
            for_all.intersection(self._rates) if node.counts_all else frozenset()
        )
        self.meters = {
            method: CallMeter(_timeout_s(method, node))
            for exposed in self._exposed.values()
            for method in exposed.values()
        }

    def _add(self, path: bytes, actor_type: ActorType, version: int) -> None:
        self._types[path] = actor_type
        exposed = actor_type.exposed_in(version)
        self._exposed[path] = {_segment(name): method for name, method in exposed.items()}

    def _methods(self) -> Iterable[Method]:
        """All that can be called or watched, each once, in however many versions it is."""
        exposed = [method for methods in self._exposed.values() for method in methods.values()]
        fields = [one.live_fields for one in self._types.values() if one.live_fields is not None]
        return dict.fromkeys([*exposed, *fields])

    def _is_for_all(self, method: Method) -> bool:
        """True if everybody may call it, and nobody asks who that is."""
        access = method.options.access or self._default_access
        return self._identify is None and access == "anyone"

    def fold(self) -> None:
        """Count the calls that ended since the last time."""
        for meter in self.meters.values():
            meter.fold()

    def match(self, _method: bytes, path: bytes) -> list[bytes] | None:
        """The path's parts if it is `/{known class}/{key}/{method}`, perhaps with `/live`."""
        parts = path.split(b"/")
        if len(parts) == 4 and parts[1] in self._types:
            return parts
        if len(parts) == 5 and parts[1] in self._types and parts[4] == b"live":
            return [*parts[:3], parts[3] + b"/live"]
        return None

    def _match_versioned(self, _method: bytes, path: bytes) -> list[bytes] | None:
        """The same behind a version: the class's part of the path is then `v2/cart`, a name that
        the tables have and no part of a path can be."""
        _, _, behind = path.partition(b"/")
        segment, _, rest = behind.partition(b"/")
        if segment not in self._segments:
            return ActorRoutes.match(self, _method, path)
        parts = ActorRoutes.match(self, _method, b"/" + rest)
        return None if parts is None else [b"", b"%b/%b" % (segment, parts[1]), *parts[2:]]

    def _handle_dated(self, parts: object, exchange: "Exchange") -> None:
        """The same, and the answer tells of the end of what is asked."""
        _, class_name, _, name = cast("list[bytes]", parts)
        lines = self._dated.get((class_name, name.removesuffix(b"/live")))
        if lines is not None:
            exchange.lines += lines
            exchange.is_plain = False
        ActorRoutes.handle(self, parts, exchange)

    def template(self, parts: list[bytes]) -> str | None:
        """The path with `{key}` for the key; None if there is nothing of that name."""
        _, class_name, _, name = parts
        method = self._exposed[class_name].get(name) or self.live_method(parts)
        if method is None:
            return None
        version, slash, _ = class_name.decode().rpartition("/")
        return f"/{version}{slash}{method.actor_type.route_name}/{{key}}/{name.decode()}"

    def handle(self, parts: object, exchange: "Exchange") -> None:
        """Answer one request, now or when its turn is committed."""
        try:
            self._handle(parts, exchange)  # type: ignore[arg-type]
        except PerdureError as error:
            exchange.reply_problem(error)

    def _handle(self, parts: list[bytes], exchange: "Exchange") -> None:
        _, class_name, raw_key, method_name = parts
        method = self._exposed[class_name].get(method_name)
        if method is None:
            self._follow(parts, exchange)
            return
        key = key_of_path_segment(raw_key, self._node.limits.key_bytes_max)
        fields = exchange.fields
        if exchange.method == b"POST" and (b"origin" in fields or b"sec-fetch-site" in fields):
            refuse_cross_site(exchange)
        request_id = _request_id(exchange) if b"idempotency-key" in fields else None
        if method in self._open:
            self._submit(method, key, exchange, None, request_id)
        elif method in self._counted_at_once:
            _refuse_other_methods(method, exchange)
            self._rates[method].take(exchange, None, key)
            self._submit(method, key, exchange, None, request_id)
        else:
            self._node.spawn(self._admit(method, key, exchange, request_id))

    async def _admit(
        self, method: Method, key: str, exchange: "Exchange", request_id: str | None
    ) -> None:
        """Find out who calls, and whether they may; only then look at what they sent."""
        try:
            caller = await caller_of(self._identify, exchange)
            if method in self._rates:
                _refuse_other_methods(method, exchange)
                await self._count(method, exchange, caller, key)
            access = method.options.access or self._default_access
            await check_access(access, caller, key)
            if request_id is not None and caller is not None:
                # nobody replays another's; a header cannot hold the line end, so no two mix
                request_id = f"{caller.id}\n{request_id}"
            self._submit(method, key, exchange, caller, request_id)
        except asyncio.CancelledError:
            exchange.reply_problem(StoppingError("this process is stopping"))
            raise
        except Exception as error:
            if not isinstance(error, PerdureError):
                log.exception("identify failed", exc_info=error)
            exchange.reply_problem(error)

    def _submit(
        self,
        method: Method,
        key: str,
        exchange: "Exchange",
        caller: Caller | None,
        request_id: str | None,
    ) -> None:
        options, meter = method.options, self.meters[method]
        timeout_s = meter.timeout_s
        if options.body_bytes_max is not None:
            check_body(exchange, options.body_bytes_max)
        if options.timeout_s is not None:
            # for one that waits behind others: the mailbox looks at deadlines when their turn comes
            exchange.expires_s = time.monotonic() + timeout_s
        make_turn = HttpTurn
        if exchange.method != b"POST" or b"if-match" in exchange.fields:
            make_turn = LookingHttpTurn
        turn = make_turn(
            method,
            self._arguments(method, exchange),
            deadline_s=self._node.now_s() + timeout_s,
            caller=caller,
            request_id=request_id,
            trail=current_trail.get(),
            exchange=exchange,
            node=self._node,
            meter=meter,
        )
        self._node.submit(method.actor_type, key, turn)

    def _arguments(self, method: Method, exchange: "Exchange") -> Any:
        if exchange.method == b"POST":
            if self._node.passes_arguments_on:
                return msgspec.Raw(exchange.body or b"{}")
            return method.arguments_from_json(exchange.body)
        if method.read and exchange.method in _READING:
            return method.arguments_from_text(values_of(exchange.query))
        raise _method_not_allowed(method)

    async def _count(
        self, method: Method, exchange: "Exchange", caller: Caller | None, key: str
    ) -> None:
        """Raise RateLimitError if this is asked too often."""
        rates = self._rates.get(method)
        if rates is not None and (waiting := rates.take(exchange, caller, key)) is not None:
            await waiting

    # -- live views ------------------------------------------------------------------------------

    def live_method(self, parts: list[bytes]) -> Method | None:
        """The method behind `/{class}/{key}/{method}/live` or `/{class}/{key}/live`."""
        _, class_name, _, name = parts
        if name == b"live" and name not in self._exposed[class_name]:
            return self._types[class_name].live_fields
        method = self._exposed[class_name].get(name.removesuffix(b"/live"))
        is_live = method is not None and method.options.live and name.endswith(b"/live")
        return method if is_live else None

    async def subscribe(self, parts: list[bytes], exchange: "Exchange") -> Subscription:
        """Let a client watch a live method, if it may call it. It is asked only now: who loses
        access keeps what they watch until they connect anew. Raises PerdureError."""
        method = self.live_method(parts)
        if method is None:
            raise NotFoundError(f"{parts[1].decode()} has nothing live and exposed of that name")
        if exchange.method != b"GET":
            raise MethodNotAllowedError(f"a live view of {method} answers GET", "GET")
        key = key_of_path_segment(parts[2], self._node.limits.key_bytes_max)
        refuse_cross_site(exchange)
        caller = await caller_of(self._identify, exchange)
        await self._count(method, exchange, caller, key)
        await check_access(method.options.access or self._default_access, caller, key)
        values, token = split_query(exchange.query, exchange.header(b"last-event-id"))
        return self._node.live.subscribe(method, key, method.arguments_from_text(values), token)

    def _follow(self, parts: list[bytes], exchange: "Exchange") -> None:
        if self.live_method(parts) is None:
            raise NotFoundError(f"{parts[1].decode()} has no exposed method of that name")
        self._node.spawn(self._stream(parts, exchange))

    async def _stream(self, parts: list[bytes], exchange: "Exchange") -> None:
        try:
            exchange.stream(await self.subscribe(parts, exchange))
        except asyncio.CancelledError:
            exchange.reply_problem(StoppingError("this process is stopping"))
            raise
        except Exception as error:
            if not isinstance(error, PerdureError):
                log.exception("identify failed", exc_info=error)
            exchange.reply_problem(error)


def _segment(name: str) -> bytes:
    """The name as it stands in a path: Python's may be of any letters."""
    return quote(name).encode()


def _request_id(exchange: "Exchange") -> str:
    value = (exchange.header(b"idempotency-key") or b"").strip(b'"')
    if not 0 < len(value) <= _REQUEST_ID_BYTES_MAX:
        raise BadArgumentsError(
            f"Idempotency-Key has {len(value)} bytes; 1 to {_REQUEST_ID_BYTES_MAX} are allowed",
            "Idempotency-Key",
        )
    return value.decode("latin-1")


def _rate_name(method: Method) -> str:
    return f"{method.actor_type.route_name}.{method.name}"


def _refuse_other_methods(method: Method, exchange: "Exchange") -> None:
    """Raise MethodNotAllowedError where the HTTP method is not answered."""
    if exchange.method != b"POST" and not (method.read and exchange.method in _READING):
        raise _method_not_allowed(method)


def _method_not_allowed(method: Method) -> MethodNotAllowedError:
    allowed = "GET, HEAD, POST" if method.read else "POST"
    return MethodNotAllowedError(f"{method} answers {allowed}", allowed)


def _timeout_s(method: Method, node: Node | Gateway) -> float:
    """How long a call may take."""
    limit_s, own_s = node.limits.call_timeout_s, method.options.timeout_s
    return limit_s if own_s is None else min(limit_s, own_s)
