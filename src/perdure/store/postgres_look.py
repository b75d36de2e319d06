"""A PostgreSQL store seen from a command: it commits nothing, makes nothing, and has no event loop.

What it offers is what `SqliteReader` and `SqliteLetters` do, for as far as commands need it. It may
be used while processes own the store. It writes dead letters only, in whose rows no process has an
interest: none is held in memory, and a running outbox finds what is due again with its next look.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from perdure.base.clock import SystemClock
from perdure.base.errors import StoreError, StoreFormatError
from perdure.store.api import Message, StoredActor, StoredSchema
from perdure.store.postgres_batch import Table
from perdure.store.postgres_link import Server
from perdure.store.postgres_names import literal
from perdure.store.postgres_reader import LONG_READ_S, Reader
from perdure.store.postgres_tables import FORMAT, table_sql_name

_ROWS_MAX = 500  # written in one transaction

_Result = TypeVar("_Result")

_RESEND = "UPDATE perdure_message SET due_at_ms = $2, attempts = 0"  # the error stays, to be read
_DEAD = "WHERE due_at_ms IS NULL AND id = ANY($1) RETURNING id"
_DEAD_BEHIND = (
    "WHERE due_at_ms IS NULL AND id IN (SELECT id FROM perdure_message"
    " WHERE due_at_ms IS NULL AND id > $1 ORDER BY id LIMIT $3) RETURNING id"
)


class PostgresLook:
    """The store in the database of this URL. Every method may raise StoreError."""

    def __init__(self, url: str) -> None:
        clock = SystemClock()
        self._runner = asyncio.Runner()
        self._label = (server := Server(url, clock)).label
        self._reader = Reader(server, clock)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        [[namespace, is_store]] = self._rows(
            "SELECT current_schema(), to_regclass('perdure_format') IS NOT NULL"
        )
        if not is_store:
            raise StoreError(f"there is no store in {self._label}")
        [[stored]] = self._rows("SELECT format FROM perdure_format")
        if stored != FORMAT:
            raise StoreFormatError(f"{self._label} has format {stored}; this Perdure has {FORMAT}")
        self._schemas = self._run(self._reader.schemas())
        self._tables = {
            one.name: Table(table_sql_name(one.name, namespace), one.version)
            for one in self._schemas
        }
        self._reader.open(self._tables, namespace)

    def close(self) -> None:
        """Cut the connection."""
        self._reader.close()
        self._runner.close()

    def actor_tables(self) -> list[str]:
        """The names of all actor types that ever had a table here, sorted."""
        return sorted(self._tables)

    def schemas(self) -> list[StoredSchema]:
        """What is known of the stored classes."""
        return self._schemas

    def count(self, actor_type: str) -> int:
        """How many actors of this type are stored."""
        [[count]] = self._rows(f"SELECT count(*) FROM {self._tables[actor_type].sql_name}")
        return int(count)

    def load(self, actor_type: str, key: str) -> StoredActor | None:
        """One actor."""
        return self._run(self._reader.load_many(actor_type, [key])).get(key)

    def scan(self, actor_type: str, after: str, limit: int) -> list[StoredActor]:
        """Up to `limit` actors with keys greater than `after`, in key order."""
        return self._run(self._reader.scan(actor_type, after, limit))

    # -- surveys

    def versions(self, actor_type: str) -> dict[int, tuple[int, str]]:
        """Of each class version that wrote rows: how many, and the key of the newest."""
        rows = self._rows(
            "SELECT schema, count(*), (array_agg(key ORDER BY updated_at_ms DESC))[1]"
            f" FROM {self._tables[actor_type].sql_name} GROUP BY schema ORDER BY schema"
        )
        return {schema: (count, key) for schema, count, key in rows}

    def spread(self, actor_type: str, count: int) -> list[str]:
        """The keys of all actors if they are few, else the first, and about `count` spread evenly
        behind it, with the last."""
        rows = self._rows(
            "SELECT key FROM (SELECT key, row_number() OVER (ORDER BY key) AS place, count(*)"
            f" OVER () AS rows FROM {self._tables[actor_type].sql_name}) AS numbered"
            " WHERE place = 1 OR place = rows OR place % (rows / $1 + 1) = 0 ORDER BY place",
            count,
        )
        return [key for (key,) in rows]

    def duplicates(self, actor_type: str, field: str, limit: int) -> list[tuple[str, int]]:
        """Up to `limit` values of a field, not null, that several actors have, with how many."""
        value = f"state ->> {literal(field)}"
        rows = self._rows(
            f"SELECT {value}, count(*) FROM {self._tables[actor_type].sql_name}"
            f" WHERE {value} IS NOT NULL GROUP BY {value}, json_typeof(state -> {literal(field)})"
            " HAVING count(*) > 1 LIMIT $1",
            limit,
        )
        return [(found, count) for found, count in rows]

    # -- dead letters

    def dead_letters(self, after_id: int, limit: int) -> list[Message]:
        """Messages that were given up, by id."""
        return self._run(self._reader.dead_letters(after_id, limit))

    def resend(self, ids: Sequence[int], at_ms: int) -> list[int]:
        """Make dead letters due at `at_ms`, as if never tried; returns those ids that were dead."""
        return sorted(row[0] for row in self._rows(f"{_RESEND} {_DEAD}", ids, at_ms))

    def resend_behind(self, after_id: int, at_ms: int) -> list[int]:
        """Do so for the next letters with ids greater than `after_id`; returns their ids.

        None are left when there are none.
        """
        sql = f"{_RESEND} {_DEAD_BEHIND}"
        return sorted(row[0] for row in self._rows(sql, after_id, at_ms, _ROWS_MAX))

    def drop(self, ids: Sequence[int]) -> list[int]:
        """Delete dead letters; returns those ids that were dead letters."""
        return sorted(row[0] for row in self._rows(f"DELETE FROM perdure_message {_DEAD}", ids))

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        return self._run(self._reader.rows(sql, *values, timeout_s=LONG_READ_S))

    def _run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return self._runner.run(work)
