"""Puts whole actors into several databases, each into the cell of its key."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from perdure.base.shards import cell_of
from perdure.store.api import StoredActor
from perdure.store.look import Import


class CelledImport:
    """All cells of an app as one `Import`; `cells` are those of each, in their order."""

    def __init__(self, cells: Sequence[Import]) -> None:
        self._cells = cells

    def close(self) -> None:
        """Give them up."""
        for cell in self._cells:
            cell.close()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """What is put within the block becomes durable together, in each of the databases."""
        with ExitStack() as stack:
            for cell in self._cells:
                stack.enter_context(cell.batch())
            yield

    def put(self, actor_type: str, actor: StoredActor, *, replace: bool) -> None:
        """See `Import.put`."""
        self._of(actor.key).put(actor_type, actor, replace=replace)

    def put_entry(self, actor_type: str, key: str, field: str, entry: str, value: bytes) -> None:
        """See `Import.put_entry`."""
        self._of(key).put_entry(actor_type, key, field, entry, value)

    def _of(self, key: str) -> Import:
        return self._cells[cell_of(key, len(self._cells))]
