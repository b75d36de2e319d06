"""`perdure check`: load an app and say what it is: actors, fields, routes, limits."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import msgspec
from rich.console import Console

from perdure.actor.methods import ActorType, Method
from perdure.actor.versions import Exposed, spoken_in
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
        print_columns(console, _methods(actor_type, default_access, app.versions), indent=_INDENT)
        console.print()
    if functions := list(_functions(app, default_access)):
        console.print("Functions", style="bold")
        print_columns(console, functions, indent=_INDENT)
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


def _methods(
    actor_type: ActorType, default_access: str, versions: int
) -> Iterator[tuple[str, ...]]:
    for method in actor_type.methods.values():
        if method.options.exposed:
            path = f"/{actor_type.route_name}/{{key}}/{method.route}"
            verbs = "GET, POST" if method.read else "POST"
            access = _access_name(method.options.access or default_access)
            span = _span(method, actor_type.routes[method.route], versions)
            yield verbs, path, access, ", ".join(filter(None, (_kind(method), span)))
        else:
            yield "–", f"{method.name}()", "code of the app only", _kind(method)


def _kind(method: Method) -> str:
    options = method.options
    kinds = ["read"] * options.read + ["interleave"] * options.interleave
    if options.loss_max_s is not None:
        kinds.append(f"relaxed, loses at most {options.loss_max_s:g} s")
    return ", ".join(kinds)


def _functions(app: App, default_access: str) -> Iterator[tuple[str, ...]]:
    functions = list(app.functions)
    for function in functions:
        place = function.method, function.pattern.parts
        same = [one for one in functions if (one.method, one.pattern.parts) == place]
        access = _access_name(function.options.access or default_access)
        told = _span(function, same, app.versions)
        yield function.method.decode(), str(function.pattern), access, told


def _span(exposed: Exposed, same: Sequence[Exposed], versions: int) -> str:
    """Which versions of the API have it, unless all do, and when it ends.

    Args:
        same: all that has its name, in whichever version.
    """
    numbers = range(1, versions + 1)
    spoken = [number for number in numbers if spoken_in(number, same) is exposed]
    told = []
    if not spoken:
        told.append("in no version")
    elif spoken[-1] < versions:
        first = f"{spoken[0]} to " if len(spoken) > 1 else ""
        told.append(f"version {first}{spoken[-1]} only")
    elif spoken[0] > 1:
        told.append(f"from version {spoken[0]} on")
    if exposed.lifetime.deprecated is not None:
        told.append(f"deprecated since {exposed.lifetime.deprecated}")
    return ", ".join(told)


def _settings(app: App, default_access: str) -> Iterator[tuple[str, str]]:
    yield "identify:", _access_name(app.identify) if app.identify else "none, all are guests"
    yield "access by default:", default_access
    if app.versions > 1:
        yield "versions:", f"1 to {app.versions}, at /v1/… to /v{app.versions}/…"
    if app.cors is not None:
        origins = app.cors.origins
        yield "pages of other origins:", "all" if origins == "*" else ", ".join(origins)
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
