"""What `Cart.at("alice")` really is: an address with the methods of its class.

To a type checker it is a `Cart`. At run time it has no fields, since another machine may hold them.
"""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from perdure.actor.messages import Teller
from perdure.base.errors import NotRunningError
from perdure.base.keys import normalize_key
from perdure.base.limits import Limits
from perdure.store.api import Query, StoredActor

if TYPE_CHECKING:
    from perdure.actor.methods import ActorType, Method


class Router(Protocol):
    """Who takes calls to their actor: the running node."""

    limits: Limits

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

    def __init__(self, key: str, request_id: str | None = None) -> None:
        self._key = normalize_key(key)
        self._request_id = request_id

    @property
    def tell(self) -> Teller:
        """Its methods as messages; see `Actor.tell`."""
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
        router = self._router
        if router is None:
            raise NotRunningError(
                f"{method} was called, but no App with this class runs in this process; "
                f"use `async with app:` or `perdure run`"
            )
        return await router.call(method, self._key, positional, named, self._request_id)

    call.__name__ = method.name
    call.__doc__ = method.function.__doc__
    return call
