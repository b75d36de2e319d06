"""The territory of a node: which shards it takes calls for, and what becomes of the others.

Each shard is in one of four states:

- *elsewhere*: calls go to its owner;
- *open*: calls run here;
- *closing*: it is about to be handed over. What has begun ends, with the calls it makes; new calls
  wait here, and follow their shard when it is *elsewhere*, or run when it is open again;
- *sealed*: all has ended, and it is being handed over. Now every call waits, also those that others
  wait for: what it would commit, or see, could be another's already.
"""

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet

from perdure.actor.methods import ActorType
from perdure.actor.turn import Turn
from perdure.base.errors import OverloadedError
from perdure.base.shards import SHARDS, shard_of

_ELSEWHERE, _OPEN, _CLOSING, _SEALED = 0, 1, 2, 3

Submit = Callable[[ActorType, str, Turn], None]


class Territory:
    """The shards of one node.

    Args:
        submit: takes a turn again that has waited for its shard.
        waiting_max: how many calls may wait; beyond it OverloadedError.
    """

    def __init__(self, submit: Submit, *, waiting_max: int) -> None:
        self._submit = submit
        self._waiting_max = waiting_max
        self._states = bytearray(SHARDS)
        self._waiting: dict[int, list[tuple[ActorType, str, Turn]]] = {}  # by shard
        self._waiting_count = 0
        self.owned: frozenset[int] = frozenset()  # all that are not elsewhere

    def has(self, key: str) -> bool:
        """True if actors with this key live here."""
        return self._states[shard_of(key)] != _ELSEWHERE

    def is_open(self, key: str) -> bool:
        """True if new calls to actors with this key begin here now."""
        return self._states[shard_of(key)] == _OPEN

    def admits(self, key: str, turn: Turn) -> bool:
        """True if the turn may begin here now."""
        state = self._states[shard_of(key)]
        return state == _OPEN or (state == _CLOSING and turn.is_inner)

    def wait(self, actor_type: ActorType, key: str, turn: Turn) -> None:
        """Keep a call for a shard that is closing; fails it when too many wait already."""
        if self._waiting_count >= self._waiting_max:
            turn.fail(OverloadedError(f"{self._waiting_count} calls wait for actors that move"))
            return
        self._waiting_count += 1
        self._waiting.setdefault(shard_of(key), []).append((actor_type, key, turn))

    def open(self, shards: Iterable[int]) -> None:
        """Take calls for these shards from now on."""
        self._set(shards, _OPEN)

    def close(self, shards: Iterable[int]) -> None:
        """Let new calls to these shards wait."""
        self._set(shards, _CLOSING)

    def seal(self, shards: Iterable[int]) -> None:
        """Let every call to these shards wait; nothing of them is under way."""
        self._set(shards, _SEALED)

    def lose(self, shards: Iterable[int]) -> None:
        """Send calls to these shards elsewhere."""
        self._set(shards, _ELSEWHERE)

    def opened(self, shards: Iterable[int]) -> AbstractSet[int]:
        """Those of these shards that are open."""
        return {shard for shard in shards if self._states[shard] == _OPEN}

    def closing(self, shards: Iterable[int]) -> AbstractSet[int]:
        """Those of these shards that are closing."""
        return {shard for shard in shards if self._states[shard] == _CLOSING}

    def _set(self, shards: Iterable[int], state: int) -> None:
        changed = list(shards)
        for shard in changed:
            self._states[shard] = state
        self.owned = (
            self.owned.difference(changed) if state == _ELSEWHERE else self.owned.union(changed)
        )
        if state in (_CLOSING, _SEALED):
            return
        for shard in changed:
            calls = self._waiting.pop(shard, ())
            self._waiting_count -= len(calls)
            for call in calls:
                self._submit(*call)
