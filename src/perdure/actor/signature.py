"""Compiles the signature of a function into the Struct that its arguments are decoded as.

It exists for methods of actors and for the plain functions of an App alike: both get their
arguments by name, from JSON or from text, and both say in the same words which one did not fit.
"""

from collections.abc import Callable, Iterable
from inspect import Parameter
from typing import Any, get_type_hints

import msgspec

from perdure.actor.collection_fields import refuse_collections
from perdure.base.errors import BadArgumentsError, DefinitionError

# what says that arguments do not fit; a datetime beyond the year 9999 is a plain ValueError
NO_FIT = (msgspec.MsgspecError, ValueError, OverflowError)


def compile_signature(
    label: str, function: Callable[..., Any], parameters: Iterable[Parameter]
) -> tuple[type[msgspec.Struct], Any]:
    """The Struct with a field for each of these parameters, and the type of the result.

    Raises DefinitionError, which begins with `label`.
    """
    hints = type_hints(label, function)
    refuse_collections(label, *hints.values())
    fields: list[Any] = []
    for parameter in parameters:
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            raise DefinitionError(f"{label}: *{parameter.name} has no place in a JSON object")
        if parameter.kind is parameter.KEYWORD_ONLY:
            raise DefinitionError(
                f"{label}: parameter {parameter.name} is keyword-only; leave the * out, "
                "over HTTP arguments come by name anyway"
            )
        if parameter.name not in hints:
            raise DefinitionError(f"{label}: parameter {parameter.name} has no type")
        field = (parameter.name, hints[parameter.name])
        if parameter.default is not parameter.empty:
            field = (*field, parameter.default)  # type: ignore[assignment]
        fields.append(field)
    try:
        arguments = msgspec.defstruct(f"{label} arguments", fields, forbid_unknown_fields=True)
    except TypeError as error:  # a default that cannot be copied
        raise DefinitionError(f"{label}: {error}") from error
    return arguments, hints.get("return", Any)


class TakesArguments:
    """What is called with arguments by name: a method of an actor, or a plain function."""

    __slots__ = ()

    arguments_type: type[msgspec.Struct]
    decode_arguments: Callable[[bytes], Any]  # of that type, strictly

    def arguments_from_json(self, body: bytes) -> msgspec.Struct:
        """Decode one JSON object into the arguments; raises BadArgumentsError naming the field."""
        try:
            return self.decode_arguments(body or b"{}")  # type: ignore[no-any-return]
        except NO_FIT as error:
            raise bad_arguments(error) from None
        except RecursionError:
            raise BadArgumentsError("the arguments are nested too deeply") from None

    def arguments_from_text(self, values: dict[str, str]) -> msgspec.Struct:
        """Convert query parameters, which are all text; raises BadArgumentsError."""
        try:
            return msgspec.convert(values, self.arguments_type, strict=False)
        except NO_FIT as error:
            raise bad_arguments(error) from None


def type_hints(label: str, function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function; raises DefinitionError."""
    try:
        return get_type_hints(function, include_extras=True)
    except Exception as error:  # annotations are expressions: they may raise anything
        raise DefinitionError(f"{label}: its annotations cannot be read: {error}") from error


def bad_arguments(error: Exception) -> BadArgumentsError:
    """Turn `Expected int, got str - at $.qty` into an error that names the field `qty`."""
    text, _, path = str(error).partition(" - at `$")
    field = path.strip("`.") or None
    if field is None and "`" in text and "field" in text:
        field = text.split("`")[1]  # missing required field `sku`, unknown field `x`
    return BadArgumentsError(text, field)
