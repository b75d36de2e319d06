"""An App's operations, arranged for who writes a client: actors, functions, types and errors.

Invariants:
- It is made of `App.operations()` and nothing else, as the OpenAPI document is.
- The same App gives the same, in the same order, in every process.
- A method that only reads is asked with POST as well as with GET: that takes any argument as it is,
  while a query turns all of them into text.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import inspect as types

from perdure.base import errors
from perdure.base.errors import DomainError, PerdureError, StoreError
from perdure.web.openapi_problems import refusals_of
from perdure.web.operations import Operation
from perdure.web.type_names import Named, named_types

_ABOVE = "/{key}/"  # what stands between the name of an actor's class and of its method


class Parameter(msgspec.Struct, frozen=True):
    """An argument of a call, or a part of its path."""

    name: str
    type: types.Type
    field: msgspec.structs.FieldInfo


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One method or function."""

    name: str
    operation: Operation
    in_path: list[Parameter]  # of a function; an actor's has its key there
    arguments: list[Parameter]
    result: types.Type

    @property
    def is_read(self) -> bool:
        """True for a method of an actor that changes nothing."""
        return self.operation.method is not None and self.operation.method.read

    @property
    def paragraphs(self) -> list[str]:
        """Its documentation."""
        return [part for part in self.operation.documentation if part]


class ActorApi(msgspec.Struct, frozen=True):
    """One class of actors."""

    name: str
    documentation: str
    path: str  # percent-encoded
    calls: list[Call]


class Api(msgspec.Struct, frozen=True, kw_only=True):
    """All that a client can do."""

    actors: list[ActorApi]
    functions: list[Call]
    domain_errors: list[type[DomainError]]
    types: dict[Any, Named]  # those with a name of their own, by class


def api_of(operations: Iterable[Operation]) -> Api:
    """Arrange the operations of an App."""
    wanted = [one for one in operations if _is_wanted(one)]
    described = _Described(wanted)
    actors: dict[str, ActorApi] = {}
    functions = []
    for operation in wanted:
        if operation.method is None:
            functions.append(described.call(operation, operation.operation_id))
            continue
        path, _, name = operation.path.partition(_ABOVE)
        actor_class = operation.method.actor_type.actor_class
        actor = ActorApi(actor_class.__name__, actor_class.__doc__ or "", quote(path), [])
        call = described.call(operation, name.replace("/", "_"))
        actors.setdefault(path, actor).calls.append(call)
    return Api(
        actors=list(actors.values()),
        functions=functions,
        domain_errors=_domain_errors(wanted),
        types=named_types(described.all),
    )


def standard_errors() -> list[type[PerdureError]]:
    """The errors of Perdure's own that tell a caller what to do; all others are bugs, or have a
    status that says enough."""
    return [
        one
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, PerdureError) and one is not DomainError
        if one.status != 500 and (one is StoreError or not issubclass(one, StoreError))
    ]


def _is_wanted(operation: Operation) -> bool:
    return operation.method is None or operation.is_live or operation.http_method == "POST"


class _Described:
    """The types of all operations, looked at together: so that equal ones are one."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        hints: list[Any] = []
        for one in operations:
            for struct in (one.path_type, one.arguments_type):
                hints += [field.type for field in msgspec.structs.fields(struct)]
            hints.append(one.result_type)
        self.all = types.multi_type_info(hints)
        self._rest = iter(self.all)

    def call(self, operation: Operation, name: str) -> Call:
        """The next one; they come in the order in which they were given."""
        in_path = self._parameters(operation.path_type)
        return Call(
            name=name,
            operation=operation,
            in_path=[] if operation.method is not None else in_path,
            arguments=self._parameters(operation.arguments_type),
            result=next(self._rest),
        )

    def _parameters(self, struct: type[msgspec.Struct]) -> list[Parameter]:
        fields = msgspec.structs.fields(struct)
        return [Parameter(field.name, next(self._rest), field) for field in fields]


def _domain_errors(operations: Sequence[Operation]) -> list[type[DomainError]]:
    """Those that the code of an operation names, then the others of their modules; by kind."""
    found: dict[str, type[DomainError]] = {}
    for operation in operations:
        for error in refusals_of(operation.function):
            found.setdefault(error.kind, error)
    for name in dict.fromkeys(one.function.__module__ for one in operations):
        for value in list(vars(sys.modules.get(name, sys)).values()):
            if isinstance(value, type) and issubclass(value, DomainError):
                found.setdefault(value.kind, value)
    own = {one.kind for one in standard_errors()} | {DomainError.kind}
    return [error for kind, error in found.items() if kind not in own]
