"""The part of the store contract that is about the entries of collections."""

from pathlib import Path

from perdure.store.api import EntryWrite, Store
from perdure.testing.store_contract_base import STRANGE_KEYS, StoreCase, batch, entry, write


class EntryContract(StoreCase):
    """What every store does with collections."""

    def test_an_entry_is_found_under_exactly_its_name(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1), entry("a", "x", b' {"n": 1.0}')))
            assert await store.entry("cart", "a", "lines", "x") == b' {"n": 1.0}'
            for place in (
                ("order", "a", "lines", "x"),
                ("cart", "A", "lines", "x"),
                ("cart", "a", "Lines", "x"),
                ("cart", "a", "lines", "X"),
            ):
                assert await store.entry(*place) is None
            assert await store.entries("order", "a", "lines") == []
            assert await store.count_entries("cart", "a", "Lines") == 0

        self.run(tmp_path, body)

    def test_an_entry_is_replaced_and_taken_away(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1), entry("a", "x", b"1"), entry("a", "y", b"2")))
            await store.commit(batch(entry("a", "x", b"3"), entry("a", "y", None)))
            await store.commit(batch(entry("a", "never", None)))
            assert await store.entries("cart", "a", "lines") == [("x", b"3")]
            assert await store.entry("cart", "a", "lines", "y") is None
            assert await store.count_entries("cart", "a", "lines") == 1

        self.run(tmp_path, body)

    def test_entries_come_in_the_order_of_code_points(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1), *[entry("a", one) for one in STRANGE_KEYS]))
            names = [name for name, _ in await store.entries("cart", "a", "lines")]
            assert names == sorted(STRANGE_KEYS)
            found = await store.entries("cart", "a", "lines", descending=True)
            assert [name for name, _ in found] == sorted(STRANGE_KEYS, reverse=True)

        self.run(tmp_path, body)

    def test_a_range_has_its_start_and_not_its_end(self, tmp_path: Path) -> None:
        names = sorted([*STRANGE_KEYS, "", "b", "c"])

        async def body(store: Store) -> None:
            await store.commit(
                batch(write("a", 1), *[entry("a", one, b'"%d"' % len(one)) for one in names])
            )
            ends: list[str | None] = [None, *names, "between"]
            for start in [*names, "between"]:
                for end in ends:
                    wanted = [
                        (one, b'"%d"' % len(one))
                        for one in names
                        if start <= one and (end is None or one < end)
                    ]
                    for descending in (False, True):
                        expected = wanted[::-1] if descending else wanted
                        found = await store.entries(
                            "cart",
                            "a",
                            "lines",
                            start=start,
                            end=end,
                            limit=5,
                            descending=descending,
                        )
                        assert found == expected[:5], (start, end, descending)

        self.run(tmp_path, body)

    def test_up_to_a_hundred_entries_come_unless_told_otherwise(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1), *[entry("a", f"{n:04}") for n in range(1_500)]))
            assert len(await store.entries("cart", "a", "lines")) == 100
            found = await store.entries("cart", "a", "lines", limit=2_000)
            assert [name for name, _ in found] == [f"{n:04}" for n in range(1_500)]
            assert await store.count_entries("cart", "a", "lines") == 1_500

        self.run(tmp_path, body)

    def test_collections_go_with_their_actor(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            other = EntryWrite("order", "a", "lines", "x", b"1")
            await store.commit(
                batch(
                    write("a", 1),
                    write("b", 1),
                    write("a", 1, actor_type="order"),
                    entry("a", "x"),
                    entry("a", "y", field="notes"),
                    entry("b", "x"),
                    other,
                )
            )
            await store.commit(batch(write("a", 2, None)))
            await store.commit(batch(write("a", 1)))  # a new one has nothing of the old
            assert await store.entries("cart", "a", "lines") == []
            assert await store.entry("cart", "a", "notes", "y") is None
            assert await store.count_entries("cart", "a", "notes") == 0
            assert await store.count_entries("cart", "b", "lines") == 1
            assert await store.count_entries("order", "a", "lines") == 1

        self.run(tmp_path, body)
