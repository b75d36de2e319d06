"""The part of the store contract that is about what the calls of gateways were answered."""

import asyncio
from pathlib import Path

from perdure.store.api import ActorSchema, Answers, Store
from perdure.testing.store_contract_base import EMAIL, StoreCase, batch, refuses, write

UNIQUE = ActorSchema("cart", fields=("email",), indexes=(EMAIL,))
HAS_X = b'{"email":"x"}'


class AnswersContract(StoreCase):
    """What every store does with answers."""

    def test_answers_are_found_by_each_number_of_their_span(self, tmp_path: Path) -> None:
        body_bytes = bytes(range(256))

        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1), Answers("web", 3, 5, body_bytes)))
            found = [await store.find_answers("web", number) for number in range(2, 7)]
            assert found == [[], [body_bytes], [body_bytes], [body_bytes], []]
            assert await store.find_answers("other", 4) == []
            assert await store.find_answers("we", 4) == []

        self.run(tmp_path, body)

    def test_all_answers_whose_spans_overlap_are_found(self, tmp_path: Path) -> None:
        """Commits of one process hold answers to whatever calls were ready; others lie between."""

        async def body(store: Store) -> None:
            await store.commit(
                batch(
                    Answers("web", 1, 9, b"wide"),
                    Answers("web", 4, 4, b"narrow"),
                    Answers("other", 1, 9, b"not mine"),
                )
            )
            await store.commit(batch(Answers("web", 4, 20, b"later")))
            await store.commit(batch(Answers("web", 1, 9, b"wide")))  # the same span once more
            assert sorted(await store.find_answers("web", 4)) == [
                b"later",
                b"narrow",
                b"wide",
                b"wide",
            ]
            assert await store.find_answers("web", 20) == [b"later"]

        self.run(tmp_path, body)

    def test_numbers_may_be_large(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(Answers("web", 1 << 40, (1 << 62) + 1, b"x")))
            assert await store.find_answers("web", 1 << 62) == [b"x"]
            assert await store.find_answers("web", (1 << 40) - 1) == []

        self.run(tmp_path, body)

    def test_answers_share_the_fate_of_their_batch(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await refuses(store, batch(write("a", 9), Answers("web", 1, 1, b"x")))
            assert await store.find_answers("web", 1) == []

        self.run(tmp_path, body)

    def test_answers_of_actors_that_are_left_out_are_left_out_too(self, tmp_path: Path) -> None:
        """Else a call whose turn came to nothing would get its answer when it is sent again."""

        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1, HAS_X)))
            committed = await store.commit(
                batch(
                    write("b", 1, HAS_X, group=3),
                    write("c", 1, group=1),
                    write("d", 1, HAS_X, group=1),
                    write("e", 1, group=2),
                    *[Answers("web", 1, 9, b"%d" % group, group) for group in range(4)],
                )
            )
            assert {one.key for one in committed.refused} == {"b", "c", "d"}
            assert sorted(await store.find_answers("web", 4)) == [b"0", b"2"]

        self.run(tmp_path, body, UNIQUE)

    def test_a_thousand_answers_fit_into_one_batch(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(*[Answers(f"web-{n}", n, n, b"%d" % n) for n in range(1_000)]))
            for n in (0, 1, 500, 999):
                assert await store.find_answers(f"web-{n}", n) == [b"%d" % n]

        self.run(tmp_path, body)

    def test_old_answers_of_gateways_are_dropped_a_bounded_number_at_a_time(
        self, tmp_path: Path
    ) -> None:
        async def body(store: Store) -> None:
            for at_ms in range(10):
                one = Answers(f"web-{at_ms % 2}", at_ms, at_ms, b"x")
                await store.commit(batch(one, at_ms=at_ms))
            assert await store.forget_answers(6, 4) == 4
            assert await store.forget_answers(6, 4) == 2
            assert await store.forget_answers(6, 4) == 0
            left = [n for n in range(10) if await store.find_answers(f"web-{n % 2}", n)]
            assert left == [6, 7, 8, 9]

        self.run(tmp_path, body)

    def test_answers_outlive_a_restart(self, tmp_path: Path) -> None:
        async def body() -> None:
            place = self.make_place(tmp_path)
            async with self.opened(place) as store:
                await store.commit(batch(Answers("web", 1, 1, b"x")))
            async with self.opened(place) as store:
                assert await store.find_answers("web", 1) == [b"x"]

        asyncio.run(body())
