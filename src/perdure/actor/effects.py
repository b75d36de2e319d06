"""What a turn lets out besides its answer: messages, timers, entries of collections, its own end.

Effects stay with their turn until it ends well; then they join the group commit that takes its
state. A turn that fails takes them along: there is nothing to undo.
"""

from copy import copy
from typing import TYPE_CHECKING

import msgspec

from perdure.base.errors import LimitError
from perdure.base.ids import new_id
from perdure.base.limits import Limits
from perdure.base.trail import Trail
from perdure.store.api import Message, Stream, Timer

if TYPE_CHECKING:
    from perdure.actor.turn import Turn

EntryName = tuple[str, str]  # the field of a collection, and the entry in it


class Effects(msgspec.Struct, eq=False):
    """The effects of one turn so far, or, after a `save`, of the rest of it."""

    sent: list[Message] = []
    taken: Message | None = None  # the message this turn delivers
    timers: dict[str, Timer | None] = {}  # None: cancelled
    entries: dict[EntryName, bytes | None] = {}  # None: taken away
    entries_bytes: int = 0  # of their values
    forget: bool = False  # the actor goes with this turn


def effects_of(turn: "Turn") -> Effects:
    """The effects of this turn, to add to."""
    if turn.effects is None:
        turn.effects = Effects()
    return turn.effects


def copy_of(effects: Effects | None) -> Effects | None:
    """The same effects, to go on from without changing the original."""
    if effects is None:
        return None
    return Effects(*map(copy, msgspec.structs.astuple(effects)))


def same_effects(one: Effects | None, other: Effects | None) -> bool:
    """True if the two would do the same."""
    if one is None or other is None:
        return one is other
    return msgspec.structs.astuple(one) == msgspec.structs.astuple(other)


def send(
    turn: "Turn",
    limits: Limits,
    receiver: tuple[str, str],
    method: str,
    arguments: bytes,
    caller: bytes | None,
    trail: Trail | None,
) -> None:
    """Add a message; raises LimitError when this turn has sent too many."""
    sent = effects_of(turn).sent
    if len(sent) >= limits.messages_per_turn_max:
        raise LimitError(f"{turn} has sent {len(sent)} messages; a turn may send no more")
    activation = turn.activation
    stream = Stream(activation.actor_type.name, activation.key, *receiver)
    sent.append(Message(stream, method, arguments, new_id(), caller, due_at_ms=0, trail=trail))


def put_entry(turn: "Turn", limits: Limits, at: EntryName, value: bytes | None) -> None:
    """Put an entry of a collection, or take it away; raises LimitError when this turn has written
    too many, or too much."""
    effects = effects_of(turn)
    entries = effects.entries
    if len(entries) >= limits.entries_per_turn_max and at not in entries:
        raise LimitError(f"{turn} has written {len(entries)} entries; a turn may write no more")
    size = effects.entries_bytes + len(value or b"") - len(entries.get(at) or b"")
    if size > limits.entries_bytes_per_turn_max:
        raise LimitError(
            f"{turn} would write {size} bytes of entries; "
            f"at most {limits.entries_bytes_per_turn_max} fit into a turn"
        )
    effects.entries_bytes = size
    entries[at] = value
