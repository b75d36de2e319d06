"""`App`: the actor classes of one application, and the way to run them.

Three ways in, one behaviour: `perdure run`, whose server takes the App as its endpoint; any ASGI
server or framework, for which the App is an ASGI application; and `async with app:` in a script or
test. All of them start the same node.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from msgspec.structs import replace

from perdure.actor.methods import ActorType, actor_type_of
from perdure.actor.model import Actor, anyone, signed_in
from perdure.actor.rate import Rate, RateOrRates, rates_of
from perdure.actor.versions import newest_of
from perdure.base.clock import Clock
from perdure.base.errors import (
    DefinitionError,
    NotFoundError,
    NotRunningError,
    StoppingError,
    StoreError,
)
from perdure.base.limits import Limits
from perdure.base.metrics import Family, gauge
from perdure.base.trail import tracing
from perdure.runtime.cluster_node import ClusterNode
from perdure.runtime.gateway import Gateway
from perdure.runtime.node import Node
from perdure.runtime.outlets import Outlet
from perdure.runtime.place import Place, private_place
from perdure.runtime.rates import Rates
from perdure.runtime.tracing import traced
from perdure.store.api import Store
from perdure.store.registry import Registry
from perdure.store.url import registry_from_url, store_from_url
from perdure.web.access import Identify
from perdure.web.actor_route import ActorRoutes
from perdure.web.asgi_exchange import AsgiExchange, answer_asgi, follow_scope, path_of
from perdure.web.compression import Compressing
from perdure.web.cors import Cors, CrossOrigin
from perdure.web.docs_page import OPENAPI, PAGE, DocsPages
from perdure.web.function_route import FunctionRoutes
from perdure.web.functions import Functions, Match, Registration
from perdure.web.live_asgi import send_messages
from perdure.web.live_script import answer_script
from perdure.web.metrics import Metrics, call_families
from perdure.web.openapi import Docs
from perdure.web.operations import Operation, operations_of
from perdure.web.process_families import LoopLag, process_families
from perdure.web.rate_limits import RatesOfRoutes
from perdure.web.shared import Subscribe
from perdure.web.sites import site_of
from perdure.web.versions import refuse_segments

if TYPE_CHECKING:
    from perdure.web.exchange import Exchange

AsgiApp = Callable[[Any, Any, Any], Any]

_HEALTH = frozenset((b"/-/live", b"/-/ready"))
_SCRIPT = b"/-/live.js"
_METRICS = b"/-/metrics"
_OWN_PATHS = _HEALTH | {_SCRIPT, _METRICS, OPENAPI, PAGE}


class App(Registration):
    """An application made of actor classes, and of plain functions beside them.

    Args:
        actors: the classes; their names must differ.
        identify: turns a request (a Starlette `HTTPConnection`) into a `Caller`, or None for a
            guest; may be async. With it, exposed methods are for signed-in callers by default.
        mount: an ASGI application that gets every request which is not for an actor or a file.
        static: directories of files by the path under which they are served, as in
            `{"/assets": "public"}`.
        compress: whether long answers of actors (under `perdure run`) and of the mounted app are
            compressed for clients that accept it. Not where an answer holds a secret beside
            something that an attacker may choose: its length would tell of the secret.
        store: `sqlite:DIRECTORY`, `memory:`, or a Store. `perdure run --data/--store` override it.
        limits: the bounds of this process.
        docs: whether `/-/docs` and `/-/openapi.json` are there; a `Docs` says more. By default
            while there is no `identify`, or for who asks this machine from itself.
        cors: which pages of other origins may call what is exposed: a `Cors`. By default none.
        outlets: where `self.outbox.send(name, …)` goes: async functions that take a `Delivery`.
        rate: how often all that is exposed here may be asked, in sum: a `Rate`, or several.
        trace_keys: whether traces, where they are made, name the keys of actors and the paths of
            requests. They may be personal, and traces leave the machine.
        clock: where the time comes from; tests put one of their own here.

    Raises DefinitionError when a class cannot work as an actor.
    """

    _cross_origin: CrossOrigin | None = None

    def __init__(
        self,
        *actors: type[Actor],
        identify: Identify | None = None,
        mount: AsgiApp | None = None,
        static: Mapping[str, str | Path] | None = None,
        compress: bool = False,
        store: str | Store = "sqlite:data",
        limits: Limits | None = None,
        outlets: Mapping[str, Outlet] | None = None,
        docs: Docs | bool | None = None,
        cors: Cors | None = None,
        rate: RateOrRates | None = None,
        trace_keys: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self.actor_types = [actor_type_of(_actor_class(actor)) for actor in actors]
        _refuse_same_names(self.actor_types)
        self.functions = Functions(
            [actor_type.route_name for actor_type in self.actor_types],
            has_identify=identify is not None,
        )
        self.identify = identify
        self._docs = DocsPages(docs, identify, self.operations, lambda: self.versions)
        self.cors = cors
        if cors is not None:  # else requests do not even pass by it
            self._cross_origin = CrossOrigin(cors)
            self.handle = partial(  # type: ignore[method-assign]
                self._cross_origin.handle, self.handle, _methods_for_others
            )
        self.mount = mount
        names = [actor_type.route_name for actor_type in self.actor_types]
        self.compress = compress
        answering = Compressing(mount) if compress and mount is not None else mount
        self.site = site_of(static or {}, answering, names)
        self.limits = limits or Limits()
        self.outlets = outlets or {}
        self.ready = False
        self.metrics = Metrics()
        self.metrics.add("process", process_families)
        self.metrics.add("ready", self._ready_family)
        self._loop_lag = LoopLag(self._fold)
        self._trace_keys = trace_keys
        self._clock = clock
        self._rate = rates_of(rate)
        self._rates: RatesOfRoutes | None = None
        self._store = store
        self._starting = asyncio.Lock()
        self._node: Node | Gateway | None = None
        self._on_end = ExitStack()
        self._routes: ActorRoutes | None = None
        self._function_routes: FunctionRoutes | None = None

    # -- life ------------------------------------------------------------------------------------

    async def start(
        self,
        store: str | Store | Sequence[str] | None = None,
        on_broken: Callable[[Exception], None] | None = None,
        place: Place | None = None,
    ) -> None:
        """Open the store and take calls; a second start does nothing. Raises StoreError.

        Args:
            store: instead of the App's own; several URLs are the cells that its actors are spread
                over, in an order that stays the same.
            place: what this process does in a cluster; by default it is alone, and on PostgreSQL
                gets OtherClusterError where others run.
        """
        async with self._starting:
            if self._node is not None:
                return
            self.check()
            versions = self.versions
            self.functions.close(versions)
            with ExitStack() as self._on_end:
                self._on_end.enter_context(traced(self.actor_types, with_keys=self._trace_keys))
                node = self._make_node(_stores(store or self._store), on_broken, place or Place())
                limiter = Rates(node)
                self._rates = rates = RatesOfRoutes(self._rate, limiter)
                functions = FunctionRoutes(self.functions, node, self.identify, rates)
                routes = ActorRoutes(self.actor_types, node, self.identify, rates, versions)
                await node.start()
                self._on_end = self._on_end.pop_all()
            self._node, self._routes, self._function_routes = node, routes, functions
            self._loop_lag.start()
            self.metrics.add("node", node.families)
            self.metrics.add("calls", lambda: call_families(routes.meters))
            self.metrics.add("rates", limiter.families)
            self.metrics.add("loop", self._loop_lag.families)
            self.ready = True

    def _make_node(
        self,
        stores: Sequence[str | Store],
        on_broken: Callable[[Exception], None] | None,
        place: Place,
    ) -> Node | Gateway:
        if place.role == "web":
            registries = [_registry_of(store) for store in stores]
            return Gateway(
                self.actor_types, registries, place, limits=self.limits, clock=self._clock
            )
        if place.role == "all" and len(stores) > 1:
            raise StoreError("one process owns actors of one database only, and was given several")
        store = stores[place.cell]
        opened = store_from_url(store) if isinstance(store, str) else store
        options: dict[str, Any] = {
            "limits": self.limits,
            "outlets": self.outlets,
            "clock": self._clock,
            "on_broken": on_broken,
        }
        if place.listen is None:
            if opened.registry is None:
                return Node(self.actor_types, opened, **options)
            place = self._on_end.enter_context(private_place())
        abroad = {
            number: registry
            for number, store in enumerate(stores)
            if number != place.cell and (registry := _registry_of(store)) is not None
        }
        return ClusterNode(self.actor_types, opened, place, abroad=abroad, **options)

    async def stop(self, drain_s: float | None = None) -> None:
        """Let running turns end, commit what they did, and close the store."""
        self.ready = False
        self._loop_lag.stop()
        node, self._node, self._routes = self._node, None, None
        with self._on_end:
            if node is not None:
                await node.stop(drain_s)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    def _fold(self) -> None:
        if self._routes is not None:
            self._routes.fold()

    def _ready_family(self) -> list[Family]:
        return [gauge("perdure_ready", "What `/-/ready` says: 1 for yes.", self.is_ready)]

    @property
    def store(self) -> Store:
        """The open store, for looking at what is stored. Raises NotRunningError, also in a web
        process, which has none."""
        if not isinstance(self._node, Node):
            raise NotRunningError("an App's store is open only while the App runs")
        return self._node.store

    @property
    def is_ready(self) -> bool:
        """What `/-/ready` says: whether calls are taken, and get to their actors."""
        # a node whose store broke has stopped by itself
        return self.ready and self._node is not None and self._node.is_running

    def statistics(self) -> dict[str, int]:
        """Counters of the running node; empty when it does not run."""
        return self._node.statistics() if self._node else {}

    def awake(self) -> dict[str, int]:
        """How many actors of each class are in this process's memory, by the store's class name."""
        return self._node.awake() if self._node else {}

    @property
    def title(self) -> str:
        """What its documentation calls it."""
        return self._docs.about.title

    @property
    def versions(self) -> int:
        """How many versions its API has: the newest that something in it speaks of."""
        methods = [one for kind in self.actor_types for one in kind.methods.values()]
        lifetimes = [method.lifetime for method in methods]
        return newest_of([*lifetimes, *(function.lifetime for function in self.functions)])

    def check(self) -> None:
        """Raise DefinitionError for what shows only once all functions are registered."""
        taken = [(kind.actor_class.__name__, kind.route_name) for kind in self.actor_types]
        taken += [(str(one), str(one.pattern).split("/")[1]) for one in self.functions]
        refuse_segments(self.versions, taken)
        self.functions.table_of(self.versions)

    def operations(self, version: int = 1) -> list[Operation]:
        """All that can be asked over HTTP, of actors and functions; not of the mounted app.

        Args:
            version: of the API. The first one is told by the paths without a version.
        """
        access = signed_in if self.identify else anyone
        found = operations_of(self.actor_types, self.functions, access, version)
        return [replace(one, is_limited=True) for one in found] if self._rate else found

    async def spend(self, rate: Rate, subject: str) -> None:
        """Count something for a subject under a rate with a name, as routes count requests.

        For what a mounted application does: `await app.spend(LOG_INS, request.client.host)`.

        Args:
            subject: what the rate counts `by`: the id of a caller, an address, or what its
                function would return.

        Raises RateLimitError, NotRunningError, and DefinitionError if the rate has no name, or
        another one has it.
        """
        if self._rates is None or self._node is None:
            raise NotRunningError("an App counts only while it runs")
        await self._rates.spend(rate, subject)

    # -- as the web server's endpoint ------------------------------------------------------------

    def match(self, method: bytes, path: bytes) -> object | None:
        """The actor, function or health route for this path; None: the mounted app is asked."""
        if self._routes is None:
            return path
        return (
            self._routes.match(method, path)
            or (path if path in _OWN_PATHS else None)
            or self.functions.match(path)
        )

    def template(self, route: object) -> str | None:
        """The path of a route, with names in place of what differs between requests."""
        if isinstance(route, list) and self._routes is not None:
            return self._routes.template(route)
        return str(route.path.pattern) if isinstance(route, Match) else None

    def handle(self, route: object, exchange: "Exchange") -> None:
        """Answer a request whose path matched."""
        if isinstance(route, list) and self._routes is not None:
            self._routes.handle(route, exchange)
        elif isinstance(route, Match) and self._function_routes is not None:
            self._function_routes.handle(route, exchange)
        elif isinstance(route, bytes) and route in _OWN_PATHS:
            self._answer_own(route, exchange)
        else:
            exchange.reply_problem(StoppingError("this process is starting or stopping"))

    def _answer_own(self, path: bytes, exchange: "Exchange") -> None:
        if path in _HEALTH:
            ready = path == b"/-/live" or self.is_ready
            exchange.reply(200 if ready else 503, b'{"ok":true}' if ready else b'{"ok":false}')
        elif path == _SCRIPT:
            answer_script(exchange)
        elif path == _METRICS:
            self.metrics.answer(exchange)
        else:
            self._docs.answer(path, exchange)

    def subscriber(self, route: object) -> Subscribe | None:
        """What begins a live view for a WebSocket on this route, or None."""
        routes = self._routes
        if routes is None or not isinstance(route, list) or routes.live_method(route) is None:
            return None
        subscribe = partial(routes.subscribe, route)
        return self._cross_origin.admitting(subscribe) if self._cross_origin else subscribe

    # -- as an ASGI application ------------------------------------------------------------------

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI 3: actor routes here, everything else to the mounted app."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        await self.start()
        if tracing() is not None:
            follow_scope(scope)
        path = path_of(scope)
        route = self.match(scope.get("method", "").encode(), path)
        if scope["type"] == "http" and route is not None:
            await answer_asgi(self, route, path, scope, receive, send, self.limits)
        elif scope["type"] == "websocket" and (subscribe := self.subscriber(route)) is not None:
            exchange = AsgiExchange(scope | {"method": "GET"}, path, b"")
            await send_messages(subscribe, exchange, receive, send, self.limits)
        elif self.site is not None:
            await self.site(scope, receive, send)
        elif scope["type"] == "http":
            await answer_asgi(_Nothing(), path, path, scope, receive, send, self.limits)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _lifespan(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self.start()
        except Exception as error:  # said aloud: servers take an exception for "no lifespan here"
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        if self.mount is not None:  # its own startup and shutdown run inside ours
            async with self:
                await self.mount(scope, receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})


class Teller:
    """The endpoint of an address that only tells how an App is: health and metrics."""

    def __init__(self, app: App) -> None:
        self._app = app

    def match(self, _method: bytes, path: bytes) -> object | None:
        return path if path in _HEALTH or path == _METRICS else None

    def handle(self, route: object, exchange: "Exchange") -> None:
        if route == _METRICS:
            self._app.metrics.tell(exchange)
        else:
            self._app.handle(route, exchange)

    def subscriber(self, _route: object) -> None:
        return None


class _Nothing:
    """The endpoint for paths that nobody answers."""

    def match(self, _method: bytes, path: bytes) -> object | None:
        return path

    def handle(self, _route: object, exchange: "Exchange") -> None:
        exchange.reply_problem(NotFoundError("nothing is at this path"))


def _methods_for_others(route: object) -> str:
    """Which HTTP methods a page of another origin may use, if `cors` lets it in."""
    if isinstance(route, Match):
        return route.path.allowed()
    if isinstance(route, list):
        return "GET, HEAD, POST"
    return "GET, HEAD" if route == _SCRIPT else ""


def _stores(given: str | Store | Sequence[str]) -> Sequence[str | Store]:
    return given if isinstance(given, Sequence) and not isinstance(given, str) else [given]


def _registry_of(store: str | Store) -> Registry | None:
    return registry_from_url(store) if isinstance(store, str) else store.registry


def _actor_class(given: Any) -> type[Actor]:
    if isinstance(given, type) and issubclass(given, Actor):
        return given
    name = given.__name__ if isinstance(given, type) else repr(given)
    raise DefinitionError(
        f"{name} is no actor class; App takes classes that derive from Actor, like App(Cart)"
    )


def _refuse_same_names(actor_types: list[ActorType]) -> None:
    names = [actor_type.route_name for actor_type in actor_types]
    for name in names:
        if names.count(name) > 1:
            raise DefinitionError(f"two actor classes would both be reached as /{name}")
    stored = [actor_type.name for actor_type in actor_types]
    for name in stored:
        if stored.count(name) > 1:
            raise DefinitionError(f"two actor classes would both be stored as {name!r}")
