"""A batch as one SQL statement: a fence, then a part for each kind of row, each over arrays.

    WITH fence AS (UPDATE perdure_fence ... RETURNING message_block),
         part_0 AS (INSERT INTO "cart" ... SELECT ... FROM fence, unnest($5, $6, $7) ...),
         part_1 AS (...)
    SELECT CASE WHEN <each part changed as many rows as it must> THEN message_block
                ELSE perdure_conflict() END FROM fence

Every part joins `fence`: without its row none of them does anything, and no row comes back. A part
that changes too few rows raises, and so nothing of the statement stays.

The parts see one snapshot and none sees what another does, so no row may be meant by two of them;
`needs_steps` tells when that cannot be said. They run in the order in which they are counted:
created actors before changed ones, so that a value of a unique field that is taken before it is
given up is found taken.

The text depends only on the *shape*: which parts there are. It is made once for each shape, and the
server keeps the plan.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from perdure.base.shards import shard_of
from perdure.store.api import ActorWrite, Batch, Deferral, EntryWrite, Message, Timer

BLOCK_BITS = 20
MESSAGES_MAX = (1 << BLOCK_BITS) - 1  # in one commit: their ids have one block of the sequence


class Table(NamedTuple):
    """An actor table as commits see it."""

    sql_name: str
    version: int  # of the class


class Statement(NamedTuple):
    """SQL with its values; the first two are the incarnation and the number of the commit."""

    sql: str
    values: list[Any]


class _Part(NamedTuple):
    kind: str
    table: Table | None = None


def statement(batch: Batch, tables: Mapping[str, Table], *, takes_number: bool = True) -> Statement:
    """The whole batch; without `takes_number` as a later step of a commit that has its number.

    Raises KeyError for a class that is not in `tables`.
    """
    shape: list[_Part] = []
    values: list[Any] = [0, 0, batch.at_ms]
    _add_writes(batch.writes, tables, shape, values)
    if batch.requests:
        shape.append(_REQUESTS)
        values += _columns(
            [(r.actor_type, r.key, r.request_id, r.fingerprint, r.reply) for r in batch.requests]
        )
    if batch.sent or batch.taken or batch.deferred:
        _add_messages(batch, shape, values)
    if batch.timers or batch.cancelled:
        _add_timers(batch, shape, values)
    if batch.entries:
        _add_entries(batch.entries, shape, values)
    if batch.standing:
        shape.append(_OTHERS)
        values.append(sorted({one.incarnation for one in batch.standing}))
    if batch.answers:
        shape.append(_ANSWERS)
        values += _columns([(a.gateway, a.first, a.last, a.body) for a in batch.answers])
    return Statement(_sql(tuple(shape), bool(batch.sent), takes_number), values)


def needs_steps(batch: Batch) -> bool:
    """True if a row is meant twice: the actor goes, and something of it is set in one batch."""
    gone = {(one.actor_type, one.key) for one in batch.writes if one.state is None}
    if not gone:
        return False
    set_of = {(one.actor_type, one.key) for one in batch.timers}
    set_of |= {(one.actor_type, one.key) for one in batch.entries}
    return not gone.isdisjoint(set_of)


def may_be_left_out(batch: Batch) -> bool:
    """True if a conflict may be about a part that belongs to others by now, and not about all."""
    return bool(batch.standing) or any(one.yields for one in batch.writes)


def message_ids(block: int, count: int) -> range:
    """The ids of the messages of a commit: rising, and higher than those of any commit that ended
    before this one began."""
    first = (block << BLOCK_BITS) + 1
    return range(first, first + count)


# -- values --------------------------------------------------------------------------------------


def _add_writes(
    writes: Sequence[ActorWrite],
    tables: Mapping[str, Table],
    shape: list[_Part],
    values: list[Any],
) -> None:
    created: dict[str, tuple[list[Any], ...]] = {}
    changed: dict[str, tuple[list[Any], ...]] = {}
    gone: dict[str, list[ActorWrite]] = {}
    for write in writes:
        name, state = write.actor_type, write.state
        if state is None:
            gone.setdefault(name, []).append(write)
        elif write.version == 1:
            if (columns := created.get(name)) is None:
                columns = created[name] = ([], [], [])
            columns[0].append(write.key)
            columns[1].append(state)
            columns[2].append(shard_of(write.key))
        else:
            if (columns := changed.get(name)) is None:
                columns = changed[name] = ([], [], [])
            columns[0].append(write.key)
            columns[1].append(state)
            columns[2].append(write.version)
    for kind, found in (("create", created), ("change", changed)):
        for name in sorted(found):  # one order of locks, and few shapes
            shape.append(_Part(kind, tables[name]))
            values += found[name]
    for name, some in sorted(gone.items()):
        shape.append(_Part("delete", tables[name]))
        values += ([one.key for one in some], [one.version for one in some])
    if gone:
        shape.append(_GONE)
        values += _columns([(one.actor_type, one.key) for some in gone.values() for one in some])


def _add_messages(batch: Batch, shape: list[_Part], values: list[Any]) -> None:
    taken = [one.id for one in batch.taken]
    if taken:
        shape.append(_TAKEN)
        values.append(taken)
    deferred = {one.message_id: one for one in batch.deferred}  # the last one counts
    for message_id in taken:
        deferred.pop(message_id, None)  # what is gone cannot be deferred
    if deferred:
        shape.append(_DEFERRED)
        values += _columns([_deferral_row(one) for one in deferred.values()])
    if batch.sent:
        shape.append(_SENT)
        values += _columns([_message_row(one) for one in batch.sent])


def _deferral_row(one: Deferral) -> tuple[Any, ...]:
    return one.message_id, one.attempts, one.due_at_ms, one.error


def _message_row(one: Message) -> tuple[Any, ...]:
    stream = one.stream
    return (
        stream.shard,
        stream.sender_type,
        stream.sender_key,
        stream.receiver_type,
        stream.receiver_key,
        one.method,
        one.arguments,
        one.uid,
        one.caller,
        one.due_at_ms,
        one.attempts,
        one.error,
    )


def _add_timers(batch: Batch, shape: list[_Part], values: list[Any]) -> None:
    timers = {(one.actor_type, one.key, one.name): one for one in batch.timers}
    if cancelled := [place for place in batch.cancelled if place not in timers]:
        shape.append(_CANCELLED)
        values += _columns(cancelled)
    if timers:
        shape.append(_TIMERS)
        values += _columns([_timer_row(one) for one in timers.values()])


def _timer_row(one: Timer) -> tuple[Any, ...]:
    return (
        one.actor_type,
        one.key,
        one.name,
        shard_of(one.key),
        one.due_at_ms,
        one.method,
        one.arguments,
        one.every_ms,
        one.attempts,
    )


def _add_entries(entries: Sequence[EntryWrite], shape: list[_Part], values: list[Any]) -> None:
    if gone := [(e.actor_type, e.key, e.field, e.entry) for e in entries if e.value is None]:
        shape.append(_ENTRIES_GONE)
        values += _columns(gone)
    if put := [
        (e.actor_type, e.key, e.field, e.entry, e.value) for e in entries if e.value is not None
    ]:
        shape.append(_ENTRIES)
        values += _columns(put)


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[Any]:
    return list(zip(*rows, strict=True))


# -- SQL -----------------------------------------------------------------------------------------

_REQUESTS = _Part("requests")
_TAKEN = _Part("taken")
_DEFERRED = _Part("deferred")
_SENT = _Part("sent")
_CANCELLED = _Part("cancelled")
_TIMERS = _Part("timers")
_ENTRIES_GONE = _Part("entries_gone")
_ENTRIES = _Part("entries")
_ANSWERS = _Part("answers")
_OTHERS = _Part("others")
_GONE = _Part("gone")

# For each kind of part the types of its arrays, its SQL, and whether every row of the first array
# must have changed one. JSON comes as bytes: that is what there is, and the server needs no copy.
_PARTS: dict[str, tuple[str, str, bool]] = {
    "create": (
        "text bytea smallint",
        (
            "INSERT INTO {table} (key, state, version, created_at_ms, updated_at_ms, schema, shard)"
            " SELECT n.a, convert_from(n.b, 'UTF8')::json, 1, $3, $3, {version}, n.c FROM {rows}"
        ),
        True,
    ),
    "change": (
        "text bytea bigint",
        (
            "UPDATE {table} AS t SET state = convert_from(n.b, 'UTF8')::json, version = n.c,"
            " updated_at_ms = $3, schema = {version} FROM {rows}"
            " WHERE t.key = n.a AND t.version = n.c - 1"
        ),
        True,
    ),
    "delete": (
        "text bigint",
        "DELETE FROM {table} AS t USING {rows} WHERE t.key = n.a AND t.version = n.b - 1",
        True,
    ),
    "gone": (
        "text text",
        "DELETE FROM perdure_timer AS t USING {rows} WHERE t.actor_type = n.a AND t.key = n.b",
        False,
    ),
    "others": (  # taking a member out waits until this commit has ended
        "bigint",
        "SELECT 1 FROM perdure_fence AS t, {rows} WHERE t.incarnation = n.a FOR KEY SHARE OF t",
        True,
    ),
    "requests": (
        "text text text bytea bytea",
        "INSERT INTO perdure_request SELECT n.a, n.b, n.c, n.d, n.e, $3 FROM {rows}",
        True,
    ),
    "taken": (
        "bigint",
        "DELETE FROM perdure_message AS t USING {rows} WHERE t.id = n.a",
        True,
    ),
    "deferred": (
        "bigint integer bigint text",
        (
            "UPDATE perdure_message AS t SET attempts = n.b, due_at_ms = n.c, error = n.d"
            " FROM {rows} WHERE t.id = n.a"
        ),
        False,
    ),
    "sent": (
        "smallint text text text text text bytea text bytea bigint integer text",
        (
            "INSERT INTO perdure_message SELECT (message_block << {bits}) + n.place, n.a, n.b, n.c,"
            " n.d, n.e, n.f, convert_from(n.g, 'UTF8')::json, n.h, convert_from(n.i, 'UTF8')::json,"
            " n.j, n.k, n.l, $3 FROM {rows}"
        ),
        True,
    ),
    "cancelled": (
        "text text text",
        (
            "DELETE FROM perdure_timer AS t USING {rows}"
            " WHERE t.actor_type = n.a AND t.key = n.b AND t.name = n.c"
        ),
        False,
    ),
    "timers": (
        "text text text smallint bigint text bytea bigint integer",
        (
            "INSERT INTO perdure_timer SELECT n.a, n.b, n.c, n.d, n.e, n.f,"
            " convert_from(n.g, 'UTF8')::json, n.h, n.i FROM {rows}"
            " ON CONFLICT (actor_type, key, name) DO UPDATE SET due_at_ms = excluded.due_at_ms,"
            " method = excluded.method, arguments = excluded.arguments,"
            " every_ms = excluded.every_ms, attempts = excluded.attempts"
        ),
        False,
    ),
    "entries_gone": (
        "text text text text",
        (
            "DELETE FROM perdure_entry AS t USING {rows}"
            " WHERE t.actor_type = n.a AND t.key = n.b AND t.field = n.c AND t.entry = n.d"
        ),
        False,
    ),
    "entries": (
        "text text text text bytea",
        (
            "INSERT INTO perdure_entry SELECT n.a, n.b, n.c, n.d, convert_from(n.e, 'UTF8')::json"
            " FROM {rows} ON CONFLICT (actor_type, key, field, entry)"
            " DO UPDATE SET value = excluded.value"
        ),
        False,
    ),
    "answers": (
        "text bigint bigint bytea",
        "INSERT INTO perdure_answers SELECT n.a, n.b, n.c, n.d, $3 FROM {rows}",
        False,
    ),
}

_NUMBERED = (
    "UPDATE perdure_fence SET commit_number = $2{block}"
    " WHERE incarnation = $1 AND commit_number = $2 - 1 RETURNING message_block"
)
_STANDING = "SELECT message_block FROM perdure_fence WHERE incarnation = $1 AND commit_number = $2"


@cache
def _sql(shape: tuple[_Part, ...], has_sent: bool, takes_number: bool) -> str:
    block = ", message_block = nextval('perdure_message_block')" if has_sent else ""
    made = [f"fence AS ({_NUMBERED.format(block=block) if takes_number else _STANDING})"]
    checks: list[str] = []
    at = 4
    for part in shape:
        types, sql, is_counted = _PARTS[part.kind]
        count = len(types.split())
        rows = _rows(types.split(), at)
        filled = sql.format(
            table=part.table and part.table.sql_name,
            version=part.table and part.table.version,
            rows=rows,
            bits=BLOCK_BITS,
        )
        name = f"part_{len(made)}"
        made.append(f"{name} AS ({filled}{'' if part is _OTHERS else ' RETURNING 1'})")
        if part.kind == "gone":
            filled = filled.replace("perdure_timer", "perdure_entry")
            made.append(f"{name}_entries AS ({filled} RETURNING 1)")
        if is_counted:
            checks.append(f"(SELECT count(*) FROM {name}) = cardinality(${at})")
        at += count
    outcome = "message_block"
    if checks:
        outcome = f"CASE WHEN {' AND '.join(checks)} THEN {outcome} ELSE perdure_conflict() END"
    # $3 must have a type even where no part uses it
    return f"WITH {', '.join(made)} SELECT {outcome} FROM fence WHERE $3::bigint IS NOT NULL"


def _rows(types: Sequence[str], at: int) -> str:
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(types, at))
    names = ", ".join("abcdefghijkl"[: len(types)])
    return f"fence, unnest({arrays}) WITH ORDINALITY AS n({names}, place)"
