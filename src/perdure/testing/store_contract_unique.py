"""The part of the store contract that is about unique fields."""

import asyncio
from pathlib import Path

from perdure.base.errors import UniqueError
from perdure.store.api import (
    ActorSchema,
    Committed,
    EntryWrite,
    IndexedField,
    Message,
    Refusal,
    Store,
)
from perdure.testing.store_contract_base import (
    EMAIL,
    StoreCase,
    batch,
    entry,
    load,
    message,
    record,
    refuses,
    timer,
    write,
)

UNIQUE = ActorSchema("cart", fields=("email", "nick"), indexes=(EMAIL,))
NICK = IndexedField("nick", unique=True)
TWO_FIELDS = ActorSchema("cart", fields=("email", "nick"), indexes=(EMAIL, NICK))


def has(email: str) -> bytes:
    """A state with this address."""
    return b'{"email":"%s"}' % email.encode()


class UniqueContract(StoreCase):
    """What every store does with unique fields."""

    def test_the_value_of_another_actor_is_refused(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1, has("x"))))
            committed = await store.commit(batch(write("b", 1, has("x")), write("c", 1, has("y"))))
            assert refused(committed) == {"b": "email"}
            assert await store.load("cart", "b") is None
            assert (await load(store, "c")).version == 1  # the others are not touched
            committed = await store.commit(batch(write("c", 2, has("x"))))
            assert refused(committed) == {"c": "email"}
            assert (await load(store, "c")).state == has("y")
            await store.commit(batch(write("c", 2, has("z"))))  # it is still at version 1

        self.run(tmp_path, body, UNIQUE)

    def test_of_two_in_one_batch_the_first_has_the_value(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            writes = [write(key, 1, has("x")) for key in ("b", "a", "c")]
            assert refused(await store.commit(batch(*writes))) == {"a": "email", "c": "email"}
            assert [row.key for row in await store.scan("cart", "", 9)] == ["b"]

        self.run(tmp_path, body, UNIQUE)

    def test_an_actor_may_keep_its_own_value(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1, has("x"))))
            assert refused(await store.commit(batch(write("a", 2, has("x"))))) == {}
            assert (await load(store, "a")).version == 2

        self.run(tmp_path, body, UNIQUE)

    def test_null_and_a_missing_field_may_occur_any_number_of_times(self, tmp_path: Path) -> None:
        states = [b"{}", b'{"email":null}', b"{}", b'{"email":null}', b'"no object"', b"[]"]

        async def body() -> None:
            place = self.make_place(tmp_path)
            async with self.opened(place, UNIQUE) as store:
                writes = [write(str(n), 1, state) for n, state in enumerate(states)]
                assert refused(await store.commit(batch(*writes))) == {}
            async with self.opened(place, UNIQUE) as store:
                assert len(await store.scan("cart", "", 9)) == len(states)

        asyncio.run(body())

    def test_values_are_told_apart_exactly(self, tmp_path: Path) -> None:
        values = ["", " ", "x", "X", "x ", "ä", "a\u0308", "😀", "%", "0", "null"]

        async def body(store: Store) -> None:
            writes = [write(str(n), 1, has(value)) for n, value in enumerate(values)]
            assert refused(await store.commit(batch(*writes))) == {}
            again = [write(f"again{n}", 1, has(value)) for n, value in enumerate(values)]
            assert len(refused(await store.commit(batch(*again)))) == len(values)

        self.run(tmp_path, body, UNIQUE)

    def test_decimals_and_times_are_compared_by_value(self, tmp_path: Path) -> None:
        number = IndexedField("n", "decimal", unique=True)
        moment = IndexedField("at", "time", unique=True)

        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1, b'{"n":"1.50","at":"2026-07-01T00:00:00Z"}')))
            for state, field in (
                (b'{"n":"1.5"}', "n"),
                (b'{"at":"2026-07-01T00:00:00.000000Z"}', "at"),
            ):
                committed = await store.commit(batch(write("b", 1, state)))
                assert refused(committed) == {"b": field}
            assert refused(await store.commit(batch(write("b", 1, b'{"n":"1.51"}')))) == {}

        self.run(tmp_path, body, ActorSchema("cart", fields=("n", "at"), indexes=(number, moment)))

    def test_one_class_does_not_bind_another(self, tmp_path: Path) -> None:
        order = ActorSchema("order", fields=("email",), indexes=(EMAIL,))

        async def body(store: Store) -> None:
            both = (write("a", 1, has("x")), write("b", 1, has("x"), "order"))
            assert refused(await store.commit(batch(*both))) == {}

        self.run(tmp_path, body, UNIQUE, order)

    def test_each_of_several_fields_is_unique(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1, b'{"email":"x","nick":"y"}')))
            # "y" is taken as a nick only
            assert refused(await store.commit(batch(write("b", 1, has("y"))))) == {}
            committed = await store.commit(batch(write("c", 1, b'{"email":"z","nick":"y"}')))
            assert refused(committed) == {"c": "nick"}
            # nothing of a refused write counts, not even the value that was free
            assert refused(await store.commit(batch(write("d", 1, has("z"))))) == {}

        self.run(tmp_path, body, TWO_FIELDS)

    # -- values that move ------------------------------------------------------------------------

    def test_a_value_can_be_given_up_and_taken_in_one_batch(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1, has("x")), write("b", 1, has("y"))))
            # by a change, and by an end
            moving = (write("a", 2, has("z")), write("c", 1, has("x")))
            assert refused(await store.commit(batch(*moving))) == {}
            moving = (write("b", 2, None), write("d", 1, has("y")))
            assert refused(await store.commit(batch(*moving))) == {}
            states = {row.key: row.state for row in await store.scan("cart", "", 9)}
            assert states == {"a": has("z"), "c": has("x"), "d": has("y")}

        self.run(tmp_path, body, UNIQUE)

    def test_values_move_along_a_chain_in_one_batch(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(*[write(f"{n:03}", 1, has(str(n))) for n in range(100)]))
            # each takes what the one before it has just given up
            moving = [write("000", 2, has("free"))]
            moving += [write(f"{n:03}", 2, has(str(n - 1))) for n in range(1, 100)]
            assert refused(await store.commit(batch(*moving))) == {}
            assert (await load(store, "099")).state == has("98")
            assert refused(await store.commit(batch(write("new", 1, has("99"))))) == {}

        self.run(tmp_path, body, UNIQUE)

    def test_taken_before_it_is_given_up_is_refused(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1, has("x"))))
            early = (write("b", 1, has("x")), write("a", 2, has("y")))
            assert refused(await store.commit(batch(*early))) == {"b": "email"}
            assert (await load(store, "a")).state == has("y")
            assert refused(await store.commit(batch(write("b", 1, has("x"))))) == {}

        self.run(tmp_path, body, UNIQUE)

    def test_a_refused_write_gives_nothing_up(self, tmp_path: Path) -> None:
        """Else the one that took its value in the same batch would share it in the end."""

        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1, has("x")), write("b", 1, has("y"))))
            falling = (
                write("a", 2, has("free"), group=1),
                write("c", 1, has("x")),  # counts on the write before it
                write("d", 1, has("y"), group=1),  # and this one brings that down
            )
            committed = await store.commit(batch(*falling))
            assert refused(committed) == {"a": "", "c": "email", "d": "email"}
            states = {row.key: row.state for row in await store.scan("cart", "", 9)}
            assert states == {"a": has("x"), "b": has("y")}

        self.run(tmp_path, body, UNIQUE)

    # -- what falls with a refusal ---------------------------------------------------------------

    def test_a_group_is_refused_together_and_others_are_not(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1, has("x"))))
            committed = await store.commit(
                batch(
                    write("before", 1, group=3),
                    write("bad", 1, has("x"), group=3),
                    write("other", 1, actor_type="order", group=3),  # of any class
                    write("alone", 1),
                    write("second", 1, group=4),
                )
            )
            assert refused(committed) == {"before": "", "bad": "email", "other": ""}
            assert {(one.actor_type, one.key) for one in committed.refused} == {
                ("cart", "before"),
                ("cart", "bad"),
                ("order", "other"),
            }
            assert [row.key for row in await store.scan("cart", "", 9)] == ["a", "alone", "second"]
            assert await store.load("order", "other") is None

        self.run(tmp_path, body, UNIQUE, ActorSchema("order"))

    def test_all_that_belongs_to_refused_actors_is_left_out(self, tmp_path: Path) -> None:
        """Of the actor itself and of its group alike; what others did in the batch stays."""

        async def body(store: Store) -> None:
            await store.commit(
                batch(
                    write("owner", 1, has("x")),
                    *[write(key, 1) for key in ("bad", "friend", "good")],
                    *[timer(key, "old", 1) for key in ("bad", "friend", "good")],
                    *[message("owner", key) for key in ("bad", "friend", "good")],
                )
            )
            taken = [await _first(store, key) for key in ("bad", "friend", "good")]
            keys = ("bad", "good", "friend")
            committed = await store.commit(
                batch(
                    write("good", 2),
                    write("friend", 2, group=1),
                    write("bad", 2, has("x"), group=1),
                    *[record(key, "r") for key in keys],
                    *[message(key, "far", key) for key in keys],
                    *[timer(key, "new", 2) for key in keys],
                    *[entry(key, "e") for key in keys],
                    taken=taken,
                    cancelled=[("cart", key, "old") for key in keys],
                )
            )
            assert refused(committed) == {"bad": "email", "friend": ""}
            ids = list(committed.message_ids)
            assert (ids[0], ids[2]) == (0, 0)
            assert ids[1] > 0
            for key in ("bad", "friend", "good"):
                is_good = key == "good"
                stored = await load(store, key)
                assert stored.version == (2 if is_good else 1)
                assert [one.name for one in stored.timers] == ["new" if is_good else "old"]
                assert (await store.find_request("cart", key, "r") is not None) == is_good
                assert len(await store.messages(message(key, "far").stream, 0, 9)) == is_good
                assert len(await store.messages(message("owner", key).stream, 0, 9)) != is_good
                assert await store.count_entries("cart", key, "lines") == is_good

        self.run(tmp_path, body, UNIQUE)

    def test_the_same_key_of_another_class_is_not_refused_with_it(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1, has("x"))))
            committed = await store.commit(
                batch(
                    write("b", 1, has("x")),
                    write("b", 1, actor_type="order"),
                    record("b", "r", actor_type="order"),
                    EntryWrite("order", "b", "lines", "e", b"1"),
                )
            )
            assert list(committed.refused) == [Refusal("cart", "b", "email")]
            assert (await load(store, "b", "order")).version == 1
            assert await store.find_request("order", "b", "r") is not None
            assert await store.count_entries("order", "b", "lines") == 1

        self.run(tmp_path, body, UNIQUE, ActorSchema("order"))

    def test_a_conflict_beside_a_refusal_leaves_nothing(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1, has("x"))))
            await refuses(
                store, batch(write("b", 1, has("x")), write("c", 1, has("y")), write("a", 5))
            )
            assert [row.key for row in await store.scan("cart", "", 9)] == ["a"]
            assert refused(await store.commit(batch(write("d", 1, has("y"))))) == {}

        self.run(tmp_path, body, UNIQUE)

    # -- opening ---------------------------------------------------------------------------------

    def test_a_field_cannot_become_unique_over_equal_values(self, tmp_path: Path) -> None:
        async def body() -> None:
            place = self.make_place(tmp_path)
            async with self.opened(place, ActorSchema("cart")) as store:
                await store.commit(batch(write("a", 1, has("x")), write("b", 1, has("x"))))
            failing = self.make_store(place)
            field = ""
            try:
                await failing.open([ActorSchema("cart", 7, ("email",), (EMAIL,))])
            except UniqueError as error:
                field = error.field
            assert field == "email"
            # the store is as it was, and nobody holds it
            async with self.opened(place, ActorSchema("cart")) as store:
                assert {one.name: one.version for one in await store.schemas()} == {"cart": 1}
                assert refused(await store.commit(batch(write("c", 1, has("x"))))) == {}

        asyncio.run(body())

    def test_a_field_becomes_unique_and_stops_being_it(self, tmp_path: Path) -> None:
        async def body() -> None:
            place = self.make_place(tmp_path)
            async with self.opened(place, ActorSchema("cart")) as store:
                await store.commit(batch(write("a", 1, has("x"))))
            async with self.opened(place, UNIQUE) as store:
                assert refused(await store.commit(batch(write("b", 1, has("x"))))) == {"b": "email"}
            plain = ActorSchema("cart", fields=("email",), indexes=(IndexedField("email"),))
            async with self.opened(place, plain) as store:
                assert refused(await store.commit(batch(write("b", 1, has("x"))))) == {}

        asyncio.run(body())


def refused(committed: Committed) -> dict[str, str]:
    """The fields of refusals by key; each actor is named once."""
    found = {one.key: one.field for one in committed.refused}
    assert len(found) == len(committed.refused)
    return found


async def _first(store: Store, receiver: str) -> Message:
    (found,) = await store.messages(message("owner", receiver).stream, 0, 1)
    return found
