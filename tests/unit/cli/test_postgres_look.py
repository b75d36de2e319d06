"""Commands that look into a PostgreSQL store while a process owns it."""

import asyncio
import io
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import pytest
from rich.console import Console
from tests.unit.cli.invoking import perdure

from perdure import Actor, App, unique
from perdure.cli.check_store import check_store
from perdure.cli.failures import Failure
from perdure.store.api import ActorSchema, ActorWrite, Batch, Message, Stream
from perdure.store.postgres import PostgresStore
from perdure.store.postgres_look import PostgresLook
from perdure.testing.postgres import fresh_database

STREAM = Stream("cart", "a", "stock", "tea")


class Cart(Actor):
    lines: dict[str, int] = {}
    note: str = ""


class Lineless(Actor, name="cart"):
    note: str = ""


class Unlike(Actor, name="cart"):
    lines: int = 0


class Emailed(Actor, name="cart"):
    lines: dict[str, int] = {}
    email: Annotated[str | None, unique] = None


class Owner:
    """A process that has the store open all the time."""

    def __init__(self, schema: ActorSchema) -> None:
        self.url = fresh_database()
        self.loop = asyncio.new_event_loop()
        self.store = PostgresStore(self.url)
        self.loop.run_until_complete(self.store.open([schema]))

    def commit(self, batch: Batch) -> Sequence[int]:
        return self.loop.run_until_complete(self.store.commit(batch)).message_ids

    def close(self) -> None:
        self.loop.run_until_complete(self.store.close())
        self.loop.close()


@pytest.fixture
def owner() -> Iterator[Owner]:
    owner = Owner(ActorSchema("cart", fields=["lines"]))
    yield owner
    owner.close()


def put(owner: Owner, **states: bytes) -> None:
    owner.commit(Batch([ActorWrite("cart", key, one, 1) for key, one in states.items()], [], 1))


def checked(owner: Owner, *classes: type[Actor]) -> tuple[bool, str]:
    output = io.StringIO()
    fits = check_store(App(*classes), owner.url, Console(file=output, width=200))
    return fits, output.getvalue()


def test_check_says_whether_the_app_fits(owner: Owner) -> None:
    put(owner, alice=b'{"lines":{"tea":1}}', bob=b'{"lines":{}}')
    fits, said = checked(owner, Cart)
    assert fits
    assert "fields added: note" in said
    assert "the database: the app fits what is stored" in said
    assert not checked(owner, Lineless)[0]
    fits, said = checked(owner, Unlike)
    assert not fits
    assert "2 cannot be read (alice, bob)" in said


def test_check_finds_values_that_are_not_unique(owner: Owner) -> None:
    put(owner, a=b'{"email":"x"}', b=b'{"email":"x"}', c=b'{"email":"y"}', d=b'{"email":null}')
    fits, said = checked(owner, Emailed)
    assert not fits
    assert "email is unique, but has 'x' in 2 rows" in said


def test_a_sample_is_spread_over_all_keys(owner: Owner) -> None:
    put(owner, **{f"k{number:03}": b"{}" for number in range(100)})
    with closing(PostgresLook(owner.url)) as look:
        assert look.spread("cart", 1_000) == [f"k{number:03}" for number in range(100)]
        few = look.spread("cart", 10)
    assert 8 <= len(few) <= 14
    assert (few[0], few[-1]) == ("k000", "k099")


def test_letters_are_listed_sent_again_and_dropped(owner: Owner) -> None:
    letters = [
        Message(STREAM, "take", b"[]", f"u{n}", None, None, 8, f"SoldOut: {n}") for n in range(4)
    ]
    first, second, third, fourth = owner.commit(Batch([], [], 1_000, sent=letters))
    listed = perdure("state", "letters", "--store", owner.url)
    assert all(f"SoldOut: {n}" in listed.output for n in range(4))
    perdure("state", "resend", str(second), "--store", owner.url)
    [due] = owner.loop.run_until_complete(owner.store.messages(STREAM, 0, 9))
    assert (due.id, due.attempts, due.error) == (second, 0, "SoldOut: 1")
    again = perdure("state", "resend", str(second), "--store", owner.url)
    assert "no dead letter has the id" in again.errors
    perdure("state", "drop-letter", str(third), "--yes", "--store", owner.url)
    done = perdure("state", "resend", "--all", "--store", owner.url)
    assert "2 letters are due again" in done.errors
    found = owner.loop.run_until_complete(owner.store.messages(STREAM, 0, 9))
    assert [one.id for one in found] == [first, second, fourth]


def test_a_database_without_a_store_is_told() -> None:
    with pytest.raises(Failure, match="there is no store in PostgreSQL at"):
        check_store(App(Cart), fresh_database(), Console(file=io.StringIO()))


EXPORT = """\
{"type":"cart","key":"alice","version":7,"created_at_ms":1,"updated_at_ms":2,"schema":1,\
"state":{"lines":{"tea":1}},"timers":[{"name":"t","due_at_ms":9,"method":"late","arguments":{},\
"every_ms":null,"attempts":0}]}
{"type":"cart","key":"alice","field":"log","entry":"1","value":{"a":1}}
{"type":"cart","key":"bob","version":1,"created_at_ms":3,"updated_at_ms":3,"schema":1,"state":{}}
"""


def test_an_export_comes_into_postgresql_as_it_was(tmp_path: Path) -> None:
    url, file = fresh_database(), tmp_path / "dump.jsonl"
    file.write_text(EXPORT)
    done = perdure("state", "import", file, "--store", url)
    assert "imported 2 actors" in done.errors
    twice = perdure("state", "import", file, "--store", url)
    assert "line 1: cart/alice is in the store already" in twice.errors
    assert perdure("state", "import", file, "--replace", "--store", url).exit_code == 0

    async def body() -> None:
        store = PostgresStore(url)
        await store.open([ActorSchema("cart", fields=["lines"])])
        alice = await store.load("cart", "alice")
        assert alice is not None
        assert (alice.version, alice.created_at_ms, alice.updated_at_ms) == (7, 1, 2)
        assert alice.state == b'{"lines":{"tea":1}}'
        assert [(one.name, one.due_at_ms) for one in alice.timers] == [("t", 9)]
        assert await store.entries("cart", "alice", "log") == [("1", b'{"a":1}')]
        await store.commit(Batch([ActorWrite("cart", "alice", b"{}", 8)], [], 10))
        await store.close()

    asyncio.run(body())


def test_nothing_is_imported_while_a_process_has_the_store(owner: Owner, tmp_path: Path) -> None:
    (file := tmp_path / "dump.jsonl").write_text(EXPORT)
    done = perdure("state", "import", file, "--store", owner.url)
    assert done.exit_code != 0
    assert "stop them first" in done.errors
    put(owner, carol=b"{}")  # which is not fenced
    with closing(PostgresLook(owner.url)) as look:
        assert look.count("cart") == 1
