"""What an App can be asked over HTTP, as one list: the source of its documentation and clients.

Invariants:
- What is listed is what the routes answer; both read the same compiled methods and functions.
- `operation_id` is unique and stays the same as long as class, method and function keep their
  names: generated clients call their functions so.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from perdure.actor.methods import ActorType, Method
from perdure.actor.model import AccessRule
from perdure.actor.pages import is_paged
from perdure.actor.versions import Lifetime
from perdure.base.names import snake_case
from perdure.web.functions import Function, spoken_functions


class ActorPath(msgspec.Struct):
    """What stands for braces in the path of an actor's method."""

    key: str


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that can be asked with one HTTP method."""

    operation_id: str
    http_method: str
    path: str  # with the names of its parameters in braces
    tag: str
    function: Callable[..., Any]
    path_type: type[msgspec.Struct]
    arguments_type: type[msgspec.Struct]
    result_type: Any
    access: AccessRule
    in_body: bool  # its arguments are a JSON object; else query parameters
    method: Method | None = None  # of an actor; None: a plain function
    is_live: bool = False  # it is answered with events
    lifetime: Lifetime = Lifetime()
    is_limited: bool = False  # it has a rate

    @property
    def is_idempotent(self) -> bool:
        """True if it may come with an Idempotency-Key that is honoured."""
        return self.method is not None and self.http_method == "POST"

    @property
    def takes_if_match(self) -> bool:
        """True if it may come with an If-Match that is honoured."""
        return self.method is not None and not self.is_live

    @property
    def is_paged(self) -> bool:
        """True if its result is a Page that can be asked for the next one."""
        return is_paged(self.result_type, self.arguments_type)

    @property
    def documentation(self) -> tuple[str, str]:
        """The first paragraph of the docstring on one line, and the rest of it."""
        text = inspect.getdoc(self.function) or ""
        if self.is_live:
            has_name = self.method is not None and self.method.name != "live"
            text = f"Watch: {text or ('what it returns' if has_name else 'all live fields')}"
        first, _, rest = text.partition("\n\n")
        return " ".join(first.split()), rest.strip()


def operations_of(
    actor_types: Iterable[ActorType],
    functions: Iterable[Function],
    default_access: AccessRule,
    version: int = 1,
) -> list[Operation]:
    """All that a version exposes, in the order of the classes, then of the functions; of the first
    one by the paths without a version."""
    taken: set[str] = set()
    operations = []
    actors = (one for kind in actor_types for one in _of_actor(kind, default_access, version))
    plain = (_of_function(one, default_access) for one in spoken_functions(functions, version))
    prefix = f"/v{version}" if version > 1 else ""
    for operation in [*actors, *plain]:
        operation_id = operation.operation_id
        if operation_id in taken:
            operation_id = f"{operation_id}_{operation.http_method.lower()}"
        while operation_id in taken:
            operation_id += "_"
        taken.add(operation_id)
        path = prefix + operation.path
        operations.append(msgspec.structs.replace(operation, operation_id=operation_id, path=path))
    return operations


def _of_actor(
    actor_type: ActorType, default_access: AccessRule, version: int
) -> Iterator[Operation]:
    for name, method in actor_type.exposed_in(version).items():
        if method.read:
            yield _of_method(method, name, default_access, "GET")
        if method.options.live:
            yield _of_method(method, f"{name}/live", default_access, "GET", is_live=True)
        yield _of_method(method, name, default_access, "POST")
    if (fields := actor_type.live_fields) is not None:
        yield _of_method(fields, "live", default_access, "GET", is_live=True)


def _of_method(
    method: Method,
    name: str,
    default_access: AccessRule,
    http_method: str,
    *,
    is_live: bool = False,
) -> Operation:
    actor_class = method.actor_type.actor_class
    return Operation(
        operation_id=f"{snake_case(actor_class.__name__)}_{name.replace('/', '_')}",
        http_method=http_method,
        path=f"/{method.actor_type.route_name}/{{key}}/{name}",
        tag=actor_class.__name__,
        function=method.function,
        path_type=ActorPath,
        arguments_type=method.arguments_type,
        result_type=method.result_type,
        access=method.options.access or default_access,
        lifetime=method.lifetime,
        in_body=http_method == "POST",
        method=method,
        is_live=is_live,
        is_limited=method.options.rate is not None,
    )


def _of_function(function: Function, default_access: AccessRule) -> Operation:
    return Operation(
        operation_id=function.function.__name__,
        http_method=function.method.decode(),
        path=str(function.pattern),
        tag="Functions",
        function=function.function,
        path_type=function.path_type,
        arguments_type=function.arguments_type,
        result_type=function.result_type,
        access=function.options.access or default_access,
        lifetime=function.lifetime,
        in_body=function.has_body,
        is_limited=function.options.rate is not None,
    )
