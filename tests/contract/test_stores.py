"""Every store keeps the contract, and does what a dict would do, crashes included."""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from perdure.base.errors import ConflictError, FencedError
from perdure.base.shards import shard_of
from perdure.store.api import (
    ActorSchema,
    ActorWrite,
    Answers,
    Batch,
    Committed,
    Condition,
    Deferral,
    Message,
    Query,
    RequestRecord,
    Store,
    Stream,
    Timer,
    TimerPlace,
)
from perdure.store.memory import MemoryStore
from perdure.store.postgres import PostgresStore
from perdure.store.sqlite import SqliteStore
from perdure.testing.postgres import fresh_database
from perdure.testing.store_contract import StoreContract
from perdure.testing.store_contract_base import (
    EMAIL,
    TYPES,
    batch,
    entry,
    message,
    record,
    timer,
    write,
)


class TestMemoryStore(StoreContract):
    def make_place(self, tmp_path: Path) -> MemoryStore:
        return MemoryStore()  # the object is the place: it keeps everything when closed

    def make_store(self, place: MemoryStore) -> Store:
        return place


class TestSqliteStore(StoreContract):
    def make_place(self, tmp_path: Path) -> Path:
        return tmp_path / "deep" / "data"

    def make_store(self, place: Path) -> Store:
        return SqliteStore(place)


KEYS = st.sampled_from(["a", "b", "ä", "😀", "a/b"])
STATES = st.sampled_from(
    [
        None,  # the actor goes
        b"{}",
        b'{"n":1}',
        '"ä"'.encode(),
        b'"' + b"x" * 5000 + b'"',
        b'{"email":"x"}',
        b'{"email":"y"}',
        b'{"email":"z"}',
    ]
)
NAMES = st.sampled_from(["m", "n", "😀"])
DUE = st.none() | st.integers(0, 20)
SEARCHED = [ActorSchema("cart", fields=["email"], indexes=[EMAIL]), ActorSchema("order")]
EVER: TimerPlace = (-1, "", "", "")
SOME = frozenset({shard_of("a"), shard_of("😀")})


class Effects(NamedTuple):
    """What a batch holds beside writes and records; numbers choose among the messages there are."""

    sent: list[tuple[str, str, int | None]]
    taken: set[int]
    deferred: dict[int, int | None]
    timers: dict[tuple[str, str], int | None]  # None: cancelled
    entries: dict[tuple[str, str], bytes | None]
    answers: list[tuple[str, int, int]]  # gateway, first, how many more


EFFECTS = st.builds(
    Effects,
    st.lists(st.tuples(KEYS, KEYS, DUE), max_size=3),
    st.sets(st.integers(0, 5), max_size=2),
    st.dictionaries(st.integers(0, 5), DUE, max_size=2),
    st.dictionaries(st.tuples(KEYS, NAMES), DUE, max_size=3),
    st.dictionaries(st.tuples(KEYS, NAMES), st.none() | st.just(b"1") | st.just(b"2"), max_size=3),
    st.lists(st.tuples(st.sampled_from("vw"), st.integers(0, 5), st.integers(0, 3)), max_size=2),
)


class StoreMachine(RuleBasedStateMachine):
    """One store beside dicts. A commit of many things, right or wrong, is all or nothing.

    What it refuses for a unique field is only checked to be possible; the contract has the rule.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.rows: dict[tuple[str, str], tuple[int, bytes]] = {}
        self.records: dict[tuple[str, str, str], tuple[int, RequestRecord]] = {}
        self.messages: dict[int, Message] = {}
        self.timers: dict[tuple[str, str], Timer] = {}
        self.entries: dict[tuple[str, str], bytes] = {}
        self.answers: list[tuple[int, Answers]] = []
        self.now_ms = 0
        self.last_id = 0
        self.begin()

    def begin(self) -> None:
        raise NotImplementedError

    def reopen(self) -> None:
        raise NotImplementedError

    store: Any

    @rule(
        states=st.dictionaries(st.tuples(st.sampled_from(TYPES), KEYS), STATES, max_size=6),
        ids=st.sets(st.tuples(KEYS, st.sampled_from("rst")), max_size=2),
        effects=EFFECTS,
        group=st.sampled_from([0, 0, 1]),
        wrong=st.sampled_from([0, 0, 0, 1, -1]),
    )
    def commit(
        self,
        states: dict[tuple[str, str], bytes | None],
        ids: set[tuple[str, str]],
        effects: Effects,
        group: int,
        wrong: int,
    ) -> None:
        self.now_ms += 1
        writes = [
            write(key, self._version(name, key) + 1, state, name, group=group)
            for (name, key), state in states.items()
            if state is not None or (name, key) in self.rows
        ]
        if wrong and writes:
            last = writes[-1]
            writes[-1] = msgspec.structs.replace(last, version=last.version + wrong)
        records = [record(key, request_id) for key, request_id in sorted(ids)]
        going = {one.key for one in writes if one.state is None and one.actor_type == "cart"}
        wanted = self._batch(writes, records, effects, going)
        answered = any(("cart", r.key, r.request_id) in self.records for r in records)
        if (wrong and writes) or answered:
            with pytest.raises(ConflictError):
                self._run(self.store.commit(wanted))
            return
        committed = self._run(self.store.commit(wanted))
        refused = {(one.actor_type, one.key) for one in committed.refused}
        self._check_refusals(wanted, committed)
        self._apply(wanted, committed, refused)

    def _batch(
        self,
        writes: list[ActorWrite],
        records: list[RequestRecord],
        effects: Effects,
        going: set[str],
    ) -> Batch:
        there = list(self.messages.values())
        chosen = {n: there[n] for n in range(len(there)) if n < 6}
        timers = {at: due for at, due in effects.timers.items() if at[0] not in going}
        return batch(
            *writes,
            *records,
            *[message(x, y, f"{self.now_ms}", due) for x, y, due in effects.sent],
            *[
                Deferral(chosen[n].id, n, due, f"{n}")
                for n, due in effects.deferred.items()
                if n in chosen and n not in effects.taken
            ],
            *[timer(key, name, due) for (key, name), due in timers.items() if due is not None],
            *[entry(*at, one) for at, one in effects.entries.items() if at[0] not in going],
            *[Answers(name, n, n + more, b"%d" % self.now_ms) for name, n, more in effects.answers],
            at_ms=self.now_ms,
            taken=[chosen[n] for n in sorted(effects.taken) if n in chosen],
            cancelled=[("cart", *at) for at, due in timers.items() if due is None],
        )

    def _check_refusals(self, wanted: Batch, committed: Committed) -> None:
        owners = {row[1]: key for (name, key), row in self.rows.items() if name == "cart"}
        writes = {(one.actor_type, one.key): one for one in wanted.writes}
        claimed = [one.state for one in wanted.writes if one.actor_type == "cart"]
        for one in committed.refused:
            refused = writes[one.actor_type, one.key]
            if one.field:
                assert (one.actor_type, one.field) == ("cart", "email")
                assert b"email" in (refused.state or b"")
                is_taken = owners.get(refused.state or b"", one.key) != one.key
                assert is_taken or claimed.count(refused.state) > 1
            else:
                assert refused.group
        if committed.refused and wanted.writes[0].group:
            assert len(committed.refused) == len(wanted.writes)

    def _apply(self, wanted: Batch, committed: Committed, refused: set[tuple[str, str]]) -> None:
        self._apply_writes(wanted, refused)
        self._apply_messages(wanted, committed, refused)
        for set_one in wanted.timers:
            if ("cart", set_one.key) not in refused:
                self.timers[set_one.key, set_one.name] = set_one
        for name, key, timer_name in wanted.cancelled:
            if (name, key) not in refused:
                self.timers.pop((key, timer_name), None)
        for put in wanted.entries:
            if ("cart", put.key) in refused:
                continue
            self.entries.pop((put.key, put.entry), None)
            if put.value is not None:
                self.entries[put.key, put.entry] = put.value
        self.answers += ((self.now_ms, one) for one in wanted.answers)

    def _apply_writes(self, wanted: Batch, refused: set[tuple[str, str]]) -> None:
        for one in wanted.writes:
            at = (one.actor_type, one.key)
            if at in refused:
                continue
            if one.state is not None:
                self.rows[at] = (one.version, one.state)
                continue
            del self.rows[at]
            if one.actor_type == "cart":
                self.timers = {at: x for at, x in self.timers.items() if at[0] != one.key}
                self.entries = {at: x for at, x in self.entries.items() if at[0] != one.key}
        for kept in wanted.requests:
            if ("cart", kept.key) not in refused:
                self.records["cart", kept.key, kept.request_id] = (self.now_ms, kept)

    def _apply_messages(
        self, wanted: Batch, committed: Committed, refused: set[tuple[str, str]]
    ) -> None:
        for taken in wanted.taken:
            if ("cart", taken.stream.receiver_key) not in refused:
                del self.messages[taken.id]
        for deferral in wanted.deferred:
            self.messages[deferral.message_id] = msgspec.structs.replace(
                self.messages[deferral.message_id],
                attempts=deferral.attempts,
                due_at_ms=deferral.due_at_ms,
                error=deferral.error,
            )
        for sent, given in zip(wanted.sent, committed.message_ids, strict=True):
            assert (given == 0) == (("cart", sent.stream.sender_key) in refused)
            if given:
                assert given > self.last_id
                self.last_id = given
                self.messages[given] = msgspec.structs.replace(
                    sent, id=given, sent_at_ms=self.now_ms
                )

    @precondition(lambda self: self.records)
    @rule(age=st.integers(0, 5), limit=st.integers(1, 3))
    def forget(self, age: int, limit: int) -> None:
        before_ms = self.now_ms - age
        old = [key for key, (at_ms, _) in self.records.items() if at_ms < before_ms]
        dropped = self._run(self.store.forget_requests(before_ms, limit))
        assert dropped == min(limit, len(old))
        gone = [k for k in old if self._run(self.store.find_request(*k)) is None]
        assert len(gone) == dropped
        for key in gone:
            del self.records[key]

    @precondition(lambda self: self.answers)
    @rule(age=st.integers(0, 5))
    def forget_answers(self, age: int) -> None:
        before_ms = self.now_ms - age
        kept = [one for one in self.answers if one[0] >= before_ms]
        dropped = self._run(self.store.forget_answers(before_ms, 100))
        assert dropped == len(self.answers) - len(kept)
        self.answers = kept

    @rule()
    def restart(self) -> None:
        self.reopen()

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        for name in TYPES:
            found = {row.key: (row.version, row.state) for row in self._scan(name)}
            assert found == {key: row for (kind, key), row in self.rows.items() if kind == name}
            assert [row.key for row in self._scan(name)] == sorted(found)
        for key, (_, kept) in self.records.items():
            assert self._run(self.store.find_request(*key)) == kept

    @invariant()
    def has_the_messages_of_the_model(self) -> None:
        streams: dict[Stream, list[Message]] = {}
        for one in self.messages.values():
            if one.due_at_ms is not None:
                streams.setdefault(one.stream, []).append(one)
        found = self._run(self.store.streams(100))
        assert dict(found) == {stream: inside[0].due_at_ms for stream, inside in streams.items()}
        assert [due for _, due in found] == sorted(due for _, due in found)
        of_some = [(stream, due) for stream, due in found if stream.shard in SOME]
        assert dict(self._run(self.store.streams(100, SOME))) == dict(of_some)
        for stream, inside in streams.items():
            assert self._run(self.store.messages(stream, 0, 100)) == inside
        dead = [one for one in self.messages.values() if one.due_at_ms is None]
        assert self._run(self.store.dead_letters(0, 100)) == dead

    @invariant()
    def has_the_timers_and_entries_of_the_model(self) -> None:
        timers = sorted(self.timers.values(), key=lambda one: (one.due_at_ms, one.key, one.name))
        assert self._run(self.store.timers(EVER, 100)) == timers
        assert self._run(self.store.timers(EVER, 100, SOME)) == [
            one for one in timers if shard_of(one.key) in SOME
        ]
        for key in {key for kind, key in self.rows if kind == "cart"}:
            of_actor = {one.name: one for one in timers if one.key == key}
            loaded = self._run(self.store.load("cart", key)).timers
            assert {one.name: one for one in loaded} == of_actor
        for key in ("a", "b", "ä", "😀", "a/b"):
            expected = sorted((name, x) for (at, name), x in self.entries.items() if at == key)
            assert self._run(self.store.entries("cart", key, "lines")) == expected
            assert self._run(self.store.count_entries("cart", key, "lines")) == len(expected)

    @invariant()
    def finds_the_answers_of_the_model(self) -> None:
        for gateway in "vw":
            for number in range(9):
                found = self._run(self.store.find_answers(gateway, number))
                assert sorted(found) == sorted(
                    one.body
                    for _, one in self.answers
                    if one.gateway == gateway and one.first <= number <= one.last
                )

    @invariant()
    def shares_no_unique_value(self) -> None:
        has_one = Query("cart", [Condition(EMAIL, "ne", None)])
        found = [row.state for row in self._run(self.store.query(has_one))]
        assert len(set(found)) == len(found)
        emails = [row for (kind, _), (_, row) in self.rows.items() if kind == "cart"]
        assert sorted(found) == sorted(one for one in emails if b"email" in one)

    def _version(self, name: str, key: str) -> int:
        return self.rows.get((name, key), (0, b""))[0]

    def _scan(self, name: str) -> Any:
        return self._run(self.store.scan(name, "", 100))

    def _run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self._run(self.store.close())
        self.loop.close()


class MemoryMachine(StoreMachine):
    def begin(self) -> None:
        self.store = MemoryStore()
        self._run(self.store.open(SEARCHED))

    def reopen(self) -> None:
        self._run(self.store.close())
        self._run(self.store.open(SEARCHED))


class SqliteMachine(StoreMachine):
    """A restart may also be a crash: the files as they are at that moment, opened elsewhere."""

    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="perdure-machine-"))
        self.place = self.root / "0"
        self.crashes = 0
        self.store = SqliteStore(self.place)
        self._run(self.store.open(SEARCHED))

    def reopen(self) -> None:
        self._run(self.store.close())
        self.store = SqliteStore(self.place)
        self._run(self.store.open(SEARCHED))

    @rule()
    def crash(self) -> None:
        self.crashes += 1
        copy = self.root / str(self.crashes)
        shutil.copytree(self.place, copy)
        self._run(self.store.close())
        self.place = copy
        self.store = SqliteStore(copy)
        self._run(self.store.open(SEARCHED))

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.root)


class PostgresMachine(StoreMachine):
    """A restart may also be a crash: another store takes over from one that was not closed."""

    def begin(self) -> None:
        self.url = fresh_database()
        self.store = PostgresStore(self.url)
        self._run(self.store.open(SEARCHED))

    def reopen(self) -> None:
        self._run(self.store.close())
        self.store = PostgresStore(self.url)
        self._run(self.store.open(SEARCHED))

    @rule()
    def crash(self) -> None:
        before, self.store = self.store, PostgresStore(self.url)
        self._run(self.store.open(SEARCHED))
        with pytest.raises(FencedError):
            self._run(before.commit(batch(write("late", 1))))
        self._run(before.close())


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestSqliteMachine = SqliteMachine.TestCase
TestSqliteMachine.settings = settings(
    max_examples=25,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestPostgresMachine = PostgresMachine.TestCase
TestPostgresMachine.settings = settings(
    max_examples=8,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
