"""What an operation may answer instead of its result: problems, by status, with their types.

The types come from `base/errors.py`, from the web server, and from the code itself: a `DomainError`
that the method names is one that it may raise. That is found in its bytecode, one level deep; what
it calls may raise others, and `default` stands for them.
"""

from collections.abc import Callable, Iterator
from inspect import unwrap
from types import CodeType
from typing import Any

from perdure.base import errors
from perdure.base.errors import DomainError, PerdureError
from perdure.web.operations import Operation
from perdure.web.problems import TITLES, TYPE_PREFIX

_PROBLEM = "perdure.Problem"
_NEVER = frozenset(("definition", "wire", "handshake", "other-cluster"))
_SERVER_KINDS = {400: ("bad-request",), 503: ("too-many-connections",)}
_STATUSES = (400, 401, 403, 409, 412, 413, 422, 429, 500, 503, 504)
_RETRY_AFTER = {"description": "Seconds.", "schema": {"type": "integer"}}
RATE_HEADERS = {
    "RateLimit": {
        "description": "Of each rate, how many more are allowed at once, and in how many seconds "
        "that is one more.",
        "schema": {"type": "string", "examples": ['"all";r=99;t=1']},
    },
    "RateLimit-Policy": {
        "description": "Of each rate, how many are allowed in how many seconds.",
        "schema": {"type": "string", "examples": ['"all";q=100;w=60']},
    },
}


def problem_components() -> dict[str, Any]:
    """The schema of a problem, and the responses that all operations have in common."""
    members = {
        "type": {"type": "string", "description": "Never changes its meaning: look at this."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "For people."},
        "field": {"type": "string", "description": "The argument that does not fit."},
        "violated-policies": {
            "type": "array",
            "items": {"type": "string"},
            "description": "The rates that were exceeded, by name.",
        },
    }
    schema = {
        "title": "Problem",
        "description": "RFC 9457.",
        "type": "object",
        "properties": members,
        "required": ["type", "title", "status"],
    }
    default = _response("Any other problem.", {"$ref": f"#/components/schemas/{_PROBLEM}"})
    common = {_name(status): _of_kinds(status, _kinds(status)) for status in _STATUSES}
    return {"schemas": {_PROBLEM: schema}, "responses": {**common, "Problem": default}}


def problem_responses(operation: Operation) -> dict[str, Any]:
    """The responses of one operation beside its result, by status."""
    own: dict[int, list[str]] = {}
    for refusal in refusals_of(operation.function):
        own.setdefault(refusal.status, []).append(refusal.kind)
    responses: dict[str, Any] = {}
    for status in sorted({*_common_statuses(operation), *own}):
        if status in own:
            known = _kinds(status) if status in _STATUSES else ()
            responses[str(status)] = _of_kinds(status, (*own[status], *known))
        else:
            responses[str(status)] = {"$ref": f"#/components/responses/{_name(status)}"}
    responses["default"] = {"$ref": "#/components/responses/Problem"}
    return responses


def _common_statuses(operation: Operation) -> Iterator[int]:
    if operation.method is not None:
        yield 400
    if operation.access != "anyone":
        yield 401
    if operation.access != "anyone" or operation.http_method != "GET":
        yield 403
    if operation.takes_if_match:
        yield 412
    if operation.is_idempotent:
        yield from (409, 413)
    elif operation.in_body:
        yield 413
    yield 422
    if operation.is_limited:
        yield 429
    yield from (500, 503, 504)


def _kinds(status: int) -> tuple[str, ...]:
    public = [
        one
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, PerdureError) and one is not DomainError
    ]
    kinds = {one.kind for one in public if one.status == status and one.kind not in _NEVER}
    return (*sorted(kinds), *_SERVER_KINDS.get(status, ()))


def refusals_of(function: Callable[..., Any]) -> list[type[DomainError]]:
    """The application's own errors that the code of a function names."""
    function = unwrap(function)
    code = getattr(function, "__code__", None)
    known = getattr(function, "__globals__", {})
    found: dict[str, type[DomainError]] = {}
    for name in _names(code) if isinstance(code, CodeType) else ():
        value = known.get(name)
        if isinstance(value, type) and issubclass(value, DomainError) and value is not DomainError:
            found.setdefault(value.kind, value)
    return list(found.values())


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _of_kinds(status: int, kinds: tuple[str, ...]) -> dict[str, Any]:
    types = [TYPE_PREFIX + kind for kind in dict.fromkeys(kinds)]
    known: dict[str, Any] = {"enum": types}
    if status < 500:  # what the method calls may raise errors that it does not name itself
        known = {"anyOf": [known, {"type": "string"}]}
    schema = {
        "allOf": [{"$ref": f"#/components/schemas/{_PROBLEM}"}],
        "properties": {"type": known, "status": {"const": status}},
    }
    response = _response(TITLES.get(status, "The call was refused"), schema)
    response["content"]["application/problem+json"]["example"] = {
        "type": types[0],
        "title": TITLES.get(status, "The call was refused"),
        "status": status,
    }
    if status in {429, 503}:
        response["headers"] = {"Retry-After": _RETRY_AFTER}
    if status == 429:
        response["headers"] |= RATE_HEADERS
    return response


def _response(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}


def _name(status: int) -> str:
    return f"Problem{status}"
