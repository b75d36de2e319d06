"""The contract of every store, as tests: subclass `StoreContract` and say how a store is opened.

    class TestMyStore(StoreContract):
        def make_place(self, tmp_path): return tmp_path / "store"
        def make_store(self, place): return MyStore(place)

A *place* is what survives a restart: a directory, a server's address. `make_store` is called again
with the same place to open the store anew. pytest collects the methods that begin with `test_`.
The contract of queries needs hypothesis.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from perdure.base.shards import shard_of
from perdure.store.api import ActorSchema, Answers, Deferral, Store, StoredActor
from perdure.testing.store_contract_answers import AnswersContract
from perdure.testing.store_contract_base import (
    SCHEMAS,
    STRANGE_KEYS,
    TYPES,
    Item,
    batch,
    entry,
    load,
    message,
    record,
    refuses,
    timer,
    write,
)
from perdure.testing.store_contract_entries import EntryContract
from perdure.testing.store_contract_messages import MessageContract
from perdure.testing.store_contract_query import QueryContract
from perdure.testing.store_contract_timers import TimerContract
from perdure.testing.store_contract_unique import UniqueContract

__all__ = ["SCHEMAS", "TYPES", "StoreContract", "batch", "record", "write"]


class StoreContract(
    MessageContract,
    TimerContract,
    EntryContract,
    AnswersContract,
    UniqueContract,
    QueryContract,
):
    """What every `Store` must do."""

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
                assert (await load(store, str(i))).state == state

        self.run(tmp_path, body)

    def test_a_state_of_four_megabytes_is_kept(self, tmp_path: Path) -> None:
        state = b'"' + b"x" * (4 << 20) + b'"'

        async def body(store: Store) -> None:
            await store.commit(batch(write("big", 1, state)))
            assert (await load(store, "big")).state == state

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

    def test_a_row_holds_the_version_of_the_class_that_wrote_it(self, tmp_path: Path) -> None:
        async def body() -> None:
            place = self.make_place(tmp_path)
            async with self.opened(place, ActorSchema("cart", 2)) as store:
                await store.commit(batch(write("a", 1), write("b", 1)))
            async with self.opened(place, ActorSchema("cart", 3)) as store:
                await store.commit(batch(write("b", 2)))
                assert [row.schema for row in await store.scan("cart", "", 9)] == [2, 3]
                assert ((await load(store, "a")).schema, (await load(store, "b")).schema) == (2, 3)

        asyncio.run(body())

    def test_a_deleted_actor_is_gone_and_can_come_back(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1), record("a", "r"), at_ms=1))
            await refuses(store, batch(write("a", 3, None)))
            assert (await load(store, "a")).version == 1
            await store.commit(batch(write("a", 2, None), at_ms=2))
            assert await store.load("cart", "a") is None
            assert await store.scan("cart", "", 9) == []
            assert await store.actor_types() == {}
            # a repeat of what was done before the end is still answered
            assert await store.find_request("cart", "a", "r") == record("a", "r")
            await refuses(store, batch(write("a", 3)))
            await store.commit(batch(write("a", 1, b'"anew"'), at_ms=7))
            assert await store.load("cart", "a") == StoredActor("a", b'"anew"', 1, 7, 7)

        self.run(tmp_path, body)

    # -- conflicts -------------------------------------------------------------------------------

    def test_only_the_next_version_is_taken(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1)))
            await store.commit(batch(write("a", 2, b'"good"')))
            for version in (1, 2, 4, 100):
                await refuses(store, batch(write("a", version, b'"bad"')))
            await refuses(store, batch(write("new", 2)))
            assert (await load(store, "a")).state == b'"good"'
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
            await refuses(store, bad)
            assert await store.load("cart", "new") is None
            assert await store.load("cart", "zz") is None
            assert await store.find_request("cart", "old", "r1") is None
            assert (await load(store, "o", "order")).version == 1
            await store.commit(batch(write("new", 1), record("old", "r1")))

        self.run(tmp_path, body)

    def test_one_conflict_among_many_rows_is_found(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(*[write(str(n), 1) for n in range(1_000)]))
            writes = [write(str(n), 2 if n != 777 else 3) for n in range(1_000)]
            await refuses(store, batch(*writes))
            assert {row.version for row in await store.scan("cart", "", 2_000)} == {1}

        self.run(tmp_path, body)

    def test_a_batch_with_one_fault_leaves_nothing_of_any_kind(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            ids = await _fill(store)
            before = await _everything(store)
            taken = await store.messages(message("a", "b").stream, 0, 1)
            good = _one_of_each(ids[1])
            for fault in (write("b", 9), write("nobody", 2, None), record("a", "r")):
                await refuses(
                    store, batch(*good, fault, at_ms=9, taken=taken, cancelled=[_OLD_TIMER])
                )
                assert await _everything(store) == before
            gone = msgspec.structs.replace(taken[0], id=ids[-1] + 1_000)
            await refuses(store, batch(*good, at_ms=9, taken=[gone], cancelled=[_OLD_TIMER]))
            assert await _everything(store) == before
            # and without a fault all of it is taken
            await store.commit(batch(*good, at_ms=9, taken=taken, cancelled=[_OLD_TIMER]))
            assert all(x != y for x, y in zip(await _everything(store), before, strict=True))

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

    def test_a_second_answer_under_one_id_isrefuses(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(record("a", "r", b"1")))
            await refuses(store, batch(write("a", 1), record("a", "r", b"2")))
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

    # -- expiry ---------------------------------------------------------------------------------

    def test_actors_expire_oldest_first(self, tmp_path: Path) -> None:
        schema = ActorSchema("cart", expires=True)

        async def body(store: Store) -> None:
            for at_ms, key in ((30, "c"), (10, "z"), (20, "b"), (40, "d")):
                await store.commit(batch(write(key, 1), at_ms=at_ms))
            assert await store.expired("cart", 40, 10) == ["z", "b", "c"]
            assert await store.expired("cart", 40, 2) == ["z", "b"]
            assert await store.expired("cart", 10, 10) == []
            await store.commit(batch(write("z", 2), write("b", 2, None), at_ms=50))
            assert await store.expired("cart", 50, 10) == ["c", "d"]  # a write keeps one alive

        self.run(tmp_path, body, schema)

    def test_actors_of_some_shards_expire_alone(self, tmp_path: Path) -> None:
        keys = [f"k{n}" for n in range(40)]
        mine = {shard_of(key) for key in keys[1::2]}
        expected = [key for key in keys if shard_of(key) in mine]

        async def body(store: Store) -> None:
            for at_ms, key in enumerate(keys):
                await store.commit(batch(write(key, 1), at_ms=at_ms))
            assert await store.expired("cart", 100, 100, mine) == expected
            assert await store.expired("cart", 100, 3, mine) == expected[:3]
            assert await store.expired("cart", 0, 100, mine) == []
            assert await store.expired("cart", 100, 100, frozenset()) == []

        self.run(tmp_path, body, ActorSchema("cart", expires=True))

    def test_a_class_that_expires_later_finds_its_old_rows(self, tmp_path: Path) -> None:
        async def body() -> None:
            place = self.make_place(tmp_path)
            async with self.opened(place) as store:
                await store.commit(batch(write("a", 1), at_ms=5))
            async with self.opened(place, ActorSchema("cart", expires=True)) as store:
                assert await store.expired("cart", 6, 10) == ["a"]

        asyncio.run(body())

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
                await refuses(store, batch(write("a", 2)))
                await store.commit(batch(write("a", 3)))

        asyncio.run(body())

    def test_one_store_object_can_be_opened_again(self, tmp_path: Path) -> None:
        async def body() -> None:
            store = self.make_store(self.make_place(tmp_path))
            for version in (1, 2, 3):
                await store.open(SCHEMAS)
                await store.commit(batch(write("a", version)))
                await store.close()

        asyncio.run(body())

    def test_new_types_can_join_later(self, tmp_path: Path) -> None:
        async def body() -> None:
            place = self.make_place(tmp_path)
            async with self.opened(place) as store:
                await store.commit(batch(write("a", 1)))
            later = self.make_store(place)
            await later.open([*SCHEMAS, ActorSchema("wallet")])
            await later.commit(batch(write("w", 1, actor_type="wallet")))
            assert await later.actor_types() == {"cart": 1, "wallet": 1}
            await later.close()

        asyncio.run(body())

    def test_schemas_are_remembered(self, tmp_path: Path) -> None:
        async def known(store: Store) -> dict[str, tuple[int, list[str]]]:
            return {one.name: (one.version, list(one.fields)) for one in await store.schemas()}

        async def body() -> None:
            place = self.make_place(tmp_path)
            first = ActorSchema("cart", 1, ("lines",))
            async with self.opened(place, first, ActorSchema("order", 4, ("a", "b"))) as store:
                await store.commit(batch(write("a", 1), write("a", 1, actor_type="order")))
            async with self.opened(place, ActorSchema("cart", 2, ("lines", "note"))) as store:
                assert await known(store) == {
                    "cart": (2, ["lines", "note"]),
                    "order": (4, ["a", "b"]),
                }
            async with self.opened(place, first) as store:  # older code again
                assert (await known(store))["cart"] == (1, ["lines"])

        asyncio.run(body())

    def test_opening_again_finds_every_kind_of_row(self, tmp_path: Path) -> None:
        async def body() -> None:
            place = self.make_place(tmp_path)
            async with self.opened(place) as store:
                ids = await _fill(store)
                before = await _everything(store)
            async with self.opened(place) as store:
                assert await _everything(store) == before
                committed = await store.commit(batch(message("a", "b", "later")))
                assert committed.message_ids[0] > max(ids)

        asyncio.run(body())


_OLD_TIMER = ("cart", "a", "old")


def _numbered() -> list[tuple[int, str]]:
    return list(enumerate(STRANGE_KEYS))


async def _fill(store: Store) -> Sequence[int]:
    """Put some of every kind into a store; returns the ids of the messages."""
    committed = await store.commit(
        batch(
            write("a", 1),
            write("b", 1, b'{"n":1}'),
            record("a", "r"),
            message("a", "b", "first", 5),
            message("a", "b", "second", 6),
            message("b", "a", "dead", None),
            timer("a", "old", 10, every_ms=5, attempts=2),
            timer("b", "other", 20),
            entry("a", "x"),
            entry("a", "y"),
            Answers("web-1", 1, 3, b"first"),
        )
    )
    return committed.message_ids


def _one_of_each(message_id: int) -> list[Item]:
    return [
        write("new", 1),
        write("a", 2, b'"changed"'),
        record("a", "r2"),
        message("b", "c", "third"),
        Deferral(message_id, 3, None, "in vain"),
        timer("a", "new", 15),
        entry("a", "x", None),
        entry("a", "z", b"2"),
        Answers("web-1", 2, 2, b"second"),
    ]


async def _everything(store: Store) -> list[Any]:
    """All that a store holds of carts, as far as `_fill` and `_one_of_each` touch it."""
    streams = sorted(await store.streams(100), key=repr)
    return [
        await store.scan("cart", "", 100),
        [await store.find_request("cart", "a", name) for name in ("r", "r2")],
        [(stream, due, await store.messages(stream, 0, 100)) for stream, due in streams],
        await store.dead_letters(0, 100),
        await store.timers((-1, "", "", ""), 100),
        await store.entries("cart", "a", "lines"),
        await store.find_answers("web-1", 2),
    ]
