"""The tables, indexes and views of a PostgreSQL store.

Everything is made at the start, in one transaction under an advisory lock, so that any number of
processes may start at once. What is there already is not touched, for touching takes locks that
running commits would wait for.

    "cart"              one row per actor of the class Cart; people read it, or the view
    perdure_view_cart   a column for each field, with readable times
    perdure_request     answers to idempotency keys
    perdure_message     messages under way, and dead letters
    perdure_timer       timers
    perdure_entry       entries of collections
    perdure_answers     what the calls of gateways were answered
    perdure_schema      the classes as they were when the store was last opened with them
    perdure_fence       who may commit: see `postgres_chain`
    perdure_format      the one number of the format of these tables
"""

from collections.abc import Iterable
from typing import Any

import asyncpg

from perdure.base.codec import encode
from perdure.base.errors import StoreError, StoreFormatError, UniqueError
from perdure.store.api import ActorSchema, IndexedField
from perdure.store.declared import possible
from perdure.store.postgres_names import (
    expiry_name,
    fitted,
    index_name,
    key_name,
    literal,
    quoted,
    view_name,
)
from perdure.store.postgres_terms import terms, unique_parts

FORMAT = 1  # raise it with every change to the tables, and migrate here
LOCK = 0x50455244  # "PERD": the advisory lock of all who change tables
SERVER_MIN = 140_000

FENCE = """
CREATE TABLE IF NOT EXISTS perdure_fence (
    incarnation bigint PRIMARY KEY,
    commit_number bigint NOT NULL,
    message_block bigint NOT NULL DEFAULT 0  -- of the last commit that sent messages
) WITH (fillfactor = 10)
"""

_COMMON = f"""
CREATE TABLE perdure_format (format integer NOT NULL);
INSERT INTO perdure_format VALUES ({FORMAT});
{FENCE};
CREATE SEQUENCE perdure_message_block;
CREATE TABLE perdure_request (
    actor_type text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL, reply bytea NOT NULL, created_at_ms bigint NOT NULL,
    PRIMARY KEY (actor_type, key, request_id)
);
CREATE INDEX perdure_request_age ON perdure_request (created_at_ms);
CREATE TABLE perdure_message (
    id bigint PRIMARY KEY,
    shard smallint NOT NULL,         -- whose owner delivers it
    sender_type text COLLATE "C" NOT NULL, sender_key text COLLATE "C" NOT NULL,
    receiver_type text COLLATE "C" NOT NULL, receiver_key text COLLATE "C" NOT NULL,
    method text NOT NULL, arguments json NOT NULL, uid text NOT NULL, caller json,
    due_at_ms bigint,                -- NULL: a dead letter
    attempts integer NOT NULL, error text NOT NULL, sent_at_ms bigint NOT NULL
);
CREATE INDEX perdure_message_stream ON perdure_message
    (shard, sender_type, sender_key, receiver_type, receiver_key, id) INCLUDE (due_at_ms)
    WHERE due_at_ms IS NOT NULL;
CREATE INDEX perdure_message_dead ON perdure_message (id) WHERE due_at_ms IS NULL;
CREATE TABLE perdure_timer (
    actor_type text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL, shard smallint NOT NULL,
    due_at_ms bigint NOT NULL, method text NOT NULL, arguments json NOT NULL,
    every_ms bigint, attempts integer NOT NULL,
    PRIMARY KEY (actor_type, key, name)
);
CREATE INDEX perdure_timer_due ON perdure_timer (due_at_ms, actor_type, key, name) INCLUDE (shard);
CREATE TABLE perdure_entry (
    actor_type text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL,
    field text COLLATE "C" NOT NULL, entry text COLLATE "C" NOT NULL, value json NOT NULL,
    PRIMARY KEY (actor_type, key, field, entry)
);
CREATE TABLE perdure_answers (
    gateway text COLLATE "C" NOT NULL, first bigint NOT NULL, last bigint NOT NULL,
    body bytea NOT NULL, created_at_ms bigint NOT NULL
);
CREATE INDEX perdure_answers_span ON perdure_answers (gateway, last, first);
CREATE INDEX perdure_answers_age ON perdure_answers (created_at_ms);
CREATE TABLE perdure_schema (
    actor_type text COLLATE "C" PRIMARY KEY, version integer NOT NULL, fields json NOT NULL
);
CREATE FUNCTION perdure_conflict() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'a row is not as the commit expects it' USING ERRCODE = 'PD001'; END $$;
"""


async def create_tables(
    connection: asyncpg.Connection, schemas: Iterable[ActorSchema], label: str
) -> str:
    """Make what is missing, within the caller's transaction; returns the name of the schema.

    `label` names the database in errors. Raises StoreError, StoreFormatError or UniqueError.
    """
    await connection.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
    namespace = await _check_server(connection, label)
    if await connection.fetchval("SELECT to_regclass('perdure_format')") is None:
        await connection.execute(_COMMON)
    stored = await connection.fetchval("SELECT format FROM perdure_format")
    if stored != FORMAT:
        raise StoreFormatError(
            f"{label} has format {stored}, this Perdure reads up to {FORMAT}; upgrade Perdure"
        )
    for schema in schemas:
        await _create_table(connection, schema, namespace)
    return namespace


async def _check_server(connection: asyncpg.Connection, label: str) -> str:
    version, encoding, durable, namespace = await connection.fetchrow(
        "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'),"
        " current_setting('synchronous_commit'), current_schema()"
    )
    if version < SERVER_MIN:
        raise StoreError(f"{label} is PostgreSQL {version // 10_000}; 14 is the oldest that works")
    if encoding != "UTF8":
        raise StoreError(f"{label} is encoded in {encoding}; create it with ENCODING 'UTF8'")
    if durable == "off":
        raise StoreError(f"{label} has synchronous_commit off, and would lose what it confirmed")
    if namespace is None:
        raise StoreError(f"{label}: no schema of the search_path exists")
    return str(namespace)


async def _create_table(
    connection: asyncpg.Connection, schema: ActorSchema, namespace: str
) -> None:
    known = await connection.fetchrow(
        "SELECT version, fields::text FROM perdure_schema WHERE actor_type = $1", schema.name
    )
    fields = encode(schema.fields).decode()
    if known is None:
        await connection.execute(_table_sql(schema.name, namespace))
    if known is None or tuple(known) != (schema.version, fields):
        await connection.execute(
            "INSERT INTO perdure_schema VALUES ($1, $2, $3)"
            " ON CONFLICT (actor_type) DO UPDATE"
            " SET version = excluded.version, fields = excluded.fields",
            schema.name,
            schema.version,
            fields,
        )
        view = f"{quoted(namespace)}.{quoted(view_name(schema.name))}"
        await connection.execute(f"DROP VIEW IF EXISTS {view}")
        await connection.execute(_view_sql(schema, namespace))
    await _create_indexes(connection, schema, namespace)


def table_sql_name(actor_type: str, namespace: str) -> str:
    """With its schema: a class may be called like a table of PostgreSQL's own."""
    return f"{quoted(namespace)}.{quoted(actor_type)}"


def _table_sql(actor_type: str, namespace: str) -> str:
    return f"""CREATE TABLE {table_sql_name(actor_type, namespace)} (
    key text COLLATE "C" NOT NULL CONSTRAINT {quoted(key_name(actor_type))} PRIMARY KEY,
    state json NOT NULL,
    version bigint NOT NULL,         -- how many commits made it
    created_at_ms bigint NOT NULL,
    updated_at_ms bigint NOT NULL,
    schema integer NOT NULL,         -- the version of the class that wrote it
    shard smallint NOT NULL          -- of its key
) WITH (fillfactor = 80)"""


def _view_sql(schema: ActorSchema, namespace: str) -> str:
    columns, taken = ["key"], {"key", "_version", "_created_at", "_updated_at"}
    for field in schema.fields:
        if fitted(field) not in taken:  # a view has each name once
            taken.add(fitted(field))
            columns.append(f"state ->> {literal(field)} AS {quoted(field)}")
    columns.append("version AS _version")
    columns += [
        f"to_timestamp({one}_ms / 1000.0) AS _{one}" for one in ("created_at", "updated_at")
    ]
    return (
        f"CREATE VIEW {quoted(namespace)}.{quoted(view_name(schema.name))} AS"
        f" SELECT {', '.join(columns)} FROM {table_sql_name(schema.name, namespace)}"
    )


# -- indexes -------------------------------------------------------------------------------------


def constraint_fields(schemas: Iterable[ActorSchema]) -> dict[str, str]:
    """The field behind each unique index."""
    return {
        index_name(schema.name, field, part): field.name
        for schema in schemas
        for field in schema.indexes
        if field.unique
        for part, _ in unique_parts(field)
    }


async def _create_indexes(
    connection: asyncpg.Connection, schema: ActorSchema, namespace: str
) -> None:
    wanted: dict[str, tuple[IndexedField | None, str]] = {}
    for field in schema.indexes:
        if field.unique:
            for part, columns in unique_parts(field):
                wanted[index_name(schema.name, field, part)] = (field, columns)
        else:
            columns = ", ".join(f"{term} NULLS FIRST" for term in terms(field))
            wanted[index_name(schema.name, field)] = (field, f"{columns}, key")
    if schema.expires:
        wanted[expiry_name(schema.name)] = (None, "updated_at_ms, shard")
    known = await connection.fetch(
        "SELECT indexname FROM pg_indexes WHERE schemaname = $1 AND tablename = $2"
        " AND (starts_with(indexname, 'perdure_uq') OR starts_with(indexname, 'perdure_ix'))",
        namespace,
        fitted(schema.name),
    )
    there = {row[0] for row in known}
    for name in there & (_possible_names(schema) - wanted.keys()):
        await connection.execute(f"DROP INDEX {quoted(namespace)}.{quoted(name)}")
    table = table_sql_name(schema.name, namespace)
    for name, (indexed, columns) in wanted.items():
        if name not in there:
            await _create_index(connection, table, name, indexed, columns)


def _possible_names(schema: ActorSchema) -> set[str]:
    names = {expiry_name(schema.name)}
    for field in possible(schema):
        parts = [part for part, _ in unique_parts(field)] if field.unique else [""]
        names |= {index_name(schema.name, field, part) for part in parts}
    return names


async def _create_index(
    connection: asyncpg.Connection, table: str, name: str, field: IndexedField | None, columns: str
) -> None:
    is_unique = field is not None and field.unique
    sql = f"CREATE {'UNIQUE ' if is_unique else ''}INDEX {quoted(name)} ON {table} ({columns})"
    try:
        await connection.execute(f"SAVEPOINT one_index; {sql}; RELEASE one_index")
    except asyncpg.UniqueViolationError:
        assert field is not None
        await connection.execute("ROLLBACK TO one_index")  # to find out who shares a value
        raise await _shared_value(connection, table, field) from None


async def _shared_value(
    connection: asyncpg.Connection, table: str, field: IndexedField
) -> UniqueError:
    for value in terms(field):
        rows: list[Any] = await connection.fetch(
            f"SELECT min(key), max(key) FROM {table} WHERE {value} IS NOT NULL"
            f" GROUP BY {value} HAVING count(*) > 1 LIMIT 1"
        )
        for first, second in rows:
            return UniqueError(
                f"{field.name} cannot be unique: the stored {table} {first!r} and {second!r}"
                " have the same",
                field.name,
            )
    return UniqueError(f"{field.name} cannot be unique in {table}", field.name)
