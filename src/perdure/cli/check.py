"""`perdure check`: load an app and say what it is: actors, fields, routes, limits."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
from rich.console import Console

from perdure.actor.methods import ActorType, Method
from perdure.base.limits import Limits
from perdure.cli.loading import load_app
from perdure.cli.tables import print_columns
from perdure.web.app import App

_INDENT = 2


def check_app(target: str, console: Console) -> None:
    """Print what the app consists of; raises Failure if it cannot be loaded."""
    app = load_app(target)
    default_access = "signed_in" if app.identify else "anyone"
    for actor_type in app.actor_types:
        name = actor_type.actor_class.__name__
        console.print(f"{name}, {_storage(actor_type)}", style="bold")
        print_columns(console, _fields(actor_type), indent=_INDENT)
        print_columns(console, _methods(actor_type, default_access), indent=_INDENT)
        console.print()
    console.print("App", style="bold")
    print_columns(console, _settings(app, default_access), indent=_INDENT)
    console.print()
    console.print("Limits, * where they are not the default", style="bold")
    print_columns(console, _limits(app.limits), indent=_INDENT)


def _storage(actor_type: ActorType) -> str:
    ttl_ms, version = actor_type.ttl_ms, actor_type.schema.version
    expiry = f", expires after {timedelta(milliseconds=ttl_ms)}" if ttl_ms is not None else ""
    return f"stored in table {actor_type.name}{f', version {version}' * (version > 1)}{expiry}"


def _fields(actor_type: ActorType) -> Iterator[tuple[str, str]]:
    for field in msgspec.structs.fields(actor_type.actor_class):
        yield f"{field.name}:", f"{_type_name(field.type)} = {_default(field)}"


def _methods(actor_type: ActorType, default_access: str) -> Iterator[tuple[str, ...]]:
    for method in actor_type.methods.values():
        if method.options.exposed:
            path = f"/{actor_type.route_name}/{{key}}/{method.name}"
            verbs = "GET, POST" if method.read else "POST"
            access = _access_name(method.options.access or default_access)
            yield verbs, path, access, _kind(method)
        else:
            yield "–", f"{method.name}()", "code of the app only", _kind(method)


def _kind(method: Method) -> str:
    options = method.options
    kinds = ["read"] * options.read + ["interleave"] * options.interleave
    if options.loss_max_s is not None:
        kinds.append(f"relaxed, loses at most {options.loss_max_s:g} s")
    return ", ".join(kinds)


def _settings(app: App, default_access: str) -> Iterator[tuple[str, str]]:
    yield "identify:", _access_name(app.identify) if app.identify else "none, all are guests"
    yield "access by default:", default_access
    yield "mounted app:", _access_name(app.mount) if app.mount is not None else "none"


def _limits(limits: Limits) -> Iterator[tuple[str, str]]:
    for field in msgspec.structs.fields(limits):
        value = getattr(limits, field.name)
        yield f"{field.name}:", f"{value:,}" + (" *" if value != field.default else "")


def _type_name(wanted: Any) -> str:
    is_plain = isinstance(wanted, type) and not hasattr(wanted, "__args__")
    return wanted.__name__ if is_plain else str(wanted)


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is not msgspec.NODEFAULT:
        return repr(field.default)
    if field.default_factory in {list, dict, set}:
        return repr(field.default_factory())
    return f"{getattr(field.default_factory, '__name__', 'a factory')}()"


def _access_name(rule: Any) -> str:
    return rule if isinstance(rule, str) else getattr(rule, "__name__", type(rule).__name__)
