"""Every store keeps the contract, and does what a dict would do, crashes included."""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from perdure.base.errors import ConflictError
from perdure.store.api import Batch, RequestRecord, Store
from perdure.store.memory import MemoryStore
from perdure.store.sqlite import SqliteStore
from perdure.testing.store_contract import SCHEMAS, TYPES, StoreContract, batch, record, write


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
STATES = st.sampled_from([b"{}", b'{"n":1}', '"ä"'.encode(), b'"' + b"x" * 5000 + b'"'])
Row = tuple[int, bytes]


class StoreMachine(RuleBasedStateMachine):
    """One store beside a dict. A commit with several rows, right or wrong, is all or nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.rows: dict[tuple[str, str], Row] = {}
        self.records: dict[tuple[str, str, str], tuple[int, RequestRecord]] = {}
        self.now_ms = 0
        self.begin()

    def begin(self) -> None:
        raise NotImplementedError

    def reopen(self) -> None:
        raise NotImplementedError

    store: Any

    @rule(
        entries=st.dictionaries(st.tuples(st.sampled_from(TYPES), KEYS), STATES, max_size=6),
        ids=st.sets(st.tuples(KEYS, st.sampled_from("rst")), max_size=2),
        wrong=st.sampled_from([0, 0, 0, 1, -1]),
    )
    def commit(
        self, entries: dict[tuple[str, str], bytes], ids: set[tuple[str, str]], wrong: int
    ) -> None:
        self.now_ms += 1
        writes = [
            write(key, self._version(name, key) + 1, state, name)
            for (name, key), state in entries.items()
        ]
        if wrong and writes:
            last = writes[-1]
            writes[-1] = write(last.key, last.version + wrong, last.state, last.actor_type)
        records = [record(key, request_id) for key, request_id in sorted(ids)]
        taken = any(("cart", r.key, r.request_id) in self.records for r in records)
        refused = (wrong and writes) or taken
        if refused:
            with pytest.raises(ConflictError):
                self._run(self.store.commit(batch(*writes, *records, at_ms=self.now_ms)))
            return
        self._run(self.store.commit(Batch(writes, records, self.now_ms)))
        for one in writes:
            self.rows[one.actor_type, one.key] = (one.version, one.state)
        for kept in records:
            self.records["cart", kept.key, kept.request_id] = (self.now_ms, kept)

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
        self._run(self.store.open(SCHEMAS))

    def reopen(self) -> None:
        self._run(self.store.close())
        self._run(self.store.open(SCHEMAS))


class SqliteMachine(StoreMachine):
    """A restart may also be a crash: the files as they are at that moment, opened elsewhere."""

    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="perdure-machine-"))
        self.place = self.root / "0"
        self.crashes = 0
        self.store = SqliteStore(self.place)
        self._run(self.store.open(SCHEMAS))

    def reopen(self) -> None:
        self._run(self.store.close())
        self.store = SqliteStore(self.place)
        self._run(self.store.open(SCHEMAS))

    @rule()
    def crash(self) -> None:
        self.crashes += 1
        copy = self.root / str(self.crashes)
        shutil.copytree(self.place, copy)
        self._run(self.store.close())
        self.place = copy
        self.store = SqliteStore(copy)
        self._run(self.store.open(SCHEMAS))

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.root)


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestSqliteMachine = SqliteMachine.TestCase
TestSqliteMachine.settings = settings(
    max_examples=25,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
