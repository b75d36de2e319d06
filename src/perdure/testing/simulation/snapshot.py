"""What a simulated database held at some moment, to be set back to.

It is what happens when a replica takes over that lags.
"""

from copy import deepcopy

from perdure.store.memory import MemoryStore
from perdure.store.memory_registry import MemoryRegistry
from perdure.testing.ownership import OwnershipLog

_NOT_HELD = frozenset(
    {"_is_standing", "_schemas", "_clock", "_is_connected", "session_lost", "_last"}
)
"""Of `_last`: PostgreSQL logs 32 numbers of a sequence ahead, so incarnations are given out twice
almost never; nothing here can bear it."""


class Snapshot:
    """All rows of a store and its registry, and what the log knew of them."""

    def __init__(self, store: MemoryStore, registry: MemoryRegistry, log: OwnershipLog) -> None:
        self._saved = [
            (one, deepcopy({name: value for name, value in vars(one).items() if _is_held(name)}))
            for one in (store, registry)
        ]
        self._log, self._known = log, log.known()

    def restore(self) -> None:
        """Forget everything that came later; once only."""
        for one, values in self._saved:
            vars(one).update(values)
        self._log.set_back(self._known)


def _is_held(name: str) -> bool:
    return name not in _NOT_HELD
