"""CORS: which pages of other origins may call the actors and functions of an App, and read answers.

Without it a page of another origin can read nothing, and its POSTs are refused (`access`). What is
allowed here holds for both: who may read the answer may ask.

Invariants:
- Requests without Origin pay for one look-up, and an App without `cors` for nothing.
- Credentials that a browser adds by itself count only where `credentials` says so. A request that
  brings them all the same is not let in: the browser would hide the answer, but not undo the call.
- The mounted app is not touched: it has middleware of its own, and two would contradict each other.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from perdure.base.errors import DefinitionError, ForbiddenError

if TYPE_CHECKING:
    from perdure.runtime.live import Subscription
    from perdure.web.exchange import Exchange

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_DEFAULT_PORT = re.compile(r"http://.*:80|https://.*:443")
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TAKEN = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "Last-Event-ID",
    "X-Request-Id",
)
_TOLD = (
    "Deprecation",
    "ETag",
    "Idempotent-Replayed",
    "Link",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Sunset",
    "X-Request-Id",
)
_BY_ITSELF = (b"basic", b"digest", b"negotiate", b"ntlm")  # what browsers remember and send
_VARY = b"vary: Origin\r\n"
_ALLOW = b"access-control-allow-origin: "
_SAFE = frozenset((b"GET", b"HEAD"))


class Cors(msgspec.Struct, frozen=True, kw_only=True):
    """Which pages of other origins may call: `App(…, cors=Cors(origins=["https://shop.example"]))`.

    Args:
        origins: as browsers send them, with the port if it is not the usual one; or `"*"`: all.
        credentials: whether such a page may call in the name of who is signed in by a cookie.
        headers: request headers it may set, beside those that Perdure itself looks at.
        expose: response headers it may read, beside those that Perdure itself sends.
        max_age_s: how long a browser may go by an answer to its question beforehand.

    Raises DefinitionError.
    """

    origins: Sequence[str] | Literal["*"]
    credentials: bool = False
    headers: Sequence[str] = ()
    expose: Sequence[str] = ()
    max_age_s: int = 600

    def __post_init__(self) -> None:
        if self.origins == "*":
            if self.credentials:
                raise DefinitionError(
                    "Cors: credentials for all origins would let every page of the web act for who "
                    "is signed in; name the origins"
                )
        elif isinstance(self.origins, str) or not self.origins:
            raise DefinitionError('Cors: origins is a list, like ["https://shop.example"], or "*"')
        else:
            for origin in self.origins:
                _check_origin(origin)
        for name in (*self.headers, *self.expose):
            if not _FIELD_NAME.fullmatch(name):
                raise DefinitionError(f"Cors: {name!r} is no name of a header")
        if self.max_age_s < 0:
            raise DefinitionError(f"Cors: max_age_s is {self.max_age_s}; it cannot be below zero")


class CrossOrigin:
    """What a Cors says, as what is done with each request."""

    def __init__(self, cors: Cors) -> None:
        self._with_credentials = cors.credentials
        told = _listed(_TOLD, cors.expose)
        common = b"access-control-allow-credentials: true\r\n" if cors.credentials else b""
        exposed = common + b"access-control-expose-headers: %b\r\n" % told
        self._for_all: bytes | None = None
        self._by_origin: dict[bytes, bytes] = {}
        if cors.origins == "*":
            self._for_all = _ALLOW + b"*\r\n" + exposed
        else:
            names = [origin.encode() for origin in cors.origins]
            self._by_origin = {name: _ALLOW + name + b"\r\n" + _VARY + exposed for name in names}
        self._preflight_lines = b"access-control-allow-headers: %b\r\n%b" % (
            _listed(_TAKEN, cors.headers),
            b"access-control-max-age: %d\r\n" % cors.max_age_s,
        )

    def handle(
        self,
        answer: Callable[[Any, "Exchange"], None],
        methods_of: Callable[[Any], str],
        route: object,
        exchange: "Exchange",
    ) -> None:
        """Let `answer` take a request, if its origin may ask.

        Args:
            methods_of: what a route answers, for an Allow header; empty: not for other origins.
        """
        fields = exchange.fields
        if b"origin" in fields and (methods := methods_of(route)):
            if exchange.method == b"OPTIONS" and b"access-control-request-method" in fields:
                self._answer_preflight(methods, exchange)
                return
            try:
                self._admit(exchange)
            except ForbiddenError as error:
                exchange.reply_problem(error)
                return
        answer(route, exchange)

    def admitting(
        self, subscribe: Callable[["Exchange"], Awaitable["Subscription"]]
    ) -> Callable[["Exchange"], Awaitable["Subscription"]]:
        """The same for a WebSocket, whose request comes another way."""

        async def admit(exchange: "Exchange") -> "Subscription":
            if b"origin" in exchange.fields:
                self._admit(exchange)
            return await subscribe(exchange)

        return admit

    def _admit(self, exchange: "Exchange") -> None:
        """Let the answer say that its origin may read it. Raises ForbiddenError if it brought what
        would let it do more than that."""
        lines = self._lines_of(exchange)
        if not self._with_credentials and lines != _VARY and _has_credentials(exchange):
            if exchange.method not in _SAFE:
                raise ForbiddenError(
                    "a page of another origin may call this without cookies only: the App's Cors "
                    "does not say credentials=True"
                )
            lines = _VARY
        exchange.lines += lines
        exchange.is_plain = False

    def _answer_preflight(self, methods: str, exchange: "Exchange") -> None:
        exchange.lines = lines = self._lines_of(exchange)
        exchange.is_plain = False
        if lines == _VARY:
            exchange.reply_problem(ForbiddenError("pages of this origin may not call this"))
        else:
            allowed = b"access-control-allow-methods: %b\r\n" % methods.encode("ascii")
            exchange.reply(204, b"", extra=allowed + self._preflight_lines)

    def _lines_of(self, exchange: "Exchange") -> bytes:
        if self._for_all is not None:
            return self._for_all
        return self._by_origin.get(exchange.header(b"origin") or b"", _VARY)


def is_admitted(exchange: "Exchange") -> bool:
    """True if a page of another origin may read the answer to this, and so may ask."""
    return _ALLOW in exchange.lines


def _check_origin(origin: str) -> None:
    if origin == "*":
        raise DefinitionError('Cors: write origins="*" for all origins, and nothing beside it')
    if not _ORIGIN.fullmatch(origin):
        raise DefinitionError(
            f"Cors: {origin!r} is no origin as browsers send it; write scheme, name and port in "
            "small letters and nothing behind them, like https://shop.example or "
            "http://localhost:3000"
        )
    if _DEFAULT_PORT.fullmatch(origin):
        raise DefinitionError(f"Cors: browsers leave the usual port out of {origin!r}; so must you")


def _has_credentials(exchange: "Exchange") -> bool:
    scheme = (exchange.header(b"authorization") or b"").partition(b" ")[0].lower()
    return b"cookie" in exchange.fields or scheme in _BY_ITSELF


def _listed(own: Iterable[str], more: Iterable[str]) -> bytes:
    return ", ".join(dict.fromkeys((*own, *more))).encode("ascii")
