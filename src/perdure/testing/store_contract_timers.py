"""The part of the store contract that is about timers."""

from pathlib import Path

from perdure.base.shards import SHARDS, shard_of
from perdure.store.api import Store, Timer, TimerPlace
from perdure.testing.store_contract_base import (
    STRANGE_KEYS,
    StoreCase,
    batch,
    load,
    timer,
    write,
)

START: TimerPlace = (-1, "", "", "")


class TimerContract(StoreCase):
    """What every store does with timers."""

    def test_a_timer_is_kept_as_it_was_set(self, tmp_path: Path) -> None:
        full = Timer("order", "ä", "😀", 5, "remind", b'{"a": 1.0}', 1_000, 3)
        once = timer("a", "once", 7)

        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1), write("ä", 1, actor_type="order"), full, once))
            assert await store.timers(START, 10) == [full, once]

        self.run(tmp_path, body)

    def test_an_actor_is_loaded_with_its_timers(self, tmp_path: Path) -> None:
        """With all of its own and no other's; a scan comes without them."""
        mine = [timer("a", "one", 9), timer("a", "two", 5, every_ms=60)]
        others = [timer("A", "one", 1), Timer("order", "a", "one", 1, "m", b"{}")]

        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1), write("A", 1), write("b", 1), *mine, *others))
            timers = (await load(store, "a")).timers
            assert sorted(timers, key=lambda one: one.name) == mine
            assert list((await load(store, "b")).timers) == []
            assert [list(row.timers) for row in await store.scan("cart", "", 9)] == [[], [], []]

        self.run(tmp_path, body)

    def test_a_timer_that_is_set_anew_replaces_the_old_one(self, tmp_path: Path) -> None:
        anew = Timer("cart", "a", "t", 90, "other", b"[]", None, 0)

        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1), timer("a", "t", 5, every_ms=3, attempts=2)))
            await store.commit(batch(anew))
            assert await store.timers(START, 10) == [anew]
            assert list((await load(store, "a")).timers) == [anew]

        self.run(tmp_path, body)

    def test_a_cancelled_timer_is_gone(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            kept = [timer("a", "T", 1), timer("b", "t", 2)]
            await store.commit(batch(write("a", 1), timer("a", "t", 5), *kept))
            nobodys = ("cart", "nobody", "t")
            await store.commit(batch(cancelled=[("cart", "a", "t"), nobodys]))
            assert await store.timers(START, 10) == kept
            assert list((await load(store, "a")).timers) == kept[:1]

        self.run(tmp_path, body)

    def test_timers_go_with_their_actor(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            kept = timer("b", "t", 5)
            await store.commit(batch(write("a", 1), write("b", 1), timer("a", "t", 5), kept))
            await store.commit(batch(write("a", 2, None)))
            assert await store.timers(START, 10) == [kept]
            await store.commit(batch(write("a", 1)))
            assert list((await load(store, "a")).timers) == []

        self.run(tmp_path, body)

    def test_only_timers_behind_a_place_are_listed(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            timers = [timer("a", str(due), due) for due in (10, 20, 1 << 60)]
            await store.commit(batch(write("a", 1), *timers))
            assert await store.timers(START, 2) == timers[:2]
            assert await store.timers((20, "", "", ""), 10) == timers[1:]
            assert await store.timers((20, "cart", "a", "20"), 10) == timers[2:]
            assert await store.timers((1 << 60, "cart", "a", "~"), 10) == []

        self.run(tmp_path, body)

    def test_timers_of_some_shards_are_listed_alone(self, tmp_path: Path) -> None:
        timers = [timer(f"k{n}", "t", n) for n in range(60)]
        mine = {shard_of(f"k{n}") for n in range(0, 60, 2)}
        expected = [one for one in timers if shard_of(one.key) in mine]

        async def body(store: Store) -> None:
            await store.commit(batch(*timers))
            assert await store.timers(START, 100, mine) == expected
            assert await store.timers(START, 7, mine) == expected[:7]
            assert await store.timers(place_of(expected[6]), 7, mine) == expected[7:14]
            assert await store.timers(START, 100, frozenset(range(SHARDS))) == timers
            assert await store.timers(START, 100, frozenset()) == []

        self.run(tmp_path, body)

    def test_paging_goes_through_all_timers_of_one_millisecond(self, tmp_path: Path) -> None:
        """By time, then actor type, key and name, each by code point."""
        timers = [
            Timer(actor_type, key, name, due_at_ms, "m", b"{}")
            for actor_type in ("order", "cart")
            for key in STRANGE_KEYS
            for name in ("n", "N", "ñ", "😀", "\uffee")
            for due_at_ms in (8,)
        ]
        timers += [timer(f"{n:02}", "late", 9) for n in range(20)]

        async def body(store: Store) -> None:
            await store.commit(batch(*timers))
            seen, after = list[Timer](), START
            while page := await store.timers(after, 7):
                assert len(page) <= 7
                seen += page
                after = place_of(page[-1])
            assert seen == sorted(timers, key=place_of)

        self.run(tmp_path, body)


def place_of(one: Timer) -> TimerPlace:
    """Where it stands in the order of all timers."""
    return (one.due_at_ms, one.actor_type, one.key, one.name)
