"""Writes the client of an App as one Python module, which needs httpx and nothing else.

What sends calls and reads values is not made but copied: the modules of this package that say so,
which are tested where they stand. Only what the App's own operations say is written here.
"""

import ast
import builtins
import inspect
from collections.abc import Iterable
from types import ModuleType
from urllib.parse import quote

from msgspec import inspect as types

from perdure.base import merge_patch
from perdure.base.errors import PerdureError
from perdure.client import python_base, python_values, transport, unset
from perdure.client.api import ActorApi, Api, Call, Parameter, standard_errors
from perdure.client.python_types import PythonTypes, documented, quoted
from perdure.web.type_names import free_name

_FIRST = (unset, python_base)  # what the App's classes derive from
_LAST = (python_values, transport)
_OWN_IMPORTS = """
from __future__ import annotations
import dataclasses
import datetime
import decimal
import enum
import typing
import uuid
from collections.abc import AsyncIterator
from typing import Any
"""
_LINE_MAX = 100
_HEAD = '''"""A typed client of {title}.

Written by `perdure client python`. Do not change it: write it anew when the app has changed.
It needs Python 3.11 or later, and httpx.

    async with Client("http://localhost:8000") as client:
        {example}
"""'''


def python_module(api: Api, title: str) -> str:
    """The text of the module.

    Args:
        title: what the App is called.
    """
    return _Writer(api).module(title)


class _Writer:
    """Writes one module."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._errors = [*api.domain_errors, *standard_errors()]
        copied = _names_in(_OWN_IMPORTS, *map(inspect.getsource, (*_FIRST, *_LAST)), _patch())
        taken = {*copied, "builtins", "Client", *dir(builtins)}
        self._actor_names = [free_name(actor.name, taken) for actor in api.actors]
        self._error_names = [free_name(error.__name__, taken) for error in api.domain_errors]
        self._types = PythonTypes(api.types, taken)
        taken |= set(self._types.names.values())
        self._error_names += [free_name(error.__name__, taken) for error in standard_errors()]

    def module(self, title: str) -> str:
        """All of it."""
        title = _one_line(title)
        own = [
            *_section("types", self._types.declarations()),
            *_section("errors", map(self._error, self._errors, self._error_names)),
            *_section("actors", map(self._actor, self._api.actors, self._actor_names)),
            *_section("the client", [self._client(title)]),
        ]
        builtin = "import builtins" if any("builtins." in one for one in own) else ""
        sections = [
            _HEAD.format(title=title, example=self._example()),
            _imports(_OWN_IMPORTS, builtin, *map(inspect.getsource, (*_FIRST, *_LAST))),
            *map(_body_of, _FIRST),
            *own,
            *_section("how calls are sent, and values are read", map(_body_of, _LAST)),
            _patch(),
        ]
        return "\n\n\n".join(section.strip("\n") for section in sections) + "\n"

    # -- sections --------------------------------------------------------------------------------

    def _error(self, error: type[PerdureError], name: str) -> str:
        text = inspect.cleandoc(vars(error).get("__doc__") or "")
        lines = documented(text.split("\n\n")[0])
        return "\n".join([f"class {name}(ApiError):", *lines, f"    kind = {quoted(error.kind)}"])

    def _actor(self, actor: ActorApi, name: str) -> str:
        taken: set[str] = set()
        parts = [f"class {name}(Actor):", *documented(inspect.cleandoc(actor.documentation))]
        parts.append(f"    _path = {quoted(actor.path)}")
        names = [free_name(self._types.local_name(call.name), taken) for call in actor.calls]
        methods = [
            self._method(call, one, taken) for call, one in zip(actor.calls, names, strict=True)
        ]
        return "\n\n".join(["\n".join(parts), *methods])

    def _method(self, call: Call, name: str, hidden: Iterable[str]) -> str:
        """A method of an actor; `hidden` are the names that the methods of its class take."""
        path = call.operation.path.partition("/{key}/")[2]
        members = self._members(call.arguments, in_query=call.operation.is_live)
        hint = self._types.annotation(call.result)
        given = f"{quoted(quote(path))}, {members}, {hint}"
        shown = self._types.annotation(call.result, hidden)
        if call.operation.is_live:
            head = self._head(f"def {name}", call.arguments, f"AsyncIterator[{shown}]", hidden)
            return "\n".join([head, *_doc(call), _wrapped("        return self._watch(", given)])
        given += ", is_read=True" if call.is_read else ""
        head = self._head(f"async def {name}", call.arguments, shown, hidden)
        return "\n".join([head, *_doc(call), *_returning(given, hint)])

    def _client(self, title: str) -> str:
        taken = {name for name in vars(python_base.BaseClient) if not name.startswith("_")}
        parts = [f'class Client(BaseClient):\n    """The client of {title}."""']
        names = [free_name(self._types.local_name(one.name), taken) for one in self._api.functions]
        for call, name in zip(self._api.functions, names, strict=True):
            parts.append(self._function(call, name, taken))
        return "\n\n".join(parts)

    def _function(self, call: Call, name: str, hidden: Iterable[str]) -> str:
        operation = call.operation
        path = "/".join(map(self._path_part, operation.path.split("/")))
        path = f"f{quoted(path)}" if call.in_path else quoted(path)
        members = self._members(call.arguments, in_query=not operation.in_body)
        hint = self._types.annotation(call.result)
        given = f"{quoted(operation.http_method)}, {path}, {members}, {hint}"
        shown = self._types.annotation(call.result, hidden)
        head = self._head(f"async def {name}", [*call.in_path, *call.arguments], shown, hidden)
        return "\n".join([head, *_doc(call), *_returning(given, hint)])

    # -- parts of a method -----------------------------------------------------------------------

    def _head(
        self, begin: str, parameters: list[Parameter], result: str, hidden: Iterable[str]
    ) -> str:
        told = ["self"]
        for parameter in sorted(parameters, key=lambda one: not one.field.required):
            name = self._types.argument_name(parameter.name)
            annotation = self._types.annotation(parameter.type, hidden)
            if parameter.field.required:
                told.append(f"{name}: {annotation}")
                continue
            default = self._types.default(parameter.field)
            if default is None or default.endswith(")"):  # made anew, or no constant to a linter
                annotation, default = f"{annotation} | Unset", "UNSET"
            told.append(f"{name}: {annotation} = {default}")
        line = f"    {begin}({', '.join(told)}) -> {result}:"
        if len(line) <= _LINE_MAX:
            return line
        return "\n".join(
            [f"    {begin}(", *(f"        {one}," for one in told), f"    ) -> {result}:"]
        )

    def _members(self, parameters: list[Parameter], *, in_query: bool) -> str:
        told = []
        for parameter in parameters:
            value = self._types.argument_name(parameter.name)
            if in_query and _takes_none(parameter.type) and parameter.field.default is not None:
                # elsewhere None is left out of a query, since it is the default
                value = f'"null" if {value} is None else {value}'
            told.append(f"{quoted(parameter.name)}: {value}")
        return f"{{{', '.join(told)}}}"

    def _path_part(self, part: str) -> str:
        if part.startswith("{"):
            return f"{{_path_text({self._types.argument_name(part[1:-1])})}}"
        return quote(part)

    def _example(self) -> str:
        if self._api.actors:
            return f'actor = client.at({self._actor_names[0]}, "alice")'
        return "..."


def _returning(given: str, hint: str) -> list[str]:
    if hint == "None":
        return [_wrapped("        await self._call(", given)]
    return [_wrapped(f"        result: {hint} = await self._call(", given), "        return result"]


def _wrapped(begin: str, given: str) -> str:
    line = f"{begin}{given})"
    return line if len(line) <= _LINE_MAX else f"{begin}\n            {given}\n        )"


def _doc(call: Call) -> list[str]:
    return documented("\n\n".join(call.paragraphs), "        ")[:-1]


def _section(title: str, parts: Iterable[str]) -> list[str]:
    """The parts below a line with this title; nothing if there are none."""
    found = list(parts)
    return [f"# -- {title} ".ljust(_LINE_MAX, "-"), *found] if found else []


def _one_line(text: str) -> str:
    return " ".join(text.replace("\\", "").replace('"', "'").split())


def _takes_none(described: types.Type) -> bool:
    if isinstance(described, types.Metadata):
        return _takes_none(described.type)
    parts = described.types if isinstance(described, types.UnionType) else (described,)
    return any(isinstance(one, types.NoneType | types.AnyType) for one in parts)


# -- copied text ---------------------------------------------------------------------------------


def _patch() -> str:
    return inspect.getsource(merge_patch.apply)


def _body_of(module: ModuleType) -> str:
    """The text of a module behind its last import."""
    text = inspect.getsource(module)
    imports = [one for one in ast.parse(text).body if isinstance(one, ast.Import | ast.ImportFrom)]
    return "\n".join(text.splitlines()[imports[-1].end_lineno :])


def _names_in(*texts: str) -> set[str]:
    """What the modules of these texts call by name."""
    names: set[str] = set()
    for node in (node for text in texts for node in ast.parse(text).body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {one.id for one in targets if isinstance(one, ast.Name)}
    return names


def _imports(*texts: str) -> str:
    """All that these texts import, but for what is Perdure's and so copied."""
    whole: set[str] = set()
    parts: dict[str, set[str]] = {}
    for node in (node for text in texts for node in ast.parse(text).body):
        if isinstance(node, ast.Import):
            whole |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not f"{node.module}.".startswith("perdure."):
            parts.setdefault(str(node.module), set()).update(alias.name for alias in node.names)
    future = parts.pop("__future__")
    lines = [f"from __future__ import {', '.join(future)}", ""]
    lines += [f"import {name}" for name in sorted(whole - {"httpx"})]
    lines += [f"from {name} import {', '.join(sorted(parts[name]))}" for name in sorted(parts)]
    return "\n".join([*lines, "", "import httpx"])
