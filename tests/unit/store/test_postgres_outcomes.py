"""What becomes of a commit whose connection breaks: the fence's row tells, and nobody guesses."""

import asyncio

import pytest

from perdure.base.errors import FencedError, OutcomeUnknownError
from perdure.store.postgres import PostgresStore
from perdure.store.postgres_link import LostError, Server, Session, UnreachableStoreError
from perdure.testing.postgres import fresh_database
from perdure.testing.store_contract_base import SCHEMAS, batch, message, write


async def _opened() -> PostgresStore:
    store = PostgresStore(fresh_database())
    await store.open(SCHEMAS)
    return store


def _break_once(monkeypatch: pytest.MonkeyPatch, *, after: bool) -> list[str]:
    """Let the next commit's connection break, before it was sent or after it was done."""
    run, broken = Session.run, list[str]()

    async def breaking(self: Session, sql: str, values: object, timeout_s: float) -> object:
        if broken or "part_1" not in sql:
            return await run(self, sql, values, timeout_s)  # type: ignore[arg-type]
        broken.append(sql)
        if after:
            await run(self, sql, values, 5.0)  # type: ignore[arg-type]
        self.drop()
        raise LostError("cut by the test")

    monkeypatch.setattr(Session, "run", breaking)
    return broken


async def _no_server(_server: Server, _deadline_s: float) -> Session:
    raise UnreachableStoreError("it is away")


@pytest.mark.parametrize("after", [False, True])
def test_a_lost_connection_loses_and_doubles_nothing(
    monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    async def body() -> None:
        store = await _opened()
        broken = _break_once(monkeypatch, after=after)
        committed = await store.commit(batch(write("a", 1), message("a", "b", "x")))
        assert broken
        found = await store.messages(message("a", "b").stream, 0, 9)
        assert [one.id for one in found] == list(committed.message_ids)
        await store.commit(batch(write("a", 2)))
        await store.close()

    asyncio.run(asyncio.wait_for(body(), 30))


def test_a_statement_that_was_given_up_can_never_apply_later() -> None:
    async def body() -> None:
        store = await _opened()
        chain = store._chain
        late = chain.begin()
        chain.sent(late)
        assert await chain.settle(store._clock.monotonic_s() + 5) is None
        [[changed]] = await store._reader.rows(
            "WITH late AS (UPDATE perdure_fence SET commit_number = $1"
            " WHERE incarnation = 0 AND commit_number = $1 - 1 RETURNING 1)"
            " SELECT count(*) FROM late",
            late,
        )
        assert changed == 0
        await store.commit(batch(write("a", 1)))
        await store.close()

    asyncio.run(asyncio.wait_for(body(), 30))


def test_a_database_that_forgot_commits_fences_its_process() -> None:
    async def body() -> None:
        store = await _opened()
        for version in (1, 2, 3):
            await store.commit(batch(write("a", version)))
        await store._reader.rows("UPDATE perdure_fence SET commit_number = commit_number - 2")
        with pytest.raises(FencedError):
            await store.commit(batch(write("a", 4)))
        with pytest.raises(FencedError):
            await store.commit(batch(write("b", 1)))
        await store.close()

    asyncio.run(asyncio.wait_for(body(), 30))


def test_what_is_left_open_is_settled_before_the_next_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body() -> None:
        store = await _opened()
        _break_once(monkeypatch, after=True)
        with monkeypatch.context() as away:
            away.setattr(Server, "connect_by", _no_server)
            with pytest.raises(OutcomeUnknownError):
                await store.commit(batch(write("a", 1)))
        assert store._chain.is_left_open
        found = await store.load("cart", "a")
        assert found is not None
        assert not store._chain.is_left_open
        await store.commit(batch(write("a", 2)))
        await store.close()

    asyncio.run(asyncio.wait_for(body(), 30))


def test_reads_do_not_wait_for_a_commit_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        store = await _opened()
        await store.commit(batch(write("a", 1)))
        run, may_go, reached = Session.run, asyncio.Event(), asyncio.Event()

        async def held(self: Session, sql: str, values: object, timeout_s: float) -> object:
            if "part_1" in sql:
                reached.set()
                await may_go.wait()
            return await run(self, sql, values, timeout_s)  # type: ignore[arg-type]

        monkeypatch.setattr(Session, "run", held)
        writing = asyncio.create_task(store.commit(batch(write("a", 2))))
        await reached.wait()
        found = await asyncio.wait_for(store.load("cart", "a"), 5)
        assert found is not None
        assert found.version == 1
        may_go.set()
        await writing
        await store.close()

    asyncio.run(asyncio.wait_for(body(), 30))
