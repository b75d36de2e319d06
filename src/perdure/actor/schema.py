"""How a class changes while its states stay stored: its name, its versions, its migrations.

A stored row says which version of its class wrote it. Against the class at hand it is one of these:

    older            its migrations run, step by step, each time it wakes, until its next write
    of this version  decoded as it is; a field the class lacks means that newer code wrote it
    newer            decoded if it fits, else refused

What newer code wrote can be read by older code and is never written by it: writing would drop the
fields that the older class does not know. Fields of nested structs are not looked at for that.
"""

import inspect
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeAlias

import msgspec

from perdure.actor.model import Actor, ClassOptions
from perdure.base.codec import decoder, encode
from perdure.base.errors import DefinitionError, StoreFormatError
from perdure.base.names import snake_case
from perdure.store.api import StoredActor

Migration = Callable[[dict[str, Any]], dict[str, Any]]
StaticMigration: TypeAlias = "staticmethod[[dict[str, Any]], dict[str, Any]]"

_RESERVED = ("perdure_", "sqlite_")
_TTL_MIN = timedelta(seconds=1)

_decode_object = decoder(dict[str, Any]).decode
_decode_fields = decoder(dict[str, msgspec.Raw]).decode


def migrate(*, to: int) -> Callable[[Migration], StaticMigration]:
    """Declare how a state of version `to - 1` becomes one of version `to`.

    The function stands in the class body and takes no `self`: it gets the stored state as the dict
    that its JSON is (a datetime is a text there) and returns the new one. The highest `to` is the
    version of the class; without migrations it is 1.

    It may run any number of times on one state, and its result may be thrown away, so it must be
    pure: no clock, no randomness, nothing outside of the dict.
    """

    # A static method, so that type checkers look for no `self`.
    def marked(function: Migration) -> StaticMigration:
        step = staticmethod(function.__func__ if isinstance(function, staticmethod) else function)
        step.__perdure_migration__ = to  # type: ignore[attr-defined]
        return step

    return marked


class Migrations:
    """The versions of one class: decodes what any of them has stored."""

    def __init__(self, actor_class: type[Actor], decode_state: Callable[[bytes], Any]) -> None:
        self._class_name = actor_class.__name__
        self._decode_state = decode_state
        self._known = frozenset(_written_fields(actor_class))
        self._steps = _steps(actor_class)
        self.version = max(self._steps, default=1)

    def decode(self, stored: StoredActor) -> tuple[Actor, bool]:
        """The actor, and whether newer code wrote it; raises StoreFormatError."""
        if stored.schema < self.version:
            return self._fitted(stored, self._known_part(stored, self._migrated(stored))), False
        try:
            return self._decode_state(stored.state), stored.schema > self.version
        except msgspec.MsgspecError:
            # rare: so what the class does not know is looked for only now
            return self._fitted(stored, self._known_part(stored, stored.state)), True

    def unknown_fields(self, state: bytes) -> set[str]:
        """The top-level fields of a state that the class lacks; raises msgspec.MsgspecError."""
        return set(_decode_fields(state)) - self._known

    def _migrated(self, stored: StoredActor) -> bytes:
        """The state after every step from its version to the class's."""
        try:
            state: Any = _decode_object(stored.state)
        except msgspec.MsgspecError as error:
            raise self._misfit(stored, error) from error
        for to in range(stored.schema + 1, self.version + 1):
            step = self._steps.get(to)
            if step is None:
                raise StoreFormatError(
                    f"{self._named(stored)} is stored in version {stored.schema}, but the oldest "
                    f"step the class still has is @migrate(to={min(self._steps)}); run `perdure "
                    f"state migrate` with a release that has @migrate(to={to})"
                )
            try:
                state = step(state)
                if not isinstance(state, dict):
                    raise TypeError(f"it returned {type(state).__name__}, not a dict")
            except Exception as error:  # it is the user's, and may raise anything
                raise self._step_failed(stored, to, error) from error
        try:
            return encode(state)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise self._step_failed(stored, self.version, error) from error

    def _known_part(self, stored: StoredActor, state: bytes) -> bytes:
        try:
            fields = _decode_fields(state)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise self._misfit(stored, error) from error
        return encode({name: value for name, value in fields.items() if name in self._known})

    def _fitted(self, stored: StoredActor, state: bytes) -> Actor:
        try:
            return self._decode_state(state)  # type: ignore[no-any-return]
        except (msgspec.MsgspecError, RecursionError) as error:
            raise self._misfit(stored, error) from error

    def _misfit(self, stored: StoredActor, error: Exception) -> StoreFormatError:
        if stored.schema == self.version:
            hint = "a type that changed needs @migrate"
        else:
            hint = f"it is of version {stored.schema}, the class of version {self.version}"
        return StoreFormatError(
            f"the stored state of {self._named(stored)} does not fit the class: {error}; {hint}"
        )

    def _step_failed(self, stored: StoredActor, to: int, error: Exception) -> StoreFormatError:
        return StoreFormatError(
            f"{self._named(stored)}: @migrate(to={to}) failed on its stored state: "
            f"{type(error).__name__}: {error}; what is stored is as it was"
        )

    def _named(self, stored: StoredActor) -> str:
        return f"{self._class_name}({stored.key!r})"


def stored_name(actor_class: type[Actor], options: ClassOptions) -> str:
    """The name under which the class is stored; raises DefinitionError."""
    name = snake_case(actor_class.__name__) if options.name is None else options.name
    label = f"{actor_class.__name__}: the stored name {name!r}"
    if not (isinstance(name, str) and name.isidentifier() and name == snake_case(name)):
        raise DefinitionError(f"{label} is not in snake_case, like `shopping_cart`")
    if name.startswith(_RESERVED):
        raise DefinitionError(f"{label} is reserved")
    return name


def ttl_ms(actor_class: type[Actor], options: ClassOptions) -> int | None:
    """After how long without a write an actor of the class expires, or None: never."""
    ttl = options.ttl
    if ttl is None:
        return None
    if not isinstance(ttl, timedelta) or ttl < _TTL_MIN:
        raise DefinitionError(
            f"{actor_class.__name__}: ttl is {ttl!r}; it is a timedelta of at least one second"
        )
    return ttl // timedelta(milliseconds=1)


def _written_fields(actor_class: type[Actor]) -> Iterator[str]:
    """Whatever stands at the top of a state that the class encodes; raises DefinitionError."""
    config = actor_class.__struct_config__
    if config.array_like or not config.forbid_unknown_fields:
        raise DefinitionError(
            f"{actor_class.__name__}: a state is a JSON object whose fields are all known; "
            "leave array_like and forbid_unknown_fields as they are"
        )
    yield from actor_class.__struct_encode_fields__
    if config.tag is not None:
        yield config.tag_field or "type"


def _steps(actor_class: type[Actor]) -> dict[int, Migration]:
    """The migrations by the version that they lead to; raises DefinitionError."""
    steps: dict[int, Migration] = {}
    for name in dir(actor_class):  # with those of base classes, whose fields it has as well
        member = inspect.getattr_static(actor_class, name)
        to = getattr(member, "__perdure_migration__", None)
        while to is None and isinstance(member, staticmethod):  # `@staticmethod` above `@migrate`
            member = member.__func__
            to = getattr(member, "__perdure_migration__", None)
        if to is None:
            continue
        label = f"{actor_class.__name__}.{name}"
        if type(to) is not int or to < 2:
            raise DefinitionError(f"{label}: @migrate(to={to!r}); versions begin at 1, so to >= 2")
        step = getattr(actor_class, name)
        if inspect.iscoroutinefunction(step):
            raise DefinitionError(f"{label}: a migration must be a plain function, not async")
        if to in steps:
            raise DefinitionError(f"{label}: there are two migrations to version {to}")
        steps[to] = step
    for to in range(min(steps, default=0), max(steps, default=0)):
        if to not in steps:
            raise DefinitionError(
                f"{actor_class.__name__} has no @migrate(to={to}); only the oldest may be dropped"
            )
    return steps
