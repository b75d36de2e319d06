"""What a line of an export says, and what is checked of it when it comes in again."""

from typing import Annotated, Any

import msgspec

from perdure.base.codec import decoder, encode
from perdure.base.keys import normalize_key
from perdure.base.texts import holds_nul, unstorable
from perdure.cli.state import KEY_BYTES_MAX
from perdure.store.api import StoredActor, Timer

_Count = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
_Small = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]  # PostgreSQL's integer
_TimeMs = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_999)]  # to the end of year 9999


class TimerPart(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A timer within the line of its actor."""

    name: str
    due_at_ms: _TimeMs
    method: str
    arguments: msgspec.Raw
    every_ms: _Count | None = None
    attempts: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0


class ActorLine(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """An actor."""

    type: str
    key: str
    version: _Count
    created_at_ms: _TimeMs
    updated_at_ms: _TimeMs
    schema: _Small = 1
    timers: list[TimerPart] = []
    state: msgspec.Raw  # byte for byte, so that numbers keep their form


class EntryLine(msgspec.Struct, forbid_unknown_fields=True):
    """An entry of a collection of the actor whose line came before."""

    type: str
    key: str
    field: str
    entry: str
    value: msgspec.Raw


class ReadEntry(msgspec.Struct, frozen=True):
    """An entry as it was read."""

    actor_type: str
    key: str
    field: str
    entry: str
    value: bytes


Line = tuple[str, StoredActor] | ReadEntry


class _Kind(msgspec.Struct):
    """Only as much of a line as tells which of the two it is; the rest is skipped unseen."""

    entry: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_kind_decoder = decoder(_Kind)
_actor_decoder = decoder(ActorLine)
_entry_decoder = decoder(EntryLine)
_object_decoder = decoder(dict[str, Any])
_value_decoder = decoder(Any)


def actor_line(name: str, actor: StoredActor) -> bytes:
    """The line of an actor of the type `name`, with its timers."""
    return _encoded(
        ActorLine(
            type=name,
            key=actor.key,
            version=actor.version,
            created_at_ms=actor.created_at_ms,
            updated_at_ms=actor.updated_at_ms,
            schema=actor.schema,
            timers=[
                TimerPart(
                    timer.name,
                    timer.due_at_ms,
                    timer.method,
                    _in_one_line(timer.arguments),
                    timer.every_ms,
                    timer.attempts,
                )
                for timer in actor.timers
            ],
            state=_in_one_line(actor.state),
        )
    )


def entry_line(name: str, key: str, field: str, entry: str, value: bytes) -> bytes:
    """The line of an entry of the actor `key` of the type `name`."""
    return _encoded(EntryLine(name, key, field, entry, _in_one_line(value)))


def read_line(line: bytes) -> Line:
    """Decode and check one line; raises ValueError, which msgspec's errors are too."""
    if _kind_decoder.decode(line).entry is msgspec.UNSET:
        return _read_actor(_actor_decoder.decode(line))
    read = _entry_decoder.decode(line)
    _check_type(read.type)
    if not read.field.isidentifier():
        raise ValueError(f"{read.field!r} cannot be the name of a field")
    value = bytes(read.value)
    _value_decoder.decode(value)
    key = normalize_key(read.key, KEY_BYTES_MAX)
    if unstorable(read.entry) or len(read.entry.encode()) > KEY_BYTES_MAX:  # else taken as it is
        raise ValueError("the key of the entry is too long, or holds a NUL character")
    return ReadEntry(read.type, key, read.field, read.entry, value)


def _read_actor(read: ActorLine) -> tuple[str, StoredActor]:
    _check_type(read.type)
    if read.created_at_ms > read.updated_at_ms:
        raise ValueError("created_at_ms is after updated_at_ms")
    state = bytes(read.state)
    _object_decoder.decode(state)
    if holds_nul(state):
        raise ValueError("the state holds a NUL character, which no store holds")
    key = normalize_key(read.key, KEY_BYTES_MAX)
    timers = tuple(_read_timer(read.type, key, timer) for timer in read.timers)
    if len({timer.name for timer in timers}) < len(timers):
        raise ValueError("two of its timers have the same name")
    times = (read.created_at_ms, read.updated_at_ms)
    return read.type, StoredActor(key, state, read.version, *times, read.schema, timers)


def _read_timer(actor_type: str, key: str, read: TimerPart) -> Timer:
    if not read.method.isidentifier():
        raise ValueError(f"{read.method!r} cannot be the method of a timer")
    if what := unstorable(read.name):
        raise ValueError(f"the name of a timer holds {what}")
    arguments = bytes(read.arguments)
    _value_decoder.decode(arguments)
    due = (read.due_at_ms, read.method, arguments)
    return Timer(actor_type, key, read.name, *due, read.every_ms, read.attempts)


def _check_type(name: str) -> None:
    if not name.isidentifier() or name.startswith(("perdure_", "sqlite_")):
        raise ValueError(f"{name!r} cannot be the name of a type")
    if name != name.lower():
        raise ValueError(f"the type is {name!r}; types are written in snake_case")


def _in_one_line(value: bytes) -> msgspec.Raw:
    if b"\n" in value:  # between tokens, where a store that was imported may have some
        value = msgspec.json.format(value, indent=-1)
    return msgspec.Raw(value)


def _encoded(line: ActorLine | EntryLine) -> bytes:
    return encode(line) + b"\n"
