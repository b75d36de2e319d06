"""What HAProxy balances over, and the commands from one such state to the next. Pure functions.

A backend gets a *slot*, one of a fixed number of servers; so backends come and go by commands, and
nothing is ever reloaded. HAProxy's names for the slots are s1, s2, …

Invariants:
- No entry of the map from shards to slots ever leads to a slot while that holds another backend
  than was meant: entries go before their slot changes, and come after it.
- A freed slot is the last to be given away again.
- Servers are never added or deleted at run time: in HAProxy 2.6 that can crash it under load.
"""

from collections.abc import Sequence

import msgspec

from perdure.balance.backends import Target
from perdure.balance.sources import Found

Command = str | tuple[str, ...]
"""A command, or all lines of the map as it shall be from then on."""


class Slot(msgspec.Struct, frozen=True):
    """A server of HAProxy's; without a target it is free."""

    target: Target | None = None
    is_draining: bool = False
    freed: int = 0  # the higher the later


class State(msgspec.Struct, frozen=True):
    """All slots; and the slot of each shard's owner, where those are asked for."""

    slots: tuple[Slot, ...]
    owners: tuple[int | None, ...] = ()


def followed_by(state: State, found: Found) -> State:
    """The state after a source has said what there is; backends keep their slots.

    Those for which there is no slot are left out.
    """
    wanted = {target.name: target for target in found.targets}
    slots = list(state.slots)
    stamp = 1 + max(slot.freed for slot in slots)
    for index, slot in enumerate(slots):
        if slot.target is None:
            continue
        # another address or weight under the same name is another backend, with a slot of its own
        if wanted.get(slot.target.name) == slot.target:
            slots[index] = Slot(slot.target, slot.target.name in found.draining)
            del wanted[slot.target.name]
        else:
            slots[index] = Slot(freed=stamp)
    free = [index for index, slot in enumerate(slots) if slot.target is None]
    free.sort(key=lambda index: slots[index].freed)
    for index, target in zip(free, wanted.values(), strict=False):
        slots[index] = Slot(target, target.name in found.draining)
    at = {slot.target.name: index for index, slot in enumerate(slots) if slot.target is not None}
    owners = () if found.owners is None else found.owners
    return State(tuple(slots), tuple(None if one is None else at.get(one) for one in owners))


def commands(before: State, after: State, *, by_owner: bool) -> list[Command]:
    """What to say, in this order, so that HAProxy goes from one state to the other."""
    kept = tuple(
        at if at is not None and before.slots[at].target == after.slots[at].target else None
        for at in before.owners
    )
    said: list[Command] = []
    if map_lines(kept) != map_lines(before.owners):
        said.append(map_lines(kept))
    for index, (old, new) in enumerate(zip(before.slots, after.slots, strict=True)):
        said += _of_slot(slot_name(index), old, new, by_owner=by_owner)
    if map_lines(after.owners) != map_lines(kept):
        said.append(map_lines(after.owners))
    return said


def _of_slot(name: str, old: Slot, new: Slot, *, by_owner: bool) -> list[str]:
    web, target = f"set server web/{name}", new.target
    is_other = target != old.target
    said = []
    if is_other and old.target is not None:
        said.append(f"{web} state maint")
    if target is None:
        return said
    if is_other:
        where = f"addr {target.host} port {target.port}"
        said.append(f"{web} {where}")
        if by_owner:
            said.append(f"set server owners/{name} {where}")
        said.append(f"{web} weight {target.weight}")
    if is_other or new.is_draining != old.is_draining:
        said.append(f"{web} state {'drain' if new.is_draining else 'ready'}")
    return said


def map_lines(owners: Sequence[int | None]) -> tuple[str, ...]:
    """The lines of the map from shards to slots."""
    return tuple(f"{shard} {slot_name(at)}" for shard, at in enumerate(owners) if at is not None)


def slot_name(index: int) -> str:
    """What HAProxy calls a slot."""
    return f"s{index + 1}"
