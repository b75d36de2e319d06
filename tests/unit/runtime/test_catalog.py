"""The awake actors of some shards are found, and no others."""

import random

from perdure import Actor, App, read
from perdure.actor.methods import actor_type_of
from perdure.base.errors import FencedError
from perdure.base.shards import SHARDS, shard_of
from perdure.runtime.catalog import Catalog
from perdure.testing import async_test, running
from perdure.testing.scripted_store import ScriptedStore


class Dot(Actor):
    hits: int = 0

    async def hit(self) -> int:
        self.hits += 1
        return self.hits

    @read
    async def view(self) -> int:
        return self.hits


def catalog_of(app: App) -> Catalog:
    assert app._node is not None
    return app._node._catalog


def check(catalog: Catalog) -> None:
    assert len(catalog.within(range(SHARDS))) == len(catalog)
    assert set(catalog.within(range(SHARDS))) == set(catalog)
    for shards in (range(SHARDS // 2), {shard_of("d3")}, set()):
        assert set(catalog.within(shards)) == {one for one in catalog if one.shard in shards}


@async_test
async def test_they_are_found_whatever_woke_slept_died_or_was_thrown_away() -> None:
    chance = random.Random(7)
    async with running(Dot) as app:
        catalog = catalog_of(app)
        for _ in range(60):
            for number in chance.sample(range(40), 10):
                await Dot.at(f"d{number}").hit()
            check(catalog)
            shard = shard_of(f"d{chance.randrange(40)}")
            what = chance.randrange(4)
            if what == 0:
                catalog.throw_away(catalog.within({shard}), FencedError("moved"))
                assert catalog.within({shard}) == []
            elif what == 1:
                catalog.put_idle_to_sleep()
            elif what == 2:
                catalog.shrink_to(5)
            else:
                for one in catalog.within({shard}):
                    one.kill(FencedError("fell"))
            check(catalog)
        catalog.throw_away(catalog.within(range(SHARDS)), FencedError("moved"))
        assert catalog._by_shard == {}


@async_test
async def test_an_actor_in_the_place_of_a_dead_one_is_found_alone() -> None:
    store = ScriptedStore()
    async with running(Dot, store=store) as app:
        catalog = catalog_of(app)
        await Dot.at("a").view()
        [dead] = catalog.within({shard_of("a")})
        dead.kill(FencedError("fell"))
        again = catalog.activation(actor_type_of(Dot), "a")  # in the place of the dead one
        assert catalog.within({shard_of("a")}) == [again]
