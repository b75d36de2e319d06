"""Who uses a PostgreSQL database without being told of others never commits beside them."""

import asyncio
import os

import pytest

from perdure import Actor, App, Limits, OtherClusterError
from perdure.actor.methods import actor_type_of
from perdure.base.errors import FencedError
from perdure.runtime.place import Place
from perdure.store.api import ActorSchema, ActorWrite, Batch
from perdure.store.postgres import PostgresStore
from perdure.testing.postgres import fresh_database

LIMITS = Limits(lease_ttl_s=0.4)
KEY = b"a key for tests, 32 bytes long.."


class Counter(Actor):
    count: int = 0

    async def hit(self) -> int:
        self.count += 1
        return self.count


COUNTER = actor_type_of(Counter).name


class Other(Actor):
    count: int = 0

    async def hit(self) -> int:
        self.count += 1
        return self.count


def test_a_script_alone_joins_and_leaves(monkeypatch, tmp_path):
    url = fresh_database()  # whose server, too, may get a temporary directory
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    async def body():
        for count in (1, 2):
            app = App(Counter, store=url, limits=LIMITS)
            async with app:
                assert await Counter.at("a").hit() == count
                view = await app.store.registry.view(0)
                assert [member.address for member in view.members] == [
                    f"unix:{directory}/alone" for directory in tmp_path.iterdir()
                ]
                assert len(view.members) == 1
            assert os.listdir(tmp_path) == []

    asyncio.run(body())


def test_a_script_beside_a_cluster_is_refused_and_leaves_nothing_behind(tmp_path):
    url = fresh_database()
    place = Place("all", "shop-1/all", KEY, f"unix:{tmp_path}/state")

    async def body():
        cluster = App(Counter, store=url, limits=LIMITS)
        script = App(Other, store=url, limits=LIMITS)
        await cluster.start(place=place)
        with pytest.raises(OtherClusterError, match="'shop-1/all' uses another key"):
            await script.start()
        assert await Counter.at("a").hit() == 1
        await cluster.stop()
        async with script:
            assert await Other.at("a").hit() == 1

    asyncio.run(body())


def test_of_two_scripts_on_one_database_the_second_is_refused():
    url = fresh_database()

    async def body():
        async with App(Counter, store=url, limits=LIMITS):
            with pytest.raises(OtherClusterError):
                await App(Other, store=url, limits=LIMITS).start()
            assert await Counter.at("a").hit() == 1

    asyncio.run(body())


def test_a_cluster_does_not_start_beside_a_script(tmp_path):
    url = fresh_database()
    place = Place("all", "shop-1/all", KEY, f"unix:{tmp_path}/state")

    async def body():
        async with App(Counter, store=url, limits=LIMITS):
            with pytest.raises(OtherClusterError):
                await App(Other, store=url, limits=LIMITS).start(place=place)
            assert await Counter.at("a").hit() == 1

    asyncio.run(body())


def batch(key, version=1):
    return Batch([ActorWrite(COUNTER, key, b'{"count": 1}', version)], [], 1_000)


def test_a_store_that_is_no_member_commits_nothing_beside_members():
    url = fresh_database()

    async def body():
        async with App(Counter, store=url, limits=LIMITS):
            store = PostgresStore(url)
            await store.open([ActorSchema(COUNTER)])
            with pytest.raises(FencedError, match="of which this process is no member"):
                await store.commit(batch("a"))
            await store.close()

    asyncio.run(body())


def test_a_store_that_was_alone_is_fenced_when_a_member_comes():
    url = fresh_database()

    async def body():
        store = PostgresStore(url)
        await store.open([ActorSchema(COUNTER)])
        await store.commit(batch("a"))
        async with App(Counter, store=url, limits=LIMITS):
            with pytest.raises(FencedError):
                await store.commit(batch("b"))
            assert await Counter.at("a").hit() == 2
            assert await Counter.at("b").hit() == 1
        await store.close()

    asyncio.run(body())
