"""The contract of every store, as tests: subclass `StoreContract` and say how a store is opened.

    class TestMyStore(StoreContract):
        def make_place(self, tmp_path): return tmp_path / "store"
        def make_store(self, place): return MyStore(place)

A *place* is what survives a restart: a directory, a server's address. `make_store` is called again
with the same place to open the store anew. pytest collects the methods that begin with `test_`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from perdure.base.errors import ConflictError
from perdure.store.api import ActorWrite, Batch, RequestRecord, Store, StoredActor

TYPES = ("cart", "order")
STRANGE_KEYS = (
    "a",
    "A",
    "ä",
    "日本語",
    "😀",
    "a/b",
    "a'b\"c",
    "x; DROP TABLE cart",
    "%",
    "_",
    " ",
    "\u200b",
    "\U0010ffff",
    "k" * 512,
)


def write(key: str, version: int, state: bytes = b"{}", actor_type: str = "cart") -> ActorWrite:
    """One actor's new state."""
    return ActorWrite(actor_type, key, state, version)


def record(key: str, request_id: str, reply: bytes = b"1", actor_type: str = "cart") -> Any:
    """One remembered answer."""
    return RequestRecord(actor_type, key, request_id, b"print", reply)


def batch(*items: ActorWrite | RequestRecord, at_ms: int = 1) -> Batch:
    """A batch of writes and records, in any order."""
    writes = [item for item in items if isinstance(item, ActorWrite)]
    return Batch(writes, [item for item in items if isinstance(item, RequestRecord)], at_ms)


Place = Any


class StoreContract:
    """What every `Store` must do."""

    def make_place(self, tmp_path: Path) -> Place:
        """A fresh place for a store."""
        raise NotImplementedError

    def make_store(self, place: Place) -> Store:
        """A store at this place, not yet opened."""
        raise NotImplementedError

    @asynccontextmanager
    async def opened(self, place: Place) -> AsyncIterator[Store]:
        """A store that is open within the block."""
        store = self.make_store(place)
        await store.open(TYPES)
        try:
            yield store
        finally:
            await store.close()

    def run(self, tmp_path: Path, body: Callable[[Store], Coroutine[Any, Any, None]]) -> None:
        """Run `body` on a fresh open store."""

        async def bounded() -> None:
            async with asyncio.timeout(60), self.opened(self.make_place(tmp_path)) as store:
                await body(store)

        asyncio.run(bounded())

    # -- states ----------------------------------------------------------------------------------

    def test_an_actor_that_was_never_written_is_none(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            assert await store.load("cart", "nobody") is None
            assert await store.actor_types() == {}

        self.run(tmp_path, body)

    def test_what_was_committed_is_loaded(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1, b'{"n":1}'), at_ms=5))
            assert await store.load("cart", "a") == StoredActor("a", b'{"n":1}', 1, 5, 5)
            await store.commit(batch(write("a", 2, b'{"n":2}'), at_ms=9))
            assert await store.load("cart", "a") == StoredActor("a", b'{"n":2}', 2, 5, 9)
            assert await store.load("order", "a") is None

        self.run(tmp_path, body)

    def test_an_empty_batch_is_nothing(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch())
            assert await store.actor_types() == {}

        self.run(tmp_path, body)

    def test_keys_are_kept_exactly(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(*[write(key, 1, b'"%d"' % i) for i, key in _numbered()]))
            for i, key in _numbered():
                stored = await store.load("cart", key)
                assert stored is not None, key
                assert (stored.key, stored.state) == (key, b'"%d"' % i)
            assert await store.actor_types() == {"cart": len(STRANGE_KEYS)}

        self.run(tmp_path, body)

    def test_states_are_kept_byte_for_byte(self, tmp_path: Path) -> None:
        states = [b"{}", b'"\\u0000\\u001f"', '"ä日😀\u2028"'.encode(), b'{"b":1,"a":2}', b" 1.0 "]

        async def body(store: Store) -> None:
            await store.commit(batch(*[write(str(i), 1, s) for i, s in enumerate(states)]))
            for i, state in enumerate(states):
                assert (await _load(store, str(i))).state == state

        self.run(tmp_path, body)

    def test_a_state_of_four_megabytes_is_kept(self, tmp_path: Path) -> None:
        state = b'"' + b"x" * (4 << 20) + b'"'

        async def body(store: Store) -> None:
            await store.commit(batch(write("big", 1, state)))
            assert (await _load(store, "big")).state == state

        self.run(tmp_path, body)

    def test_a_batch_of_ten_thousand_rows_is_kept_whole(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            for version in (1, 2):
                state = b'{"n":%d}' % version
                await store.commit(
                    batch(*[write(f"{n:05}", version, state) for n in range(10_000)])
                )
            rows = await store.scan("cart", "", 20_000)
            assert len(rows) == 10_000
            assert {(row.version, row.state) for row in rows} == {(2, b'{"n":2}')}

        self.run(tmp_path, body)

    # -- conflicts -------------------------------------------------------------------------------

    def test_only_the_next_version_is_taken(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1)))
            await store.commit(batch(write("a", 2, b'"good"')))
            for version in (1, 2, 4, 100):
                await _refused(store, batch(write("a", version, b'"bad"')))
            await _refused(store, batch(write("new", 2)))
            assert (await _load(store, "a")).state == b'"good"'
            await store.commit(batch(write("a", 3)))

        self.run(tmp_path, body)

    def test_a_conflict_leaves_nothing_of_the_batch(self, tmp_path: Path) -> None:
        """Of any type, before or after the conflict, records included."""

        async def body(store: Store) -> None:
            await store.commit(batch(write("old", 1), write("o", 1, actor_type="order")))
            bad = batch(
                write("new", 1),
                write("o", 2, b'"changed"', actor_type="order"),
                write("old", 5),
                write("zz", 1),
                record("old", "r1"),
            )
            await _refused(store, bad)
            assert await store.load("cart", "new") is None
            assert await store.load("cart", "zz") is None
            assert await store.find_request("cart", "old", "r1") is None
            assert (await _load(store, "o", "order")).version == 1
            await store.commit(batch(write("new", 1), record("old", "r1")))

        self.run(tmp_path, body)

    def test_one_conflict_among_many_rows_is_found(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(*[write(str(n), 1) for n in range(1_000)]))
            writes = [write(str(n), 2 if n != 777 else 3) for n in range(1_000)]
            await _refused(store, batch(*writes))
            assert {row.version for row in await store.scan("cart", "", 2_000)} == {1}

        self.run(tmp_path, body)

    # -- remembered answers ----------------------------------------------------------------------

    def test_an_answer_is_found_under_exactly_its_id(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1), record("a", "r", b'{"total":1}')))
            assert await store.find_request("cart", "a", "r") == record("a", "r", b'{"total":1}')
            for actor_type, key, request_id in (
                ("order", "a", "r"),
                ("cart", "b", "r"),
                ("cart", "a", "R"),
            ):
                assert await store.find_request(actor_type, key, request_id) is None

        self.run(tmp_path, body)

    def test_a_second_answer_under_one_id_is_refused(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(record("a", "r", b"1")))
            await _refused(store, batch(write("a", 1), record("a", "r", b"2")))
            assert await store.load("cart", "a") is None
            assert await store.find_request("cart", "a", "r") == record("a", "r", b"1")

        self.run(tmp_path, body)

    def test_old_answers_are_forgotten_a_bounded_number_at_a_time(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            for at_ms in range(10):
                await store.commit(batch(record("a", str(at_ms)), at_ms=at_ms))
            assert await store.forget_requests(6, 4) == 4
            assert await store.forget_requests(6, 4) == 2
            assert await store.forget_requests(6, 4) == 0
            left = [n for n in range(10) if await store.find_request("cart", "a", str(n))]
            assert left == [6, 7, 8, 9]

        self.run(tmp_path, body)

    # -- scanning --------------------------------------------------------------------------------

    def test_a_scan_pages_through_all_in_code_point_order(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(*[write(key, 1) for key in STRANGE_KEYS]))
            await store.commit(batch(write("elsewhere", 1, actor_type="order")))
            seen, after = list[str](), ""
            while page := await store.scan("cart", after, 3):
                assert len(page) <= 3
                seen += [row.key for row in page]
                after = page[-1].key
            assert seen == sorted(STRANGE_KEYS)

        self.run(tmp_path, body)

    def test_types_without_rows_are_not_listed(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            assert await store.actor_types() == {}
            await store.commit(batch(write("a", 1), write("b", 1)))
            assert await store.actor_types() == {"cart": 2}

        self.run(tmp_path, body)

    # -- restarts --------------------------------------------------------------------------------

    def test_opening_again_finds_everything(self, tmp_path: Path) -> None:
        async def body() -> None:
            place = self.make_place(tmp_path)
            async with self.opened(place) as store:
                await store.commit(batch(*[write(key, 1) for key in STRANGE_KEYS], at_ms=3))
                await store.commit(batch(write("a", 2, b'"two"'), record("a", "r"), at_ms=4))
            async with self.opened(place) as store:
                assert await store.load("cart", "a") == StoredActor("a", b'"two"', 2, 3, 4)
                assert await store.find_request("cart", "a", "r") == record("a", "r")
                assert len(await store.scan("cart", "", 100)) == len(STRANGE_KEYS)
                await _refused(store, batch(write("a", 2)))
                await store.commit(batch(write("a", 3)))

        asyncio.run(body())

    def test_one_store_object_can_be_opened_again(self, tmp_path: Path) -> None:
        async def body() -> None:
            store = self.make_store(self.make_place(tmp_path))
            for version in (1, 2, 3):
                await store.open(TYPES)
                await store.commit(batch(write("a", version)))
                await store.close()

        asyncio.run(body())

    def test_new_types_can_join_later(self, tmp_path: Path) -> None:
        async def body() -> None:
            place = self.make_place(tmp_path)
            async with self.opened(place) as store:
                await store.commit(batch(write("a", 1)))
            later = self.make_store(place)
            await later.open([*TYPES, "wallet"])
            await later.commit(batch(write("w", 1, actor_type="wallet")))
            assert await later.actor_types() == {"cart": 1, "wallet": 1}
            await later.close()

        asyncio.run(body())


def _numbered() -> list[tuple[int, str]]:
    return list(enumerate(STRANGE_KEYS))


async def _load(store: Store, key: str, actor_type: str = "cart") -> StoredActor:
    stored = await store.load(actor_type, key)
    assert stored is not None
    return stored


async def _refused(store: Store, refused: Batch) -> None:
    try:
        await store.commit(refused)
    except ConflictError:
        return
    raise AssertionError("the store took a batch that it must refuse")
