"""A batch as SQL: a few many-row statements, each with the number of rows it must change."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from perdure.store.api import (
    ActorWrite,
    Answers,
    Batch,
    Deferral,
    EntryWrite,
    Message,
    RequestRecord,
    Timer,
    answers_without,
)
from perdure.store.sqlite_reader import ROW, entry_checksum, record_checksum, row_checksum

Statement = tuple[str, list[Any], int | None]
"""SQL, bound values, and how many rows must change; None: any number."""

ActorName = tuple[str, str]

_CHUNKS = (256, 128, 64, 32, 16, 8, 4, 2, 1)  # rows per statement; SQLite keeps each prepared

_Item = TypeVar("_Item")


def statements(batch: Batch, versions: Mapping[str, int], first_message_id: int) -> list[Statement]:
    """All of the batch; `versions` are those of the classes."""
    made = list(writes(batch.writes, versions, batch.at_ms))
    made += requests(batch.requests, batch.at_ms)
    if batch.sent or batch.taken or batch.deferred or batch.timers or batch.cancelled:
        made += _messages(batch, first_message_id)
        made += _timers(batch)
    if batch.entries:
        made += _entries(batch.entries)
    if batch.answers:
        made += _answers(batch.answers, batch.at_ms)
    return made


def without(batch: Batch, actors: Collection[ActorName]) -> Batch:
    """The batch but for its writes, and for all that belongs to these actors."""

    def stays(actor_type: str, key: str) -> bool:
        return (actor_type, key) not in actors

    return Batch(
        [],
        [one for one in batch.requests if stays(one.actor_type, one.key)],
        batch.at_ms,
        sent=[one for one in batch.sent if stays(one.stream.sender_type, one.stream.sender_key)],
        taken=[
            one for one in batch.taken if stays(one.stream.receiver_type, one.stream.receiver_key)
        ],
        deferred=batch.deferred,
        timers=[one for one in batch.timers if stays(one.actor_type, one.key)],
        cancelled=[one for one in batch.cancelled if stays(one[0], one[1])],
        entries=[one for one in batch.entries if stays(one.actor_type, one.key)],
        answers=answers_without(batch, actors),
    )


# -- actors --------------------------------------------------------------------------------------


def writes(
    items: Iterable[ActorWrite], versions: Mapping[str, int], at_ms: int
) -> Iterator[Statement]:
    """States: created, changed or taken away, each only on top of the version before."""
    created: dict[str, list[ActorWrite]] = {}
    updated: dict[str, list[ActorWrite]] = {}
    deleted: list[ActorWrite] = []
    for write in items:
        if write.state is None:
            deleted.append(write)
        else:
            kind = created if write.version == 1 else updated
            kind.setdefault(write.actor_type, []).append(write)
    for write in deleted:
        yield from _deletion(write)
    for name, some in created.items():
        for chunk in _chunks(some):
            sql = _insert_sql(name, versions[name], len(chunk))
            yield sql, _write_values(chunk, at_ms, 2), len(chunk)
    for name, some in updated.items():
        for chunk in _chunks(some):
            sql = _update_sql(name, versions[name], len(chunk))
            yield sql, _write_values(chunk, at_ms, 1), len(chunk)


def _deletion(write: ActorWrite) -> Iterator[Statement]:
    name, key = write.actor_type, write.key
    sql = f'DELETE FROM "{name}" WHERE key = ? AND version = ?'
    yield sql, [key, write.version - 1], 1
    for table in ("perdure_timer", "perdure_entry"):
        yield f"DELETE FROM {table} WHERE actor_type = ? AND key = ?", [name, key], None


@cache
def _insert_sql(name: str, version: int, rows: int) -> str:
    return f'INSERT INTO "{name}" ({ROW}) VALUES {",".join([f"(?,?,?,?,?,?,{version})"] * rows)}'


@cache
def _update_sql(name: str, version: int, rows: int) -> str:
    # UPDATE rather than an upsert: a row that is gone, or has moved on, must not be written over
    return (
        f'UPDATE "{name}" SET state = new.column2, version = new.column3, checksum = new.column4,'
        f" updated_at_ms = new.column5, schema = {version}"
        f" FROM (VALUES {','.join(['(?,?,?,?,?)'] * rows)}) AS new"
        f' WHERE "{name}".key = new.column1 AND "{name}".version = new.column3 - 1'
    )


def _write_values(items: Sequence[ActorWrite], at_ms: int, times: int) -> list[Any]:
    values: list[Any] = []
    for write in items:
        assert write.state is not None
        values += (write.key, write.state.decode(), write.version)
        values.append(row_checksum(write.key, write.version, write.state))
        values += (at_ms,) * times
    return values


def requests(items: Sequence[RequestRecord], at_ms: int) -> Iterator[Statement]:
    """Answers to idempotency keys."""
    for chunk in _chunks(items):
        values: list[Any] = []
        for record in chunk:
            values += (record.actor_type, record.key, record.request_id)
            values += (record.fingerprint, record.reply, record_checksum(record), at_ms)
        yield _insert("perdure_request", 7, len(chunk)), values, len(chunk)


def _forget(table: str, made_at: str) -> str:
    """Drop up to so many rows made before that time; rows lie in the order of their age."""
    return (
        f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM"
        f" (SELECT rowid, {made_at} FROM {table} ORDER BY rowid LIMIT ?) WHERE {made_at} < ?)"
    )


FORGET_REQUESTS = _forget("perdure_request", "created_at_ms")
FORGET_ANSWERS = _forget("perdure_answers", "made_at_ms")


def _answers(items: Sequence[Answers], at_ms: int) -> Iterator[Statement]:
    for chunk in _chunks(items):
        values: list[Any] = []
        for one in chunk:
            values += (one.gateway, one.first, one.last, at_ms, one.body)
        yield _insert("perdure_answers", 5, len(chunk)), values, None


# -- messages, timers, entries -------------------------------------------------------------------


def _messages(batch: Batch, first_id: int) -> Iterator[Statement]:
    for ids in _chunks([message.id for message in batch.taken]):
        sql = f"DELETE FROM perdure_message WHERE id IN ({_marks(len(ids))})"
        yield sql, list(ids), len(ids)
    for deferral in batch.deferred:
        yield _DEFER, _deferral_values(deferral), None
    for chunk in _chunks(list(enumerate(batch.sent, first_id))):
        values: list[Any] = []
        for number, message in chunk:
            values += _message_values(number, message, batch.at_ms)
        yield _insert("perdure_message", 13, len(chunk)), values, len(chunk)


_DEFER = "UPDATE perdure_message SET attempts = ?, due_at_ms = ?, error = ? WHERE id = ?"


def _deferral_values(deferral: Deferral) -> list[Any]:
    return [deferral.attempts, deferral.due_at_ms, deferral.error, deferral.message_id]


def _message_values(number: int, message: Message, at_ms: int) -> tuple[Any, ...]:
    stream = message.stream
    return (
        number,
        stream.sender_type,
        stream.sender_key,
        stream.receiver_type,
        stream.receiver_key,
        message.method,
        message.arguments.decode(),
        message.uid,
        None if message.caller is None else message.caller.decode(),
        message.due_at_ms,
        message.attempts,
        message.error,
        at_ms,
    )


def _timers(batch: Batch) -> Iterator[Statement]:
    for chunk in _chunks(batch.cancelled):
        places = ",".join(["(?,?,?)"] * len(chunk))
        sql = f"DELETE FROM perdure_timer WHERE (actor_type, key, name) IN (VALUES {places})"
        yield sql, [part for name in chunk for part in name], None
    for timers in _chunks(batch.timers):
        values = [part for timer in timers for part in _timer_values(timer)]
        yield _insert("perdure_timer", 8, len(timers), "INSERT OR REPLACE"), values, None


def _timer_values(timer: Timer) -> tuple[Any, ...]:
    arguments = timer.arguments.decode()
    return (
        timer.actor_type,
        timer.key,
        timer.name,
        timer.due_at_ms,
        timer.method,
        arguments,
        timer.every_ms,
        timer.attempts,
    )


def _entries(items: Sequence[EntryWrite]) -> Iterator[Statement]:
    gone = [entry for entry in items if entry.value is None]
    for chunk in _chunks(gone):
        places = ",".join(["(?,?,?,?)"] * len(chunk))
        yield (
            f"DELETE FROM perdure_entry WHERE (actor_type, key, field, entry) IN (VALUES {places})",
            [part for one in chunk for part in (one.actor_type, one.key, one.field, one.entry)],
            None,
        )
    for chunk in _chunks([entry for entry in items if entry.value is not None]):
        values: list[Any] = []
        for one in chunk:
            assert one.value is not None
            values += (one.actor_type, one.key, one.field, one.entry, one.value.decode())
            values.append(entry_checksum(one.actor_type, one.key, one.field, one.entry, one.value))
        yield _insert("perdure_entry", 6, len(chunk), "INSERT OR REPLACE"), values, None


# -- forms ---------------------------------------------------------------------------------------


def _chunks(items: Sequence[_Item]) -> Iterable[Sequence[_Item]]:
    start = 0
    for size in _CHUNKS:
        while len(items) - start >= size:
            yield items[start : start + size]
            start += size


@cache
def _insert(table: str, columns: int, rows: int, verb: str = "INSERT") -> str:
    return f"{verb} INTO {table} VALUES " + ",".join([f"({_marks(columns)})"] * rows)


@cache
def _marks(count: int) -> str:
    return ",".join("?" * count)
