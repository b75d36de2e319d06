"""The tables, indexes and views of a SQLite store.

Everything is made at the start, in one transaction. Indexes are over expressions of the JSON state,
so no index can ever disagree with it: SQLite keeps them, whoever writes a row.

    "cart"              one row per actor of the class Cart; people read it, or the view
    perdure_view_cart   a column for each field, with readable times
    perdure_request     answers to idempotency keys
    perdure_answers     what calls of web processes were answered
    perdure_message     messages under way, and dead letters
    perdure_timer       timers
    perdure_entry       entries of collections
    perdure_schema      the classes as they were when the store was last opened with them
"""

from collections.abc import Iterable

import apsw
import msgspec

from perdure.base.errors import UniqueError
from perdure.store.api import ActorSchema, IndexedField
from perdure.store.declared import possible

FORMAT = 3  # `user_version`; raise it with every change to the tables, and migrate here

_COMMON = """
CREATE TABLE IF NOT EXISTS perdure_request (
    actor_type TEXT NOT NULL, key TEXT NOT NULL, request_id TEXT NOT NULL,
    fingerprint BLOB NOT NULL, reply BLOB NOT NULL, checksum INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS perdure_request_name
    ON perdure_request (actor_type, key, request_id);
CREATE TABLE IF NOT EXISTS perdure_answers (  -- rows in the order of their age, as above
    gateway TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    made_at_ms INTEGER NOT NULL, body BLOB NOT NULL
);
-- by `last`: what is asked for is among the latest of its gateway
CREATE INDEX IF NOT EXISTS perdure_answers_last ON perdure_answers (gateway, last);
CREATE TABLE IF NOT EXISTS perdure_message (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given twice
    sender_type TEXT NOT NULL, sender_key TEXT NOT NULL,
    receiver_type TEXT NOT NULL, receiver_key TEXT NOT NULL,
    method TEXT NOT NULL, arguments TEXT NOT NULL, uid TEXT NOT NULL, caller TEXT,
    due_at_ms INTEGER,               -- NULL: a dead letter
    attempts INTEGER NOT NULL, error TEXT NOT NULL, sent_at_ms INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS perdure_message_stream ON perdure_message
    (sender_type, sender_key, receiver_type, receiver_key, id) WHERE due_at_ms IS NOT NULL;
CREATE INDEX IF NOT EXISTS perdure_message_dead ON perdure_message (id) WHERE due_at_ms IS NULL;
CREATE TABLE IF NOT EXISTS perdure_timer (
    actor_type TEXT NOT NULL, key TEXT NOT NULL, name TEXT NOT NULL,
    due_at_ms INTEGER NOT NULL, method TEXT NOT NULL, arguments TEXT NOT NULL,
    every_ms INTEGER, attempts INTEGER NOT NULL,
    PRIMARY KEY (actor_type, key, name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS perdure_timer_due ON perdure_timer (due_at_ms, actor_type, key, name);
CREATE TABLE IF NOT EXISTS perdure_entry (
    actor_type TEXT NOT NULL, key TEXT NOT NULL, field TEXT NOT NULL, entry TEXT NOT NULL,
    value TEXT NOT NULL, checksum INTEGER NOT NULL,
    PRIMARY KEY (actor_type, key, field, entry)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS perdure_schema (
    actor_type TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL, fields TEXT NOT NULL
) WITHOUT ROWID;
"""


def actor_table_sql(actor_type: str) -> str:
    """The table of one actor class; people read it with the sqlite3 shell."""
    return f"""CREATE TABLE IF NOT EXISTS "{actor_type}" (
    key TEXT NOT NULL PRIMARY KEY,
    state TEXT NOT NULL,             -- JSON
    version INTEGER NOT NULL,        -- how many commits made it
    checksum INTEGER NOT NULL,       -- CRC-32 of key, version and state
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    schema INTEGER NOT NULL DEFAULT 1  -- the version of the class that wrote it
)"""


def create_tables(connection: apsw.Connection, schemas: Iterable[ActorSchema]) -> None:
    """Make what is missing, within the caller's transaction. Raises UniqueError."""
    _migrate(connection)
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.execute(_COMMON)
    for schema in schemas:
        connection.execute(actor_table_sql(schema.name))
        _remember(connection, schema)
        _create_indexes(connection, schema)


def _migrate(connection: apsw.Connection) -> None:
    """Bring the tables of an older format to this one; format 2 had no perdure_answers."""
    if connection.pragma("user_version") == 1:
        tables = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table'"
            " AND name NOT GLOB 'perdure_*' AND name NOT GLOB 'sqlite_*'"
        ).fetchall()
        for (name,) in tables:
            connection.execute(f'ALTER TABLE "{name}" ADD COLUMN schema INTEGER NOT NULL DEFAULT 1')
        # rows in the order of their age, so that no index by age is needed
        connection.execute("ALTER TABLE perdure_request RENAME TO perdure_old")
        connection.execute(_COMMON)
        connection.execute(
            "INSERT INTO perdure_request SELECT * FROM perdure_old ORDER BY created_at_ms"
        )
        connection.execute("DROP TABLE perdure_old")


def _remember(connection: apsw.Connection, schema: ActorSchema) -> None:
    """Note the class as it is now, and make its view anew when it has changed."""
    known = connection.execute(
        "SELECT version, fields FROM perdure_schema WHERE actor_type = ?", (schema.name,)
    ).fetchall()
    fields = msgspec.json.encode(schema.fields).decode()
    if known == [(schema.version, fields)]:
        return
    connection.execute(
        "INSERT OR REPLACE INTO perdure_schema VALUES (?, ?, ?)",
        (schema.name, schema.version, fields),
    )
    connection.execute(f'DROP VIEW IF EXISTS "{view_name(schema.name)}"')
    connection.execute(_view_sql(schema))


def view_name(actor_type: str) -> str:
    """The view that people read; no class can have a name that begins like it."""
    return f"perdure_view_{actor_type}"


def _view_sql(schema: ActorSchema) -> str:
    fields = "".join(
        f""", json_extract(state, '$."{field}"') AS "{field}\"""" for field in schema.fields
    )
    return (
        f'CREATE VIEW "{view_name(schema.name)}" AS SELECT key{fields}, version AS _version,'
        f" {_readable('created_at_ms')} AS _created_at, {_readable('updated_at_ms')} AS _updated_at"
        f' FROM "{schema.name}"'
    )


def _readable(column: str) -> str:
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', {column} / 1000.0, 'unixepoch')"


# -- indexes -------------------------------------------------------------------------------------


def expression(field: IndexedField) -> str:
    """What is indexed, sorted by and compared."""
    return ordered(f"""json_extract(state, '$."{field.name}"')""", field.kind)


def ordered(value: str, kind: str) -> str:
    """SQL that turns a value as it is in JSON into one whose order is that of its kind."""
    if kind == "time":  # with a fraction of six digits in any case
        return f"substr(replace({value}, 'Z', '') || '.000000', 1, 26)"
    if kind == "decimal":
        return f"CAST({value} AS REAL)"
    return value


def index_name(actor_type: str, field: IndexedField) -> str:
    """Says all about the index, so that another declaration is another index."""
    return f"perdure_{'uq' if field.unique else 'ix'}_{field.kind}_{actor_type}.{field.name}"


def _create_indexes(connection: apsw.Connection, schema: ActorSchema) -> None:
    table = schema.name
    wanted = {index_name(table, field): field for field in schema.indexes}
    expiry = f"perdure_ix_expiry_{table}."
    droppable = {index_name(table, field) for field in possible(schema)} - wanted.keys()
    if not schema.expires:
        droppable.add(expiry)
    known = connection.execute(
        "SELECT name FROM sqlite_schema"
        " WHERE type = 'index' AND tbl_name = ? AND name GLOB 'perdure_*'",
        (table,),
    ).fetchall()
    for (name,) in known:
        if name in droppable:
            connection.execute(f'DROP INDEX "{name}"')
    for name, field in wanted.items():
        kind = "UNIQUE INDEX" if field.unique else "INDEX"
        sql = f'CREATE {kind} IF NOT EXISTS "{name}" ON "{table}" ({expression(field)}, key)'
        if field.unique:
            sql = sql.replace(", key)", ")")
        try:
            connection.execute(sql)
        except apsw.ConstraintError:
            raise _shared_value(connection, table, field) from None
    if schema.expires:
        connection.execute(f'CREATE INDEX IF NOT EXISTS "{expiry}" ON "{table}" (updated_at_ms)')


def _shared_value(connection: apsw.Connection, table: str, field: IndexedField) -> UniqueError:
    value = expression(field)
    [(first, second)] = connection.execute(
        f'SELECT min(key), max(key) FROM "{table}" WHERE {value} IS NOT NULL'
        f" GROUP BY {value} HAVING count(*) > 1 LIMIT 1"
    ).fetchall()
    return UniqueError(
        f"{field.name} cannot be unique: the stored {table} {first!r} and {second!r} have the same",
        field.name,
    )
