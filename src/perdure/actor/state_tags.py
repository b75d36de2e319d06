"""State tags: names of committed states, by which a caller says on what its change is based.

A read gives the tag of the state that its answer was made from; a call that comes with tags runs
only while its actor's state has one of them. That is decided when its turn begins, and such a turn
keeps the actor to itself, so nothing can come between.

A tag is made of the number of the commit that left the state and of the time of that commit. A hash
of the state was rejected: who may see a part of it could use the hash to guess at the rest, and the
entries of collections are not in it. The number alone would begin again where an actor was
forgotten, or a database restored.

Invariants:
- A tag stands for what a commit has left, entries of collections included. A turn in the midst of a
  commit gives one only if its state is what that commit left in the end: turns that share a commit
  share its number.
- It survives sleep, restart and failover, since both its parts are in the actor's row. When in
  doubt there is no tag, and none fits: then a caller reads once more, and nothing is lost.
"""

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from perdure.base.errors import PreconditionFailedError

if TYPE_CHECKING:
    from perdure.actor.activation import Activation
    from perdure.actor.gate import GroupCommit
    from perdure.actor.turn import Turn

ANY = "*"  # in place of a tag: whatever was written at least once


class Look(msgspec.Struct, eq=False):
    """What a turn has to do with the state that it begins on."""

    wanted: list[str] | None = None  # tags, of which the state must have one; None: it need not
    found: str = ""  # the tag of the state; empty: there is none, or not yet
    _encoded: bytes = b""
    _commit: "GroupCommit | None" = None  # that holds the state, perhaps not as the last one
    _version: int = 0

    def begin(self, turn: "Turn") -> bool:
        """See which state it is. Raises PreconditionFailedError if it is none of those wanted."""
        activation = turn.activation
        self.found, self._commit = "", None
        self._encoded, self._version = activation.encoded, activation.version
        if activation.relaxed:
            pass  # ahead of every commit
        elif activation.commit is None:
            self.found = _tag(activation, activation.version, activation.updated_at_ms)
        elif not activation.actor_type.collections:  # their entries cannot be compared below
            self._commit = activation.commit
        if self.wanted is not None:
            self._check(activation, self.wanted)
        if not turn.holds_alone:  # it may see more than one state
            self.found, self._commit = "", None
        return True

    def _check(self, activation: "Activation", wanted: list[str]) -> None:
        if ANY in wanted and (activation.version or activation.relaxed):
            return
        if not self.found or self.found not in wanted:
            raise PreconditionFailedError(
                f"{activation} is not in the state that was read; read it again, and decide anew"
            )

    def tag(self, turn: "Turn") -> str:
        """The tag of the state that a read was made from, now that it is durable, or ""."""
        commit, activation = self._commit, turn.activation
        if commit is not None and commit.states.get(activation) is self._encoded:
            return _tag(activation, self._version, commit.at_ms)
        if self.found and activation is not None and activation.version != self._version:
            return self._newer_tag(activation)
        return self.found

    def _newer_tag(self, activation: "Activation") -> str:
        """There was a commit since, perhaps of the read itself: it remembers the answer to an
        idempotency key, or that the actor was used. If it left the state as it was, it has it."""
        is_same = activation.encoded is self._encoded and not activation.actor_type.collections
        if is_same and activation.commit is None and not activation.relaxed:
            return _tag(activation, activation.version, activation.updated_at_ms)
        return self.found

    def hear(self, tag: str) -> None:
        """Take the tag that another process found."""
        self.found, self._commit = tag, None


def _tag(activation: "Activation", version: int, at_ms: int) -> str:
    if not version:
        at_ms = 0  # what was never written has no time
    return _hash(activation.actor_type.name, activation.key, version, at_ms)


@lru_cache(maxsize=4096)  # most reads find what the read before has found
def _hash(*name: str | int) -> str:
    """With the actor in it, so that none of another actor fits by chance."""
    return hashlib.blake2b(repr(name).encode(), digest_size=8).hexdigest()
