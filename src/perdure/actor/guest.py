"""A guest: an actor that another process has lent to a transaction of this one.

*visiting* (its owner keeps it locked) → *joined* (it is in a group commit) → *gone*

It is not in the catalog, and only its transaction runs anything on it. When that has ended, and its
commit has an outcome, `on_end` hears once what the owner has to know.

Invariants:
- Every guest of a transaction that commits is written, also one that was only read. Its version is
  what makes the commit fail when the owner has let others have the actor meanwhile.
- The commit names the owner's incarnation, so it is refused once the owner stands no more.
"""

from collections.abc import Callable, Iterable
from typing import Literal

from perdure.actor.activation import Activation
from perdure.actor.answers import newer_state
from perdure.actor.gate import GroupCommit
from perdure.actor.host import Host
from perdure.actor.methods import ActorType
from perdure.actor.turn import Turn
from perdure.base.codec import encode
from perdure.store.api import RequestRecord, StoredActor

Ending = Literal["unchanged", "committed", "unknown"]


class Guest(Activation):
    """One loan, as its borrower has it.

    Args:
        on_end: told how it went, and, of a committed one, what is stored now.
    """

    __slots__ = ("_is_gone", "_on_end", "owner")

    is_guest = True

    def __init__(
        self,
        host: Host,
        actor_type: ActorType,
        key: str,
        on_end: Callable[["Guest", Ending, StoredActor | None], None],
    ) -> None:
        super().__init__(host, actor_type, key)
        self.owner = 0  # the incarnation that must stand; 0: this process itself
        self._on_end = on_end
        self._is_gone = False

    def wake(self, stored: StoredActor | None) -> None:
        if stored is not None and self.actor_type.decode_stored(stored)[1]:
            self.newer = True
            self.kill(newer_state(self))  # it could not be written, and every guest is
        else:
            super().wake(stored)

    def join(self, turn: Turn, records: Iterable[RequestRecord] = ()) -> None:
        super().join(turn, records)
        self._rest_on_owner()

    def join_unchanged(self) -> None:
        """Commit the next version of the same state."""
        self._join_commit()
        self._rest_on_owner()

    def _rest_on_owner(self) -> None:
        assert self.commit is not None
        self.commit.outside[self] = self.owner
        self.commit.links.append([self])  # alone, too, it may be left out by itself

    def release(self) -> None:
        self.running = None
        if self.commit is None:
            self._end("unchanged")

    def committed(self, commit: GroupCommit) -> None:
        is_forgotten = self.forgetting is commit
        super().committed(commit)
        self._end("committed", None if is_forgotten else stored_form(self))

    def kill(self, error: BaseException) -> None:
        super().kill(error)
        self._end("unchanged" if self.commit is None else "unknown")

    def _end(self, ending: Ending, stored: StoredActor | None = None) -> None:
        if not self._is_gone:
            self._is_gone = True
            self._on_end(self, ending, stored)


def stored_form(activation: Activation) -> StoredActor | None:
    """What is stored of an actor all of whose work is durable; None: nothing."""
    if activation.version == 0:
        return None
    return StoredActor(
        activation.key,
        activation.encoded,
        activation.version,
        activation.updated_at_ms,
        activation.updated_at_ms,
        activation.actor_type.schema.version,
        list((activation.timers or {}).values()),
    )


def take_over(activation: Activation, stored: StoredActor | None) -> None:
    """Let an actor go on from what another process has committed, while a lock keeps everyone away.

    Raises StoreFormatError.
    """
    actor_type = activation.actor_type
    if stored is None:
        activation.newer = False
        activation.restore(encode(actor_type.actor_class()))
        activation.version, activation.timers = 0, None
    else:
        actor, activation.newer = actor_type.decode_stored(stored)
        activation.restore(encode(actor))  # the object that interleaving turns hold stays
        activation.version, activation.updated_at_ms = stored.version, stored.updated_at_ms
        activation.timers = {timer.name: timer for timer in stored.timers} or None
    if activation.watcher is not None:
        activation.watcher.changed()
