"""`Client`: references to actors behind a web server, for who can import their classes.

A reference is the same object as in the server's own process, with another router behind it: the
method's own types encode the arguments and decode the result, `watch` follows its live methods, and
a type checker sees the class itself.
"""

import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import msgspec

from perdure.actor.methods import ActorType, Method, actor_type_of
from perdure.actor.model import Actor
from perdure.actor.reference import Reference
from perdure.base.codec import encode
from perdure.base.errors import BadArgumentsError, DefinitionError, DomainError, PerdureError
from perdure.web.openapi_problems import refusals_of
from perdure.web.problems import TYPE_PREFIX, error_of, kind_of

try:
    import httpx

    from perdure.client.transport import ServerCall, Transport, new_key
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"perdure.Client needs {error.name}, which is not installed; pip install 'perdure[client]'",
        name=error.name,
    ) from None

ActorClass = TypeVar("ActorClass", bound=Actor)


class Client:
    """Calls actors of another process over HTTP, with their own types.

        async with Client("http://shop.internal:8000") as client:
            await client.at(Cart, "alice").add("tea", qty=2)

    Each call that changes something has an idempotency key, and is sent again under the same key
    while its connection is lost or the server says 502, 503 or 504; reads are sent again too. What
    the server refuses is raised as the class that was raised there, with its `problem`: Perdure's
    own errors, and those `DomainError`s that this process has imported, by their kind. Only methods
    that are exposed can be called. For asyncio code only.

    Raises beside them UnreachableError if there was no connection, and nothing was done;
    UnansweredError or DeadlineError if it is not known whether something was done.

    Args:
        url: of the server; `https://example.com/shop` if its paths begin with `/shop`.
        token: sent as `Authorization: Bearer …`.
        headers: sent with each request.
        timeout_s: the longest a call may take, with all its attempts and the pauses between them.
        attempts_max: how often a call is sent at most.
        http: use this client, which stays open, instead of one made here: for proxies, client
            certificates, cookies, or to call an ASGI application in the same process.

    Raises DefinitionError if the URL is none, or a bound is not above zero.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        attempts_max: int = 10,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        try:
            self._transport = Transport(
                url,
                token=token,
                headers=headers,
                timeout_s=timeout_s,
                attempts_max=attempts_max,
                http=http,
            )
        except ValueError as error:
            raise DefinitionError(f"Client: {error}") from None
        self._reference_classes: dict[ActorType, type[Reference]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; live views end with them."""
        await self._transport.close()

    def at(
        self, actor_class: type[ActorClass], key: str, *, request_id: str | None = None
    ) -> ActorClass:
        """A reference to the actor of this class with this key, on the server.

        `await` its methods, or follow a live one: `watch(client.at(Order, "17").view)`. Raises
        InvalidKeyError, and BadArgumentsError for a `request_id` that no header can hold.

        Args:
            request_id: the idempotency key of the next call, instead of a new one: for a call that
                this process may have begun before it was started anew.
        """
        if request_id is not None and not _fits_header(request_id):
            raise BadArgumentsError(
                "an idempotency key is 1 to 255 visible ASCII characters, without quotes",
                "request_id",
            )
        actor_type = actor_type_of(actor_class)
        reference_class = self._reference_classes.get(actor_type)
        if reference_class is None:
            reference_class = actor_type.reference_class_for(self)
            self._reference_classes[actor_type] = reference_class
        return reference_class(key, request_id)  # type: ignore[return-value]

    # -- what references ask ---------------------------------------------------------------------

    async def call(
        self,
        method: Method,
        key: str,
        positional: tuple[Any, ...],
        named: dict[str, Any],
        request_id: str | None,
    ) -> Any:
        """Run one call on the server; see `CallRouter.call`."""
        arguments = method.arguments_from_python(positional, named)
        request = ServerCall(
            method="POST",
            path=_path_of(method, key, method.route),
            query={},
            body=encode(arguments),
            idempotency_key=None if method.read else request_id or new_key(),
            is_read=method.read,
        )
        body = await self._transport.call(request, _ErrorOf(method))
        return method.result_from_json(body)

    def watch(
        self, method: Method, key: str, positional: tuple[Any, ...], named: dict[str, Any]
    ) -> AsyncIterator[Any]:
        """Follow a live method on the server; see `CallRouter.watch`."""
        arguments = method.arguments_from_python(positional, named)
        name = "live" if method is method.actor_type.live_fields else f"{method.route}/live"
        path = _path_of(method, key, name)

        def read(value: Any) -> Any:
            return method.result_from_json(encode(value))

        return self._transport.values(path, _query_of(arguments), read, _ErrorOf(method))


def _path_of(method: Method, key: str, name: str) -> str:
    version = method.lifetime.version
    prefix = f"/v{version}" if version > 1 else ""
    return f"{prefix}/{quote(method.actor_type.route_name)}/{quote(key, safe='')}/{quote(name)}"


def _query_of(arguments: msgspec.Struct) -> dict[str, Any]:
    """The arguments that are not left at their defaults."""
    fields = msgspec.structs.fields(arguments)
    return {
        field.name: msgspec.to_builtins(value, str_keys=True)
        for field in fields
        if (value := getattr(arguments, field.name)) != field.default or field.required
    }


def _fits_header(text: str) -> bool:
    return text.isascii() and text.isprintable() and '"' not in text and 0 < len(text) <= 255


class _ErrorOf:
    """Makes the error that a method of an actor raised from the problem that came of it."""

    def __init__(self, method: Method) -> None:
        self._method = method

    def __call__(self, problem: dict[str, Any]) -> PerdureError:
        return error_of(problem, self._application_error(problem))

    def _application_error(self, problem: dict[str, Any]) -> type[DomainError] | None:
        kind = kind_of(problem)
        for error in self._near():
            if error.kind == kind:
                return error
        loaded = [error for error in _descendants(DomainError) if error.kind == kind]
        if len(loaded) == 1:
            return loaded[0]
        # two of one kind, both from elsewhere, are as good as none: it could be either
        is_refusal = str(problem.get("status")).startswith("4")
        is_ours = str(problem.get("type")).startswith(TYPE_PREFIX)
        return DomainError if is_refusal and is_ours else None

    def _near(self) -> Iterator[type[DomainError]]:
        """The application's errors, nearest first: those that the method names, then those in the
        modules that the actor's class is made of."""
        yield from refusals_of(self._method.function)
        bases = self._method.actor_type.actor_class.__mro__
        for name in dict.fromkeys(base.__module__ for base in bases):
            for value in vars(sys.modules[name]).values() if name in sys.modules else ():
                if isinstance(value, type) and issubclass(value, DomainError):
                    yield value


def _descendants(error_class: type[DomainError]) -> Iterator[type[DomainError]]:
    for one in error_class.__subclasses__():
        yield one
        yield from _descendants(one)
