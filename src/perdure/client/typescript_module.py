"""Writes the client of an App as one TypeScript module without dependencies.

What sends calls is copied from `typescript/`; only what the App's own operations say is written
here.
"""

import inspect
import re
from collections.abc import Iterable
from importlib.resources import files
from urllib.parse import quote

from perdure.base.errors import PerdureError
from perdure.client.api import ActorApi, Api, Call, Parameter, standard_errors
from perdure.client.typescript_types import (
    RESERVED,
    TypescriptTypes,
    constant,
    documented,
    member,
)
from perdure.web.type_names import free_name

_HEAD = """// A typed client of {title}.
//
// Written by `perdure client typescript`. Do not change it: write it anew when the app has changed.
// It runs in browsers and in Node.js 20 and later, and needs nothing else.
//
//   const client = new Client("http://localhost:8000");
//   {example}
//
// Whole numbers beyond 2 ** 53 are rounded, as always in JavaScript: let the app send texts.
"""
_DECLARED = re.compile(
    r"^(?:export )?(?:abstract )?(?:class|interface|type|const|function|async function) (\w+)",
    re.MULTILINE,
)
_LINE_MAX = 100


def typescript_module(api: Api, title: str) -> str:
    """The text of the module.

    Args:
        title: what the App is called.
    """
    return _Writer(api).module(title)


class _Writer:
    """Writes one module."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._base, self._transport = _copied("base.ts"), _copied("transport.ts")
        taken = {*_DECLARED.findall(self._base + self._transport), "Client", "ERRORS", *RESERVED}
        self._actor_names = [free_name(actor.name, taken) for actor in api.actors]
        self._error_names = [free_name(error.__name__, taken) for error in api.domain_errors]
        calls = [call for actor in api.actors for call in actor.calls] + api.functions
        sent = [one.type for call in calls for one in (*call.in_path, *call.arguments)]
        self._types = TypescriptTypes(api.types, taken, sent, [call.result for call in calls])
        taken |= self._types.all_names
        self._error_names += [free_name(error.__name__, taken) for error in standard_errors()]

    def module(self, title: str) -> str:
        """All of it."""
        errors = [*self._api.domain_errors, *standard_errors()]
        example = f'await client.at({self._actor_names[0]}, "alice")…' if self._api.actors else "…"
        title = " ".join(title.split())
        sections = [
            _HEAD.format(title=title, example=example),
            self._base,
            *_section("types", self._types.declarations()),
            *_section("errors", map(self._error, errors, self._error_names)),
            self._errors_by_kind(errors),
            *_section("actors", map(self._actor, self._api.actors, self._actor_names)),
            *_section("the client", [self._client(title)]),
            *_section("how calls are sent", [self._transport]),
        ]
        return "\n\n".join(section.strip("\n") for section in sections) + "\n"

    def _error(self, error: type[PerdureError], name: str) -> str:
        text = inspect.cleandoc(vars(error).get("__doc__") or "")
        lines = documented(text.split("\n\n")[0])
        return "\n".join([*lines, f"export class {name} extends ApiError {{}}"])

    def _errors_by_kind(self, errors: list[type[PerdureError]]) -> str:
        rows = [
            f"  [{constant(error.kind)}, {name}],"
            for error, name in zip(errors, self._error_names, strict=True)
        ]
        return "\n".join(["const ERRORS = new Map<string, typeof ApiError>([", *rows, "]);"])

    def _actor(self, actor: ActorApi, name: str) -> str:
        taken = {"constructor", "then"}  # the latter would make it a promise to `await`
        parts = [f"  protected readonly _path = {constant(actor.path)};"]
        for call in actor.calls:
            parts.append(self._method(call, free_name(call.name, taken)))
        head = [
            *documented(inspect.cleandoc(actor.documentation)),
            f"export class {name} extends Actor {{",
        ]
        return "\n".join([*head, "\n\n".join(parts), "}"])

    def _method(self, call: Call, name: str) -> str:
        path = constant(quote(call.operation.path.partition("/{key}/")[2]))
        if call.operation.is_live:
            kind = f"AsyncGenerator<{self._result(call)}, void, void>"
            body = f"return this._watch({path}, {_members(call.arguments)}) as {kind};"
            return self._written(call, name, kind, body)
        given = f"{path}, {'args' if call.arguments else '{}'}{', true' if call.is_read else ''}"
        return self._awaited(call, name, given)

    def _client(self, title: str) -> str:
        taken = {"constructor", "then", "at"}
        parts = [self._function(one, free_name(one.name, taken)) for one in self._api.functions]
        head = [
            f"/** The client of {title.replace('*/', '')}. */",
            "export class Client extends BaseClient {",
        ]
        return "\n".join([*head, "\n\n".join(parts), "}"] if parts else [head[0], f"{head[1]}}}"])

    def _function(self, call: Call, name: str) -> str:
        operation = call.operation
        parts = [
            f"${{pathText({_argument(part[1:-1])})}}" if part.startswith("{") else quote(part)
            for part in operation.path.split("/")
        ]
        path = f"`{'/'.join(parts)}`" if call.in_path else constant("/".join(parts))
        members = _members(call.arguments, in_query=not operation.in_body)
        return self._awaited(call, name, f"{constant(operation.http_method)}, {path}, {members}")

    def _result(self, call: Call) -> str:
        return self._types.expression(call.result, sent=False)

    def _awaited(self, call: Call, name: str, given: str) -> str:
        """A method that sends a call."""
        result = self._result(call)
        if result == "null":
            return self._written(
                call, f"async {name}", "Promise<void>", f"await this._call({given});"
            )
        body = f"return (await this._call({given})) as {result};"
        return self._written(call, f"async {name}", f"Promise<{result}>", body)

    def _written(self, call: Call, begin: str, kind: str, body: str) -> str:
        """A method with its documentation."""
        parameters = [*call.in_path, *call.arguments]
        optional = "" if any(one.field.required for one in parameters) else " = {}"
        members = [
            f"{member(one.name)}{'' if one.field.required else '?'}: "
            f"{self._types.expression(one.type, sent=True)}"
            for one in parameters
        ]
        argument = f"args: {{ {'; '.join(members)} }}{optional}" if members else ""
        line = f"  {begin}({argument}): {kind} {{"
        if len(line) > _LINE_MAX:
            rows = "".join(f"    {one};\n" for one in members)
            line = f"  {begin}(args: {{\n{rows}  }}{optional}): {kind} {{"
        comment = documented("\n\n".join(call.paragraphs), "  ")
        return "\n".join([*comment, line, f"    {body}", "  }"])


def _members(parameters: Iterable[Parameter], *, in_query: bool = True) -> str:
    told = []
    for one in parameters:
        value = _argument(one.name)
        if in_query and one.field.default is None:
            value += " ?? undefined"  # left out: in a query, null would be a text
        told.append(f"{member(one.name)}: {value}")
    return f"{{ {', '.join(told)} }}" if told else "{}"


def _argument(name: str) -> str:
    named = member(name)
    return f"args.{named}" if named == name else f"args[{named}]"


def _copied(name: str) -> str:
    return files("perdure.client").joinpath("typescript", name).read_text("utf-8")


def _section(title: str, parts: Iterable[str]) -> list[str]:
    found = list(parts)
    return [f"// -- {title} ".ljust(_LINE_MAX, "-"), *found] if found else []
