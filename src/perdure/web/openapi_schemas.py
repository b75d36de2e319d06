"""JSON schemas of all types of an API, and a sample value for each schema.

Invariants:
- A Struct of the application stands once under `components`, and everything else refers to it; the
  Structs that hold arguments have no name of their own and stand where they are used.
- A type for which there is no JSON schema is described as "anything", not refused: the document
  must never keep an App from starting.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from perdure.web.openapi_formats import add_formats
from perdure.web.type_names import named_types, unique_names

_PREFIX = "#/components/schemas/"
_ANYTHING = {"description": "Anything."}  # msgspec takes an empty one for none
_DEPTH_MAX = 6
_SAMPLES: dict[str, Any] = {
    "string": "text",
    "integer": 1,
    "number": 1.0,
    "boolean": True,
    "null": None,
}
_SAMPLES_BY_FORMAT = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "decimal": "1.50",
}
_TEXT_TYPES = frozenset(("string", "integer", "number", "boolean", "null"))


class Schemas:
    """The schemas of what is taken and what is given."""

    def __init__(self, arguments: Iterable[type[msgspec.Struct]], results: Iterable[Any]) -> None:
        """Raises nothing for types that JSON schema does not know.

        Args:
            arguments: Structs that stand for parameters; their names may be the same.
            results: any types.
        """
        nameless = [(one, msgspec.structs.fields(one)) for one in arguments]
        types = [field.type for _, fields in nameless for field in fields] + list(results)
        schemas, self.components = _schema_components(types)
        add_formats(types, schemas, self.components)
        # by identity, since annotations need not be hashable; the list keeps them alive
        self._types = types
        self._schemas = {id(one): schema for one, schema in zip(types, schemas, strict=True)}
        self._schemas |= {id(one): self._object_of(fields) for one, fields in nameless}

    def of(self, wanted: Any) -> dict[str, Any]:
        """The schema of one of the types."""
        return self._schemas[id(wanted)]

    def sample_of(self, schema: dict[str, Any], depth: int = 0) -> Any:
        """A value that fits the schema, made of its defaults and examples where it has them."""
        schema = self._resolved(schema)
        for known in ("default", "const"):
            if known in schema:
                return schema[known]
        for known in ("examples", "enum"):
            if schema.get(known):
                return schema[known][0]
        for choice in ("anyOf", "oneOf"):
            if choice in schema:
                return self.sample_of(schema[choice][0], depth)
        if depth > _DEPTH_MAX:
            return None
        if schema.get("type") == "object":
            return self._sample_object(schema, depth + 1)
        if schema.get("type") == "array":
            items = schema.get("prefixItems") or [schema.get("items") or {}]
            return [self.sample_of(item, depth + 1) for item in items]
        return _sample_scalar(schema)

    def is_text(self, schema: dict[str, Any]) -> bool:
        """True if a query parameter can be converted to it."""
        schema = self._resolved(schema)
        choices = schema.get("anyOf")
        if choices is not None:
            return all(self.is_text(choice) for choice in choices)
        return schema.get("type") in _TEXT_TYPES or "enum" in schema

    def _sample_object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        if "properties" not in schema:
            values = schema.get("additionalProperties")
            return {"name": self.sample_of(values, depth)} if isinstance(values, dict) else {}
        return {name: self.sample_of(inner, depth) for name, inner in schema["properties"].items()}

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        name = schema.get("$ref", "").removeprefix(_PREFIX)
        return self.components[name] if name else schema

    def _object_of(self, fields: Iterable[msgspec.structs.FieldInfo]) -> dict[str, Any]:
        properties, required = {}, []
        for field in fields:
            properties[field.name] = _with_default(self.of(field.type), field)
            if field.required:
                required.append(field.name)
        schema = {"type": "object", "properties": properties, "additionalProperties": False}
        return schema | ({"required": required} if required else {})


def _schema_components(types: list[Any]) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    """The schema of each type, and those of the types with names."""
    options: dict[str, Any] = {
        "schema_hook": lambda _unknown: dict(_ANYTHING),
        "ref_template": _PREFIX + "{name}",
    }
    try:
        return msgspec.json.schema_components(types, **options)
    except KeyError:
        # msgspec names a type by its class and module, and loses one of two that share both, as
        # classes made in functions may; its generator takes names that are given to it
        from msgspec._json_schema import _SchemaGenerator

        described = msgspec.inspect.multi_type_info(types)
        named = named_types(described)
        names = unique_names(named, allowed=r"A-Za-z0-9._\-")
        generator = _SchemaGenerator(names, **options)
        schemas = tuple(generator.to_schema(one) for one in described)
        return schemas, {names[cls]: generator.to_schema(one, False) for cls, one in named.items()}


def _with_default(schema: dict[str, Any], field: msgspec.structs.FieldInfo) -> dict[str, Any]:
    default = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    if default is msgspec.NODEFAULT:
        return schema
    try:
        return schema | {"default": msgspec.to_builtins(default)}
    except TypeError:  # a default that JSON cannot hold
        return schema


def _sample_scalar(schema: dict[str, Any]) -> Any:
    kind = schema.get("type", "string")
    if kind == "string":
        text = _SAMPLES_BY_FORMAT.get(schema.get("format", ""), "text")
        return text.ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength", 512)]
    sample = _SAMPLES[kind]
    if kind in {"integer", "number"}:
        sample = max(sample, schema.get("minimum", sample))
        sample = min(sample, schema.get("maximum", sample))
    return sample
