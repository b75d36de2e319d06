"""Which idempotency keys were answered, by actor, so that a new one need not be looked up.

Nearly every key is new. Asking the database for each means to give up the GIL and to win it back
from the writer thread, which costs more than the look-up. So the ids of an actor are read once, at
its first call with a key; after that the answer "not yet known" comes from memory.
"""

from collections.abc import Callable, Sequence

from perdure.store.api import RequestRecord

_ACTOR_MAX = 10_000  # ids of one actor; with more, the database is asked each time
_ALL_MAX = 500_000
_OVERHEAD = 8  # what an actor without any ids weighs, in ids

ActorName = tuple[str, str]


class Answered:
    """The ids of the actors that were asked about lately; the longest known are let go first."""

    def __init__(self, read: Callable[[ActorName, int], Sequence[str]]) -> None:
        self._read = read  # up to so many ids of an actor
        self._ids: dict[ActorName, set[str] | None] = {}
        self._weight = 0

    def may_have(self, name: ActorName, request_id: str) -> bool:
        """False when this id was certainly not answered."""
        if name not in self._ids:
            self._learn(name)
        ids = self._ids[name]
        return ids is None or request_id in ids

    def add(self, records: Sequence[RequestRecord]) -> None:
        """These became durable."""
        for record in records:
            name = (record.actor_type, record.key)
            ids = self._ids.get(name)
            if ids is None:
                continue  # not known, or too many
            ids.add(record.request_id)
            self._weight += 1
            if len(ids) > _ACTOR_MAX:
                self._weight -= len(ids)
                self._ids[name] = None

    def _learn(self, name: ActorName) -> None:
        ids = self._read(name, _ACTOR_MAX + 1)
        self._ids[name] = set(ids) if len(ids) <= _ACTOR_MAX else None
        self._weight += _OVERHEAD + len(self._ids[name] or ())
        while self._weight > _ALL_MAX and len(self._ids) > 1:
            oldest = next(iter(self._ids))
            self._weight -= _OVERHEAD + len(self._ids.pop(oldest) or ())
