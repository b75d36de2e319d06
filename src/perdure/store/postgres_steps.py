"""A commit in several steps of one transaction: for when a unique field refused the one statement.

The statement that failed cannot say which actors are in the way of which. So the writes are made
anew, in their order, in halves: a half that the database takes is done, one that it refuses is cut
in two again, down to a single group, and that is left out. One refusal among a thousand groups so
costs twenty statements and not a thousand.

Steps also serve a batch that ends an actor and sets something of it, which one statement cannot.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import asyncpg
import msgspec

from perdure.base.errors import ConflictError
from perdure.store.api import ActorWrite, Batch, Refusal, answers_without
from perdure.store.postgres_batch import Statement, Table, message_ids, statement
from perdure.store.postgres_link import Session

ActorName = tuple[str, str]

_NUMBER = Batch([], [], 0)


class Steps:
    """Writes one batch within a transaction that the caller has begun and will end."""

    def __init__(
        self,
        session: Session,
        tables: Mapping[str, Table],
        unique_fields: Mapping[str, str],  # by the name of the index
        place: tuple[int, int],  # incarnation and number
        timeout_s: float,
    ) -> None:
        self.session = session
        self.number = place[1]
        self._tables = tables
        self._unique_fields = unique_fields
        self._place = place
        self._timeout_s = timeout_s
        self.block = 0
        self.refused: list[Refusal] = []

    async def write(self, batch: Batch) -> bool:
        """Write all but what is refused; False when the fence is gone.

        Raises ConflictError or asyncpg.PostgresError; then the transaction must be rolled back.
        """
        head = msgspec.structs.replace(_NUMBER, at_ms=batch.at_ms)
        if not await self._run(statement(head, self._tables)):
            return False
        stays = await self._leave_out_outdated(batch)
        await self._refuse_conflicts(msgspec.structs.replace(batch, writes=stays))
        groups = list(_groups(stays))
        await self._write_groups(groups, batch.at_ms)
        gone = {(one.actor_type, one.key) for one in self.refused}
        rest = without(batch, gone)
        if rest.sent:
            [[self.block]] = await self.session.step(_DRAW, self._place[:1], self._timeout_s)
        await self._run(statement(rest, self._tables, takes_number=False))
        return True

    def ids(self, batch: Batch) -> list[int]:
        """The ids of all that was to be sent; 0 where it was left out."""
        gone = {(one.actor_type, one.key) for one in self.refused}
        stays = [(m.stream.sender_type, m.stream.sender_key) not in gone for m in batch.sent]
        given = iter(message_ids(self.block, sum(stays)))
        return [next(given) if stay else 0 for stay in stays]

    async def _write_groups(self, groups: Sequence[Sequence[ActorWrite]], at_ms: int) -> None:
        if not groups:
            return
        if len(groups) == 1:
            await self._write_group(groups[0], at_ms)
            return
        some = [write for group in groups for write in group]
        if await self._try(some, at_ms) is not None:
            middle = len(groups) // 2
            await self._write_groups(groups[:middle], at_ms)
            await self._write_groups(groups[middle:], at_ms)

    async def _write_group(self, group: Sequence[ActorWrite], at_ms: int) -> None:
        """One by one, to know whose value it is."""
        await self.session.execute("SAVEPOINT one_group", self._timeout_s)
        for culprit in group:
            field = await self._try([culprit], at_ms)
            if field is not None:
                await self.session.execute("ROLLBACK TO one_group", self._timeout_s)
                self.refused += (
                    Refusal(one.actor_type, one.key, field if one is culprit else "")
                    for one in group
                )
                break
        await self.session.execute("RELEASE one_group", self._timeout_s)

    async def _try(self, writes: Sequence[ActorWrite], at_ms: int) -> str | None:
        """Make these writes, or none of them; returns the unique field that is in the way."""
        await self.session.execute("SAVEPOINT try", self._timeout_s)
        try:
            await self._run(statement(Batch(writes, [], at_ms), self._tables, takes_number=False))
        except asyncpg.UniqueViolationError as error:
            field = self._unique_fields.get(error.constraint_name or "")
            if field is None:
                raise
            await self.session.execute("ROLLBACK TO try; RELEASE try", self._timeout_s)
            return field
        await self.session.execute("RELEASE try", self._timeout_s)
        return None

    async def _run(self, made: Statement) -> list[Any]:
        made.values[:2] = self._place
        return await self.session.step(made.sql, made.values, self._timeout_s)

    async def _leave_out_outdated(self, batch: Batch) -> list[ActorWrite]:
        """The writes but for those of groups that belong to others by now."""
        outdated: set[int] = set()
        if batch.standing:
            wanted = [one.incarnation for one in batch.standing]
            rows = await self.session.step(_KEEP_STANDING, (wanted,), self._timeout_s)
            found = {row[0] for row in rows}
            outdated |= {one.group for one in batch.standing if one.incarnation not in found}
        yielding: dict[str, list[ActorWrite]] = {}
        for write in batch.writes:
            if write.yields:
                yielding.setdefault(write.actor_type, []).append(write)
        for name, some in yielding.items():
            others = await self._other_versions(name, some)
            outdated |= {one.group for one in some if one.key in others}
        gone = [one for one in batch.writes if one.group in outdated]
        self.refused += (Refusal(o.actor_type, o.key, "", is_outdated=True) for o in gone)
        return [one for one in batch.writes if one.group not in outdated]

    async def _other_versions(self, name: str, some: Sequence[ActorWrite]) -> set[str]:
        values = ([one.key for one in some], [one.version - 1 for one in some])
        sql = _OTHER_VERSION.format(table=self._tables[name].sql_name)
        return {row[0] for row in await self.session.step(sql, values, self._timeout_s)}

    async def _refuse_conflicts(self, batch: Batch) -> None:
        """A conflict fails the whole batch, also one in what would be left out."""
        by_type: dict[str, list[ActorWrite]] = {}
        for write in batch.writes:
            by_type.setdefault(write.actor_type, []).append(write)
        for name, some in by_type.items():
            if await self._other_versions(name, some):
                raise ConflictError("the store holds another version than the one in memory")
        names = [(one.actor_type, one.key, one.request_id) for one in batch.requests]
        if names and await self.session.step(
            _ANSWERED, list(zip(*names, strict=True)), self._timeout_s
        ):
            raise ConflictError("a request was answered by somebody else")


_DRAW = (
    "UPDATE perdure_fence SET message_block = nextval('perdure_message_block')"
    " WHERE incarnation = $1 RETURNING message_block"
)
_KEEP_STANDING = (  # taking a member out waits until this commit has ended
    "SELECT incarnation FROM perdure_fence WHERE incarnation = ANY($1::bigint[])"
    " ORDER BY incarnation FOR KEY SHARE"
)
_OTHER_VERSION = (
    "SELECT n.key FROM unnest($1::text[], $2::bigint[]) AS n(key, version)"
    " LEFT JOIN {table} AS t ON t.key = n.key WHERE coalesce(t.version, 0) <> n.version"
)
_ANSWERED = (
    "SELECT 1 FROM unnest($1::text[], $2::text[], $3::text[]) AS n(actor_type, key, request_id)"
    " JOIN perdure_request USING (actor_type, key, request_id) LIMIT 1"
)


def _groups(items: Sequence[ActorWrite]) -> Collection[list[ActorWrite]]:
    """The writes in their order, those of one group together where its first one stands."""
    groups: dict[int, list[ActorWrite]] = {}
    for alone, write in enumerate(items, start=1):
        groups.setdefault(write.group or -alone, []).append(write)
    return groups.values()


def without(batch: Batch, actors: Collection[ActorName]) -> Batch:
    """The batch but for its writes, and for all that belongs to these actors."""

    def stays(actor_type: str, key: str) -> bool:
        return (actor_type, key) not in actors

    return msgspec.structs.replace(
        batch,
        writes=[],
        requests=[one for one in batch.requests if stays(one.actor_type, one.key)],
        sent=[one for one in batch.sent if stays(one.stream.sender_type, one.stream.sender_key)],
        taken=[
            one for one in batch.taken if stays(one.stream.receiver_type, one.stream.receiver_key)
        ],
        timers=[one for one in batch.timers if stays(one.actor_type, one.key)],
        cancelled=[one for one in batch.cancelled if stays(one[0], one[1])],
        entries=[one for one in batch.entries if stays(one.actor_type, one.key)],
        answers=answers_without(batch, actors),
        standing=(),  # those of what is left were locked before
    )
