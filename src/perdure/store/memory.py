"""A store in a dict: for tests and for trying things out. Nothing in it survives the process."""

from collections.abc import Iterable

from perdure.base.errors import ConflictError
from perdure.store.api import Batch, RequestRecord, StoredActor

_RequestKey = tuple[str, str, str]


class MemoryStore:
    """Keeps what `Store` promises, but for durability."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[str, StoredActor]] = {}
        self._requests: dict[_RequestKey, tuple[int, RequestRecord]] = {}

    async def open(self, actor_types: Iterable[str]) -> None:
        for name in actor_types:
            self._tables.setdefault(name, {})

    async def load(self, actor_type: str, key: str) -> StoredActor | None:
        return self._tables[actor_type].get(key)

    async def find_request(
        self, actor_type: str, key: str, request_id: str
    ) -> RequestRecord | None:
        found = self._requests.get((actor_type, key, request_id))
        return found[1] if found else None

    async def commit(self, batch: Batch) -> None:
        for write in batch.writes:  # look at all before changing any
            stored = self._tables[write.actor_type].get(write.key)
            if (stored.version if stored else 0) != write.version - 1:
                raise ConflictError(f"{write.actor_type}/{write.key}: not version {write.version}")
        for record in batch.requests:
            if (record.actor_type, record.key, record.request_id) in self._requests:
                raise ConflictError(f"{record.actor_type}/{record.key}: this id was answered")
        for write in batch.writes:
            table = self._tables[write.actor_type]
            before = table.get(write.key)
            created_at_ms = before.created_at_ms if before else batch.at_ms
            table[write.key] = StoredActor(
                write.key, write.state, write.version, created_at_ms, batch.at_ms
            )
        for record in batch.requests:
            key = (record.actor_type, record.key, record.request_id)
            self._requests[key] = (batch.at_ms, record)

    async def forget_requests(self, before_ms: int, limit: int) -> int:
        old = [key for key, (at_ms, _) in self._requests.items() if at_ms < before_ms][:limit]
        for key in old:
            del self._requests[key]
        return len(old)

    async def actor_types(self) -> dict[str, int]:
        return {name: len(rows) for name, rows in self._tables.items() if rows}

    async def scan(self, actor_type: str, after: str, limit: int) -> list[StoredActor]:
        rows = self._tables.get(actor_type, {})
        return [rows[key] for key in sorted(rows) if key > after][:limit]

    async def close(self) -> None:
        """Keep everything: a test may open the same object again, as after a restart."""
