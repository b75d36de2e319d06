"""The OpenAPI 3.1 document of an App, made from the types that its routes decode and encode.

It exists so that what is documented cannot differ from what is done: there is no second
description to keep up. Nothing of the state of an actor is in it, only what methods take and give.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.actor.versions import Lifetime
from perdure.web.openapi_formats import as_text
from perdure.web.openapi_problems import RATE_HEADERS, problem_components, problem_responses
from perdure.web.openapi_schemas import Schemas
from perdure.web.operations import Operation

if TYPE_CHECKING:
    from perdure.web.access import Identify

_SCHEME = "identify"
_AUTHORIZATION = {
    "type": "apiKey",
    "in": "header",
    "name": "Authorization",
    "description": "What the application's own `identify` looks at.",
}
_KEY = {
    "type": "string",
    "minLength": 1,
    "maxLength": 512,
    "pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$",
    "not": {"enum": [".", ".."]},
    "description": "Which actor. At most 512 bytes of UTF-8, no control characters.",
    "examples": ["alice"],
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same call under the same key, however often it is sent, has one effect "
    "and gets the first answer.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "The ETag of an earlier GET of the same actor: the call is made only if the "
    "state is still that which the answer was made from. `*`: if it was ever written.",
    "schema": {
        "type": "string",
        "pattern": r'^(\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*)$',
    },
}
_ETAG = {
    "description": "For If-None-Match, and for If-Match where it was made from a state.",
    "schema": {"type": "string"},
}
_LINK = {
    "description": 'With `rel="next"`: the next page, if there is one.',
    "schema": {"type": "string"},
}
_DEPRECATION = {"description": "Since when (RFC 9745).", "schema": {"type": "string"}}
_SUNSET = {"description": "From when on it may be gone (RFC 8594).", "schema": {"type": "string"}}
_REPLAYED = {
    "description": "`true` if this is the answer to an earlier call with this Idempotency-Key.",
    "schema": {"type": "string", "enum": ["true"]},
}


class Docs(msgspec.Struct, frozen=True, kw_only=True):
    """What the documentation of an App says of it as a whole: `App(…, docs=Docs(title="Shop"))`."""

    title: str = "API"
    version: str = "1"
    description: str = ""


def openapi_of(
    operations: Sequence[Operation], docs: Docs, identify: "Identify | None"
) -> dict[str, Any]:
    """The document, as values that JSON can hold."""
    schemas = Schemas(
        (
            wanted
            for operation in operations
            for wanted in (operation.path_type, operation.arguments_type)
        ),
        (operation.result_type for operation in operations),
    )
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        written = _Writer(operation, schemas).operation(has_identify=identify is not None)
        paths.setdefault(operation.path, {})[operation.http_method.lower()] = written
    info: dict[str, Any] = {"title": docs.title, "version": docs.version}
    if docs.description:
        info["description"] = docs.description
    components: dict[str, Any] = {
        **problem_components(),
        "parameters": {"Idempotency-Key": _IDEMPOTENCY_KEY, "If-Match": _IF_MATCH},
    }
    components["schemas"] = schemas.components | components["schemas"]
    if identify is not None:
        scheme = getattr(identify, "security_scheme", _AUTHORIZATION)
        components["securitySchemes"] = {_SCHEME: scheme}
    return {
        "openapi": "3.1.0",
        "info": info,
        "tags": _tags(operations),
        "paths": paths,
        "components": components,
    }


class _Writer:
    """Writes one operation."""

    def __init__(self, operation: Operation, schemas: Schemas) -> None:
        self._operation = operation
        self._schemas = schemas

    def operation(self, *, has_identify: bool) -> dict[str, Any]:
        """What stands under its path and HTTP method."""
        operation = self._operation
        summary, description = operation.documentation
        written: dict[str, Any] = {
            "operationId": operation.operation_id,
            "tags": [operation.tag],
            "summary": summary or operation.operation_id.replace("_", " "),
        }
        if description:
            written["description"] = description
        if operation.lifetime.deprecated is not None:
            written["deprecated"] = True
            written["x-deprecated"] = _end_of(operation.lifetime)
        if parameters := self._parameters():
            written["parameters"] = parameters
        if operation.in_body and operation.arguments_type.__struct_fields__:
            written["requestBody"] = self._body()
        written["responses"] = {"200": self._success(), **problem_responses(operation)}
        if operation.http_method == "GET" and not operation.is_live:
            written["responses"]["304"] = {"description": "What If-None-Match names is still so."}
        if has_identify:
            written["security"] = _security(operation)
        return written

    def _parameters(self) -> list[dict[str, Any]]:
        operation = self._operation
        parameters = [
            {"name": name, "in": "path", "required": True, "schema": schema}
            for name, schema in self._properties_of(operation.path_type)
        ]
        if operation.method is not None:
            parameters[0]["schema"] = _KEY
        if operation.is_idempotent:
            parameters.append({"$ref": "#/components/parameters/Idempotency-Key"})
        if operation.takes_if_match:
            parameters.append({"$ref": "#/components/parameters/If-Match"})
        if not operation.in_body:
            required = self._schemas.of(operation.arguments_type).get("required", [])
            parameters += [
                {
                    "name": name,
                    "in": "query",
                    "required": name in required,
                    "schema": as_text(schema),
                }
                for name, schema in self._properties_of(operation.arguments_type)
                if self._schemas.is_text(schema) or name in required
            ]
        return parameters

    def _properties_of(self, wanted: Any) -> list[tuple[str, dict[str, Any]]]:
        return list(self._schemas.of(wanted).get("properties", {}).items())

    def _body(self) -> dict[str, Any]:
        schema = self._schemas.of(self._operation.arguments_type)
        example = self._schemas.sample_of(schema)
        return {
            "required": bool(schema.get("required")),
            "content": {"application/json": {"schema": schema, "example": example}},
        }

    def _success(self) -> dict[str, Any]:
        response: dict[str, Any]
        if self._operation.is_live:
            response = {
                "description": "Server-Sent Events: `snapshot`, then `patch` (RFC 7396).",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            }
        else:
            schema = self._schemas.of(self._operation.result_type)
            response = {
                "description": "The result.",
                "content": {"application/json": {"schema": schema}},
            }
        if headers := self._headers():
            response["headers"] = headers
        return response

    def _headers(self) -> dict[str, Any]:
        headers: dict[str, Any] = {}
        if self._operation.is_idempotent:
            headers["Idempotent-Replayed"] = _REPLAYED
        if self._operation.http_method == "GET" and not self._operation.is_live:
            headers["ETag"] = _ETAG
            if self._operation.is_paged:
                headers["Link"] = _LINK
        if self._operation.lifetime.deprecated is not None:
            headers["Deprecation"] = _DEPRECATION
        if self._operation.lifetime.sunset is not None:
            headers["Sunset"] = _SUNSET
        return headers | RATE_HEADERS if self._operation.is_limited else headers


def _end_of(lifetime: Lifetime) -> str:
    """For people, and in the headers for programs."""
    parts = [f"Deprecated since {lifetime.deprecated}"]
    if lifetime.sunset is not None:
        parts.append(f"to be gone from {lifetime.sunset} on")
    if lifetime.until is not None:
        parts.append(f"not in version {lifetime.until}")
    return ", ".join(parts) + "."


def _security(operation: Operation) -> list[dict[str, list[str]]]:
    """A rule that is a function may let guests in as well."""
    signed_in: dict[str, list[str]] = {_SCHEME: []}
    must_sign_in = operation.access in {"signed_in", "owner"}
    return [signed_in] if must_sign_in else [{}, signed_in]


def _tags(operations: Sequence[Operation]) -> list[dict[str, str]]:
    tags: dict[str, dict[str, str]] = {}
    for operation in operations:
        tag = tags.setdefault(operation.tag, {"name": operation.tag})
        if operation.method is not None:
            text = operation.method.actor_type.actor_class.__doc__
            if text:
                tag["description"] = " ".join(text.split())
    return list(tags.values())
