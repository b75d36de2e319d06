"""Plain functions of an App: `@app.get("/quote/{sku}")`, stateless, typed, with an access rule.

A function is compiled once, when it is registered, and every mistake that can be seen then is a
DefinitionError: a path that an actor has, a parameter without a type, a function that is no
coroutine.

Sync functions are refused rather than run in a pool of threads: a thread cannot be stopped at its
deadline, so neither the number of threads nor the time of a call would have a bound that holds.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Protocol, TypeVar, Union, Unpack

import msgspec

from perdure.actor.model import AccessRule, Caller, MethodOptions, check_bounds
from perdure.actor.pages import is_paged
from perdure.actor.rate import RateOrRates, rates_of
from perdure.actor.signature import (
    NO_FIT,
    TakesArguments,
    bad_arguments,
    compile_signature,
    type_hints,
)
from perdure.actor.versions import Lifetime, Versioned, spoken_in
from perdure.base.codec import decoder
from perdure.base.errors import DefinitionError, NotSignedInError
from perdure.web.path_patterns import PathPattern
from perdure.web.versions import lines_of, segments_of

Wrapped = TypeVar("Wrapped", bound=Callable[..., Any])


class Rules(Versioned, total=False):
    """What a decorator may say beside the path; see `Registration`."""

    access: AccessRule | None
    timeout_s: float | None
    body_bytes_max: int | None
    rate: RateOrRates | None


class Decorator(Protocol):
    """Registers a function and gives it back as it was."""

    def __call__(self, function: Wrapped, /) -> Wrapped: ...


_WITH_BODY = frozenset((b"POST", b"PUT", b"PATCH"))
_CALLER_TYPES = (Caller, Caller | None, Union[Caller, None])  # noqa: UP007  # as people write it


class Function(TakesArguments):
    """One function with its path, ready to be called."""

    def __init__(
        self, method: bytes, path: str, function: Callable[..., Any], options: MethodOptions
    ) -> None:
        self.label = getattr(function, "__qualname__", repr(function))
        if not inspect.iscoroutinefunction(function):
            raise DefinitionError(
                f"{self.label} must be `async def`; work that blocks belongs into a thread: "
                "`await asyncio.to_thread(…)`"
            )
        self.method = method
        self.function = function
        self.options = options
        self.lifetime = options.lifetime
        self.dated_lines = lines_of(options.lifetime)
        self.pattern = PathPattern(self.label, path)
        self.has_body = method in _WITH_BODY
        parameters = inspect.signature(function).parameters
        hints = type_hints(self.label, function)
        self._callers = {
            name: hints[name] is Caller for name in parameters if hints.get(name) in _CALLER_TYPES
        }
        self._refuse_path_parameters(parameters)
        in_path = [parameters[name] for name in self.pattern.names]
        rest = [
            one
            for name, one in parameters.items()
            if name not in self._callers and name not in self.pattern.names
        ]
        self.path_type, self.result_type = compile_signature(self.label, function, in_path)
        self.arguments_type, _ = compile_signature(self.label, function, rest)
        self.is_paged = is_paged(self.result_type, self.arguments_type)
        try:
            self.decode_arguments = decoder(self.arguments_type).decode
        except (TypeError, NameError) as error:
            raise DefinitionError(
                f"{self.label}: its parameters cannot be read from JSON: {error}"
            ) from error
        self._refuse_access()

    def __str__(self) -> str:
        return self.label

    @property
    def wants_caller(self) -> bool:
        """True if a parameter is a `Caller`."""
        return bool(self._callers)

    def start(
        self,
        in_path: dict[str, str],
        arguments: msgspec.Struct,
        caller: Caller | None,
    ) -> Any:
        """The coroutine of one call. Raises BadArgumentsError and NotSignedInError."""
        try:
            from_path = msgspec.convert(in_path, self.path_type, strict=False)
        except NO_FIT as error:
            raise bad_arguments(error) from None
        named = msgspec.structs.asdict(from_path) | msgspec.structs.asdict(arguments)
        for name, is_required in self._callers.items():
            if is_required and caller is None:
                raise NotSignedInError("sign in first")
            named[name] = caller
        return self.function(**named)

    def _refuse_path_parameters(self, parameters: Collection[str]) -> None:
        for name in self.pattern.names:
            if name not in parameters or name in self._callers:
                raise DefinitionError(
                    f"{self.label}: its path has {{{name}}}, but it has no such parameter"
                )

    def _refuse_access(self) -> None:
        if self.options.access == "owner" and "key" not in self.pattern.names:
            raise DefinitionError(
                f"{self.label}: `owner` compares the caller's id with {{key}} in the path, "
                f"and {self.pattern} has none"
            )


class Functions:
    """The functions of one App, by path; its methods are the decorators that users see."""

    def __init__(self, actor_names: Collection[str], *, has_identify: bool) -> None:
        self._actor_names = frozenset(actor_names)
        self._has_identify = has_identify
        self._added: dict[int, PathTable] = {}  # by the version that begins with them
        self._served = PathTable()
        self.closed = False

    def __iter__(self) -> Iterator[Function]:
        for table in self._added.values():
            yield from table

    def add(self, method: bytes, path: str, rules: Rules) -> Decorator:
        """A decorator that registers a function; raises DefinitionError, at once or then."""
        if self.closed:
            raise DefinitionError(f"{path}: functions are registered before the App starts")
        said: dict[str, Any] = dict(rules)
        names = Lifetime.__struct_fields__
        lifetime = Lifetime(**{name: said.pop(name) for name in names if name in said})
        options = MethodOptions(exposed=True, lifetime=lifetime, **said)
        check_bounds(options.timeout_s, options.body_bytes_max)
        rates_of(options.rate)

        def register(function: Wrapped) -> Wrapped:
            compiled = Function(method, path, function, options)
            if compiled.wants_caller and not self._has_identify:
                raise DefinitionError(
                    f"{compiled} takes a Caller, but the App has no `identify` to tell who calls"
                )
            compiled.pattern.refuse_clash(compiled.label, self._actor_names)
            self._added.setdefault(lifetime.version, PathTable()).add(compiled, compiled.pattern)
            return function

        return register

    def close(self, versions: int) -> None:
        """Take no more of them, and serve those that there are; raises DefinitionError."""
        self.closed = True
        self._served = self.table_of(versions)

    def table_of(self, versions: int) -> "PathTable":
        """All of so many versions by their paths; raises DefinitionError if some do not go
        together."""
        table = PathTable()
        for function in spoken_functions(self, 1):
            table.add(function, function.pattern)
        for version, segment in enumerate(segments_of(versions), start=1):
            for function in spoken_functions(self, version):
                table.add(function, function.pattern.under(segment))
        return table

    def match(self, raw_path: bytes) -> "Match | None":
        """The functions at this path, and what stands for the parameters in it."""
        return self._served.match(raw_path)


def spoken_functions(functions: Iterable[Function], version: int) -> list[Function]:
    """Those that this version of the API has."""
    named: dict[Any, list[Function]] = {}
    for function in functions:
        named.setdefault((function.pattern.parts, function.method), []).append(function)
    found = (spoken_in(version, implementations) for implementations in named.values())
    return [one for one in found if one is not None]


class PathTable:
    """Functions by their paths."""

    def __init__(self) -> None:
        self._by_shape: dict[tuple[int, bytes], list[Path]] = {}

    def __iter__(self) -> Iterator[Function]:
        for paths in self._by_shape.values():
            for path in paths:
                yield from path.functions.values()

    def match(self, raw_path: bytes) -> "Match | None":
        """The functions at this path, and what stands for the parameters in it."""
        parts = raw_path.split(b"/")
        for path in self._by_shape.get((len(parts), parts[1] if len(parts) > 1 else b""), ()):
            if (values := path.pattern.values_of(parts)) is not None:
                return Match(path, values)
        return None

    def add(self, function: Function, pattern: PathPattern) -> None:
        """Put a function at a path; raises DefinitionError if it does not go with others there."""
        self._path(pattern).add(function)

    def _path(self, pattern: PathPattern) -> "Path":
        paths = self._by_shape.setdefault(pattern.shape, [])
        for path in paths:
            if path.pattern.parts == pattern.parts:
                return path
        made = Path(pattern)
        paths.append(made)
        paths.sort(key=lambda path: path.pattern.rank)
        return made


class Path:
    """All functions at one path, by HTTP method."""

    def __init__(self, pattern: PathPattern) -> None:
        self.pattern = pattern
        self.functions: dict[bytes, Function] = {}

    def add(self, function: Function) -> None:
        """Put a function here; raises DefinitionError if one has this HTTP method already."""
        if (other := self.functions.get(function.method)) is not None:
            raise DefinitionError(
                f"{other} and {function} would both answer "
                f"{function.method.decode()} {function.pattern}"
            )
        if self.pattern.names != function.pattern.names:
            raise DefinitionError(
                f"{self.pattern} and {function.pattern} are one path; name its parameters alike"
            )
        self.functions[function.method] = function

    def allowed(self) -> str:
        """The HTTP methods that are answered here, for an Allow header."""
        methods = set(self.functions) | ({b"HEAD"} if b"GET" in self.functions else set())
        return ", ".join(sorted(method.decode() for method in methods))


class Match(msgspec.Struct):
    """A request's path, matched."""

    path: Path
    values: list[bytes]  # still percent-encoded


class Registration:
    """The decorators of an App: `@app.get("/quote/{sku}")`.

    The function is `async def` and gets its arguments by name: what stands in braces comes from
    the path; for GET and DELETE the others are query parameters, for POST, PUT and PATCH the
    members of one JSON object; a parameter of type `Caller` or `Caller | None` is who calls. It is
    still the function that it was, and can be called from Python.

    Args of each:
        path: begins with a fixed part, and is none of an actor's.
        access: `anyone`, `signed_in`, `owner` (the path has `{key}`, which is the caller's id), or
            a function `(caller, key) -> bool`, which may be async and gets "" for a path without
            `{key}`. By default `signed_in` where the App has `identify`, else `anyone`.
        timeout_s, body_bytes_max, rate, version, until, deprecated, sunset: as with `expose`.

    Raises DefinitionError.
    """

    functions: Functions

    def get(self, path: str, **rules: Unpack[Rules]) -> Decorator:
        """Answer GET and HEAD with a function."""
        return self.functions.add(b"GET", path, rules)

    def post(self, path: str, **rules: Unpack[Rules]) -> Decorator:
        """Answer POST with a function."""
        return self.functions.add(b"POST", path, rules)

    def put(self, path: str, **rules: Unpack[Rules]) -> Decorator:
        """Answer PUT with a function."""
        return self.functions.add(b"PUT", path, rules)

    def patch(self, path: str, **rules: Unpack[Rules]) -> Decorator:
        """Answer PATCH with a function."""
        return self.functions.add(b"PATCH", path, rules)

    def delete(self, path: str, **rules: Unpack[Rules]) -> Decorator:
        """Answer DELETE with a function."""
        return self.functions.add(b"DELETE", path, rules)
