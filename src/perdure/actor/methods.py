"""Compiles an actor class into tables: its methods, their codecs, its names.

Done once per class, so that a call needs no inspection: the argument decoder is built, the result
type is known, and whether the method can wait at all was read from its bytecode.
"""

import dis
import inspect
import types
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from operator import attrgetter
from typing import Any, get_type_hints

import msgspec

from perdure.actor.collection_fields import binding, collection_fields
from perdure.actor.indexes import compile_check, compile_indexes
from perdure.actor.model import Actor, MethodOptions, live, options_of
from perdure.actor.pages import is_paged
from perdure.actor.reference import CallRouter, Reference, Router, reference_class
from perdure.actor.schema import Migrations, stored_name, ttl_ms
from perdure.actor.signature import TakesArguments, compile_signature
from perdure.actor.versions import Lifetime, spoken_in
from perdure.base.codec import decoder, encode
from perdure.base.errors import (
    BadArgumentsError,
    DefinitionError,
    NotRunningError,
    UnencodableError,
)
from perdure.base.names import kebab_case
from perdure.store.api import ActorSchema

_SUSPENDING = {"GET_AWAITABLE", "GET_AITER", "GET_ANEXT", "SEND", "YIELD_VALUE"}


class Method(TakesArguments):
    """One method of an actor class, ready to be called."""

    __slots__ = (
        "actor_type",
        "arguments_type",
        "begun",
        "can_wait",
        "decode_arguments",
        "decode_result",
        "function",
        "is_paged",
        "name",
        "options",
        "read",
        "result_type",
        "spread",
    )

    def __init__(self, actor_type: "ActorType", name: str, function: Callable[..., Any]) -> None:
        self.actor_type = actor_type
        self.name = name
        self.function = function
        self.options: MethodOptions = options_of(function)
        self.read = self.options.read
        self.begun = 0  # turns, since the process started; here, since nothing is faster to reach
        self.can_wait = _can_wait(function)
        parameters = list(inspect.signature(function).parameters.values())[1:]
        self.arguments_type, self.result_type = compile_signature(str(self), function, parameters)
        self.is_paged = is_paged(self.result_type, self.arguments_type)
        self.decode_arguments = _decoder(f"{self}: its parameters", self.arguments_type)
        self.decode_result = _decoder(f"{self}: its result", self.result_type)
        self.spread = _spreader(self.arguments_type.__struct_fields__)
        if self.read and self.options.loss_max_s is not None:
            raise DefinitionError(f"{self}: a @read method writes nothing, so it cannot be relaxed")

    def __str__(self) -> str:
        return f"{self.actor_type.actor_class.__name__}.{self.name}"

    @property
    def route(self) -> str:
        """Its name in a path."""
        return self.options.route or self.name

    @property
    def lifetime(self) -> Lifetime:
        """Which versions of the API have it."""
        return self.options.lifetime

    def start(self, actor: Actor, arguments: msgspec.Struct) -> Any:
        """The coroutine of one call."""
        return self.function(actor, *self.spread(arguments))

    def arguments_from_python(
        self, positional: tuple[Any, ...], named: dict[str, Any]
    ) -> msgspec.Struct:
        """Bind Python arguments, by value; raises BadArgumentsError."""
        try:
            arguments = self.arguments_type(*positional, **named)
        except TypeError as error:
            raise BadArgumentsError(f"{self}: {error}") from None
        try:
            return self.arguments_from_json(encode(arguments))
        except (TypeError, ValueError, RecursionError) as error:
            raise BadArgumentsError(f"{self}: {error}") from None

    def result_from_json(self, body: bytes) -> Any:
        """The result as a value of its own, shared with nobody; raises UnencodableError."""
        try:
            return self.decode_result(body)
        except msgspec.MsgspecError as error:
            raise UnencodableError(
                f"{self} returned something else than its annotation says: {error}"
            ) from None


class ActorType:
    """One actor class with everything the runtime needs of it.

    Args:
        own_name: the name of a class of our own that has no state: it is never stored.
    """

    def __init__(self, actor_class: type[Actor], *, own_name: str | None = None) -> None:
        self.actor_class = actor_class
        self.route_name = kebab_case(actor_class.__name__)
        self.is_stored = own_name is None
        self.name = own_name or stored_name(actor_class, actor_class.__perdure_options__)
        self.ttl_ms = ttl_ms(actor_class, actor_class.__perdure_options__)
        _check_fields(actor_class)
        self.decode_state = _decoder(f"{actor_class.__name__}: its fields", actor_class)
        self.collections = collection_fields(actor_class)
        if self.collections:
            self.decode_state = binding(self.decode_state, self.collections)
        self.migrations = Migrations(actor_class, self.decode_state)
        self.decode_stored = self.migrations.decode
        self.indexes = compile_indexes(actor_class)
        self.can_be_refused = any(index.field.unique for index in self.indexes.values())
        self.check = compile_check(actor_class, list(self.indexes.values()))
        self.schema = ActorSchema(
            self.name,
            version=self.migrations.version,
            fields=actor_class.__struct_encode_fields__,
            indexes=tuple(index.field for index in self.indexes.values()),
            expires=self.ttl_ms is not None,
        )
        self.methods = {
            name: Method(self, name, function) for name, function in _functions(actor_class)
        }
        self.routes = _routes(self.methods.values())
        self.on_expire = Method(self, "on_expire", actor_class.on_expire)
        self.live_fields = self._live_fields()
        self._reference_class = reference_class(self)

    def exposed_in(self, version: int) -> dict[str, Method]:
        """What this version of the API has, by the names in paths."""
        found = {name: spoken_in(version, methods) for name, methods in self.routes.items()}
        return {name: method for name, method in found.items() if method is not None}

    def reference(self, key: str, request_id: str | None) -> Reference:
        """What `Class.at(key)` gives."""
        return self._reference_class(key, request_id)

    def reference_class_for(self, router: CallRouter) -> type[Reference]:
        """The class of references that send their calls there, whoever runs this class here."""
        own = {"__slots__": (), "_router": router, "is_elsewhere": True}
        return type(self._reference_class.__name__, (self._reference_class,), own)

    def _live_fields(self) -> Method | None:
        """What returns all fields marked `live`, compiled like a written method, or None."""
        hints = get_type_hints(self.actor_class, include_extras=True)
        fields: list[Any] = [
            (name, hints[name])
            for name in self.actor_class.__struct_fields__
            if live in getattr(hints[name], "__metadata__", ())
        ]
        if not fields:
            return None
        if "live" in self.methods or "live" in self.routes:
            raise DefinitionError(
                f"{self.actor_class.__name__}.live: a class with live fields has no room for a "
                f"method of that name, since both would be at /{self.route_name}/KEY/live"
            )
        view = msgspec.defstruct(f"{self.actor_class.__name__}Live", fields)

        async def read_fields(actor):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            return view(*[getattr(actor, name) for name, _ in fields])

        read_fields.__annotations__["return"] = view
        return Method(self, "live", live(read_fields))

    @property
    def is_bound(self) -> bool:
        """True while some node in this process runs this class."""
        return self._reference_class._router is not None

    @property
    def router(self) -> Router:
        """Who runs this class; raises NotRunningError."""
        router = self._reference_class._router
        if router is None:
            raise NotRunningError(
                f"no App with {self.actor_class.__name__} runs in this process; "
                f"use `async with app:` or `perdure run`"
            )
        return router

    def bind(self, router: Router | None) -> None:
        """Send calls through references to this router from now on; None: refuse them."""
        self._reference_class._router = router


@cache
def actor_type_of(actor_class: type[Actor]) -> ActorType:
    """The compiled form of a class; raises DefinitionError when it cannot work as an actor."""
    return ActorType(actor_class)


def refuse_bound(actor_types: Iterable[ActorType]) -> None:
    """Raise DefinitionError if one of these runs in this process already."""
    for actor_type in actor_types:
        if actor_type.is_bound:
            raise DefinitionError(
                f"{actor_type.actor_class.__name__} already runs in another App of this process"
            )


def _functions(actor_class: type[Actor]) -> Iterator[tuple[str, Callable[..., Any]]]:
    own = set(dir(Actor))
    for name in dir(actor_class):
        if name.startswith("_") or name in actor_class.__struct_fields__:
            continue
        member = inspect.getattr_static(actor_class, name)
        if name in own:
            if name != "on_expire" and member is not inspect.getattr_static(Actor, name):
                raise DefinitionError(
                    f"{actor_class.__name__}.{name}: that name belongs to Actor itself"
                )
            continue
        if inspect.iscoroutinefunction(member):
            yield name, member
        elif inspect.isfunction(member) and options_of(member) != MethodOptions():
            raise DefinitionError(f"{actor_class.__name__}.{name} must be `async def`")


def _routes(methods: Iterable[Method]) -> dict[str, list[Method]]:
    """The exposed methods by their names in paths; raises DefinitionError."""
    routes: dict[str, list[Method]] = {}
    for method in methods:
        if not method.options.exposed:
            continue
        if not method.route.isidentifier():
            raise DefinitionError(f"{method}: {method.route!r} is no name for a route")
        others = routes.setdefault(method.route, [])
        for other in others:
            if other.lifetime.version == method.lifetime.version:
                raise DefinitionError(
                    f"{other} and {method} would both be {method.route!r} in version "
                    f"{method.lifetime.version}"
                )
        others.append(method)
    return routes


def _check_fields(actor_class: type[Actor]) -> None:
    name = actor_class.__name__
    for field in msgspec.structs.fields(actor_class):
        if field.required:
            raise DefinitionError(
                f"{name}.{field.name} has no default; an actor starts from its defaults, "
                f"so write `{field.name}: … = …`"
            )
        if hasattr(Actor, field.name):
            raise DefinitionError(f"{name}.{field.name}: that name belongs to Actor itself")
    try:
        actor_class()
    except TypeError as error:
        raise DefinitionError(f"{name} cannot be made from its defaults: {error}") from error


def _decoder(label: str, wanted: Any) -> Callable[[bytes], Any]:
    try:
        return decoder(wanted).decode
    except (TypeError, NameError) as error:  # a union JSON cannot tell apart, an unknown name
        raise DefinitionError(f"{label} cannot be read from JSON: {error}") from error


def _spreader(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """Fields of the arguments as a tuple; attrgetter does it in C, but not for none or one."""
    if not names:
        return lambda _arguments: ()
    if len(names) == 1:
        get = attrgetter(names[0])
        return lambda arguments: (get(arguments),)
    return attrgetter(*names)


def _can_wait(function: Callable[..., Any]) -> bool:
    """False when the bytecode holds no await: such a method never suspends, so it needs no task."""
    if not isinstance(function, types.FunctionType):
        return True
    instructions = list(dis.get_instructions(function))
    return any(
        instruction.opname in _SUSPENDING
        and not (instruction.opname == "YIELD_VALUE" and instruction.arg == 0)
        for instruction in instructions
    )
