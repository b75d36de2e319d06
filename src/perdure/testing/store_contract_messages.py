"""The part of the store contract that is about messages."""

import asyncio
from pathlib import Path

import msgspec

from perdure.base.shards import shard_of
from perdure.store.api import Deferral, Message, Store, Stream
from perdure.testing.store_contract_base import (
    STRANGE_KEYS,
    StoreCase,
    batch,
    message,
    refuses,
    write,
)


class MessageContract(StoreCase):
    """What every store does with messages."""

    def test_a_message_is_kept_as_it_was_sent(self, tmp_path: Path) -> None:
        full = Message(
            Stream("cart", "ä", "@mail", "😀"), "take", b'{"a": 1.0}', "u1", None, 7, 2, "oh"
        )
        bare = message("a", "b")

        async def body(store: Store) -> None:
            committed = await store.commit(batch(full, bare, at_ms=12))
            first, second = committed.message_ids
            assert 0 < first < second
            assert await store.messages(full.stream, 0, 9) == [_stored(full, first, 12)]
            assert await store.messages(bare.stream, 0, 9) == [_stored(bare, second, 12)]
            assert committed.refused in ([], ())

        self.run(tmp_path, body)

    def test_messages_of_a_stream_come_in_the_order_they_were_sent(self, tmp_path: Path) -> None:
        """Whatever their due times are, and page by page."""

        async def body(store: Store) -> None:
            sent = [message("a", "b", str(n), due_at_ms=100 - n) for n in range(10)]
            other = [message("b", "a", "other"), message("a", "c", "another")]
            for at in range(0, 10, 4):
                await store.commit(batch(*sent[at : at + 4], *other))
            seen, after = list[Message](), 0
            while page := await store.messages(sent[0].stream, after, 3):
                assert len(page) <= 3
                seen += page
                after = page[-1].id
            assert [one.uid for one in seen] == [f"uid-{n}" for n in range(10)]
            assert [one.id for one in seen] == sorted({one.id for one in seen})

        self.run(tmp_path, body)

    def test_many_messages_in_one_batch_keep_their_order(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            sent = [message(str(n % 7), "hub", str(n)) for n in range(1_000)]
            ids = (await store.commit(batch(*sent))).message_ids
            assert list(ids) == sorted(set(ids))
            by_id = {
                one.id: one.uid
                for n in range(7)
                for one in await store.messages(message(str(n), "hub").stream, 0, 1_000)
            }
            assert [by_id[one] for one in ids] == [one.uid for one in sent]

        self.run(tmp_path, body)

    def test_streams_are_told_apart_by_all_their_parts(self, tmp_path: Path) -> None:
        streams = [
            Stream(sender_type, sender, receiver_type, receiver)
            for sender_type in ("cart", "order")
            for sender in STRANGE_KEYS[:4]
            for receiver_type in ("cart", "@mail")
            for receiver in ("a", "A")
        ]

        async def body(store: Store) -> None:
            sent = [Message(one, "take", b"{}", "u", None, n) for n, one in enumerate(streams)]
            await store.commit(batch(*sent))
            assert await store.streams(100) == [(one, n) for n, one in enumerate(streams)]
            for one in streams:
                assert [found.stream for found in await store.messages(one, 0, 9)] == [one]

        self.run(tmp_path, body)

    def test_streams_of_some_shards_are_listed_alone(self, tmp_path: Path) -> None:
        """The receiver's shard counts, and the sender's for what goes to an outlet."""
        inside = [message("hub", f"k{n}", "", n).stream for n in range(40)]
        outside = [Stream("cart", f"k{n}", "@mail", "hub") for n in range(40)]
        mine = {shard_of(f"k{n}") for n in range(0, 40, 2)}
        expected = [
            (one, n)
            for n, one in enumerate(inside + outside)
            if shard_of(one.sender_key if one in outside else one.receiver_key) in mine
        ]

        async def body(store: Store) -> None:
            sent = [Message(x, "m", b"{}", "u", None, n) for n, x in enumerate(inside + outside)]
            await store.commit(batch(*sent))
            assert await store.streams(100, mine) == expected
            assert await store.streams(25, mine) == expected[:25]
            assert await store.streams(100, {shard_of("hub")}) == []
            assert await store.streams(100, frozenset()) == []

        self.run(tmp_path, body)

    def test_a_stream_is_due_when_its_first_message_is(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(
                batch(
                    message("a", "b", "1", 50),
                    message("a", "b", "2", 1),  # waits behind the first
                    message("b", "c", "3", 20),
                    message("c", "d", "4", 30),
                    message("d", "e", "5", None),  # a dead letter from the start
                )
            )
            due = [(message("b", "c").stream, 20), (message("c", "d").stream, 30)]
            due += [(message("a", "b").stream, 50)]
            assert await store.streams(10) == due
            assert await store.streams(2) == due[:2]
            (first,) = await store.messages(message("a", "b").stream, 0, 1)
            await store.commit(batch(taken=[first]))
            assert (await store.streams(10))[0] == (first.stream, 1)

        self.run(tmp_path, body)

    def test_what_was_taken_is_gone_and_cannot_be_taken_again(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(message("a", "b", "1"), message("a", "b", "2")))
            first, second = await store.messages(message("a", "b").stream, 0, 9)
            await store.commit(batch(write("b", 1), taken=[first]))
            assert await store.messages(first.stream, 0, 9) == [second]
            await refuses(store, batch(write("b", 2), message("b", "c"), taken=[second, first]))
            assert await store.messages(first.stream, 0, 9) == [second]
            assert await store.messages(message("b", "c").stream, 0, 9) == []
            await store.commit(batch(write("b", 2), taken=[second]))
            assert await store.streams(9) == []

        self.run(tmp_path, body)

    def test_ids_rise_after_everything_was_taken_and_the_store_reopened(
        self, tmp_path: Path
    ) -> None:
        """A new message must never look like one that was delivered before."""

        async def body() -> None:
            place, ids = self.make_place(tmp_path), list[int]()
            for _ in range(3):
                async with self.opened(place) as store:
                    ids += (await store.commit(batch(message("a", "b")))).message_ids
                    await store.commit(
                        batch(taken=await store.messages(message("a", "b").stream, 0, 9))
                    )
            assert ids == sorted(set(ids))

        asyncio.run(body())

    def test_a_deferred_message_keeps_its_place(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(message("a", "b", "1", 1), message("a", "b", "2", 2)))
            first, second = await store.messages(message("a", "b").stream, 0, 9)
            await store.commit(batch(Deferral(first.id, 3, 900, "it was down"), at_ms=77))
            first = msgspec.structs.replace(first, attempts=3, due_at_ms=900, error="it was down")
            assert await store.messages(first.stream, 0, 9) == [first, second]
            assert await store.streams(9) == [(first.stream, 900)]

        self.run(tmp_path, body)

    def test_a_dead_letter_is_no_longer_under_way(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            sent = [message("a", "b", str(n), n) for n in range(4)]
            ids = (await store.commit(batch(*sent, message("x", "x", "dead", None)))).message_ids
            await store.commit(
                batch(Deferral(ids[0], 5, None, "never"), Deferral(ids[2], 5, None, "never"))
            )
            stream = sent[0].stream
            assert [one.id for one in await store.messages(stream, 0, 9)] == [ids[1], ids[3]]
            assert await store.streams(9) == [(stream, 1)]
            dead = await store.dead_letters(0, 9)
            assert [(one.id, one.error) for one in dead] == [
                (ids[0], "never"),
                (ids[2], "never"),
                (ids[4], ""),
            ]
            assert await store.dead_letters(0, 2) == dead[:2]
            assert await store.dead_letters(ids[0], 9) == dead[1:]

        self.run(tmp_path, body)

    def test_a_dead_letter_can_be_sent_again_or_thrown_away(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            sent = [message("a", "b", "1", None), message("a", "b", "2", 2)]
            first, second = (await store.commit(batch(*sent))).message_ids
            await store.commit(batch(Deferral(first, 0, 8, "")))
            assert await store.dead_letters(0, 9) == []
            found = await store.messages(sent[0].stream, 0, 9)
            assert [(one.id, one.due_at_ms) for one in found] == [(first, 8), (second, 2)]
            assert await store.streams(9) == [(sent[0].stream, 8)]
            await store.commit(batch(Deferral(second, 1, None, "no")))
            await store.commit(batch(taken=await store.dead_letters(0, 9)))
            assert await store.dead_letters(0, 9) == []

        self.run(tmp_path, body)

    def test_deferring_what_is_gone_is_nothing(self, tmp_path: Path) -> None:
        """It says only that another try is wanted; the batch of others must not fail for it."""

        async def body(store: Store) -> None:
            (gone,) = (await store.commit(batch(message("a", "b")))).message_ids
            await store.commit(batch(taken=await store.messages(message("a", "b").stream, 0, 9)))
            await store.commit(batch(write("a", 1), Deferral(gone, 1, 5, "late")))
            assert await store.load("cart", "a") is not None
            assert await store.streams(9) == []
            assert await store.dead_letters(0, 9) == []

        self.run(tmp_path, body)

    def test_messages_outlive_their_sender(self, tmp_path: Path) -> None:
        async def body(store: Store) -> None:
            await store.commit(batch(write("a", 1), message("a", "b")))
            await store.commit(batch(write("a", 2, None)))
            assert len(await store.messages(message("a", "b").stream, 0, 9)) == 1

        self.run(tmp_path, body)


def _stored(sent: Message, message_id: int, at_ms: int) -> Message:
    return msgspec.structs.replace(sent, id=message_id, sent_at_ms=at_ms)
