"""What `Cart.at("alice")` really is: an address with the methods of its class.

To a type checker it is a `Cart`. At run time it has no fields, since another machine may hold them.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, overload

from perdure.actor.messages import Teller
from perdure.base.errors import BadArgumentsError, DefinitionError, NotRunningError
from perdure.base.keys import normalize_key
from perdure.base.limits import Limits
from perdure.base.texts import unstorable
from perdure.store.api import Query, StoredActor

if TYPE_CHECKING:
    from perdure.actor.methods import ActorType, Method
    from perdure.actor.model import Actor

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class CallRouter(Protocol):
    """Who takes calls to their actor: the running node, or a client of another process."""

    async def call(
        self,
        method: "Method",
        key: str,
        positional: tuple[Any, ...],
        named: dict[str, Any],
        request_id: str | None,
    ) -> Any:
        """Run one call and return its result; raises what the method raised, or a PerdureError."""
        ...

    def watch(
        self, method: "Method", key: str, positional: tuple[Any, ...], named: dict[str, Any]
    ) -> AsyncIterator[Any]:
        """Follow the results of a live method."""
        ...


class Router(CallRouter, Protocol):
    """Who runs the actors of this process: the running node."""

    limits: Limits

    async def query(self, query: Query) -> list[StoredActor]:
        """The committed actors that fit; raises DeadlineError, StoppingError or a StoreError.

        It waits for no turn: a query reads what is committed, and all that it lets out is its
        conditions, to the database.
        """
        ...


class Reference:
    """An actor's address, and the idempotency key of the next call, if it has one."""

    __slots__ = ("_key", "_request_id")
    _actor_type: "ActorType"
    _router: Router | None = None  # set on the class by the node that runs its actors
    is_elsewhere = False  # an actor of another application, behind its web server

    def __init__(self, key: str, request_id: str | None = None) -> None:
        self._key = normalize_key(key)
        if request_id is not None and (what := unstorable(request_id)):
            raise BadArgumentsError(f"an idempotency key cannot hold {what}", "request_id")
        self._request_id = request_id

    @property
    def tell(self) -> Teller:
        """Its methods as messages; see `Actor.tell`."""
        if self.is_elsewhere:
            raise NotRunningError(f"{self!r} is on another server; it can be called, not be told")
        return Teller(self._actor_type, self._key)

    def __repr__(self) -> str:
        return f"{self._actor_type.actor_class.__name__}.at({self._key!r})"

    def __getattr__(self, name: str) -> Any:
        class_name = self._actor_type.actor_class.__name__
        if name in self._actor_type.actor_class.__struct_fields__:
            raise AttributeError(
                f"{self!r}.{name}: a field can only be seen from inside; "
                f"give {class_name} a @read method that returns it"
            )
        raise AttributeError(f"{class_name} has no method {name!r}")


def reference_class(actor_type: "ActorType") -> type[Reference]:
    """A Reference class with one function for each method."""
    body: dict[str, Any] = {"__slots__": (), "_actor_type": actor_type}
    for name, method in actor_type.methods.items():
        body[name] = _caller_of(method)
    return type(f"{actor_type.actor_class.__name__}Reference", (Reference,), body)


def _caller_of(method: "Method") -> Callable[..., Coroutine[Any, Any, Any]]:
    async def call(self: Reference, *positional: Any, **named: Any) -> Any:
        router = _router_of(self, method)
        return await router.call(method, self._key, positional, named, self._request_id)

    call.__name__ = method.name
    call.__doc__ = method.function.__doc__
    return call


def _router_of(reference: Reference, method: "Method") -> Router:
    if reference._router is None:
        raise NotRunningError(
            f"{method} was called, but no App with this class runs in this process; "
            f"use `async with app:` or `perdure run`"
        )
    return reference._router


@overload
def watch(
    what: Callable[Parameters, Awaitable[Result]],
    *positional: Parameters.args,
    **named: Parameters.kwargs,
) -> AsyncIterator[Result]: ...
@overload
def watch(what: "Actor") -> AsyncIterator[Any]: ...
def watch(what: Any, *positional: Any, **named: Any) -> AsyncIterator[Any]:
    """Follow a live method: `async for view in watch(Cart.at("alice").view)`.

    Gives the result as it is now, and again after each commit that changed it; who is slow gets the
    newest only. `watch(Cart.at("alice"))` gives all fields marked `live`, as attributes. Access is
    not checked, as for calls from Python. Not for use within a turn: a turn should end.

    *Consistency:* committed states only, in their order.

    Raises DefinitionError if that is nothing live, OverloadedError beyond
    `Limits.live_subscribers_max`, StoppingError when the process stops, and what the method raises.
    """
    reference = what if isinstance(what, Reference) else getattr(what, "__self__", None)
    if not isinstance(reference, Reference):
        raise DefinitionError("watch() takes `Class.at(key)`, or a live method of that")
    actor_type = reference._actor_type
    if what is reference:
        method = actor_type.live_fields
    else:
        method = actor_type.methods[what.__name__]
    if method is None or not method.options.live:
        raise DefinitionError(f"{what!r} is not live: mark the method, or the fields, as `live`")
    return _router_of(reference, method).watch(method, reference._key, positional, named)
