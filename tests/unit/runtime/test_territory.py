"""Which calls run here, which wait for a shard that is about to move, and which follow it."""

from types import SimpleNamespace

import pytest

from perdure.base.errors import OverloadedError
from perdure.base.shards import SHARDS, shard_of
from perdure.runtime.territory import Territory

SHARD = shard_of("a")


class Ground:
    def __init__(self, waiting_max=10):
        self.submitted = []
        self.territory = Territory(self._submit, waiting_max=waiting_max)

    def _submit(self, _actor_type, key, turn):
        self.submitted.append((key, turn, self.territory.has(key)))


def call(*, is_inner=False):
    turn = SimpleNamespace(is_inner=is_inner, errors=[])
    turn.fail = turn.errors.append
    return turn


def test_at_first_every_actor_lives_elsewhere():
    territory = Ground().territory
    assert not territory.has("a")
    assert not territory.admits("a", call())
    assert not territory.admits("a", call(is_inner=True))
    assert territory.owned == frozenset()


def test_an_open_shard_takes_calls():
    territory = Ground().territory
    territory.open([SHARD])
    assert territory.has("a")
    assert territory.admits("a", call())
    assert territory.owned == {SHARD}


def test_a_closing_shard_is_still_here_and_takes_only_what_others_wait_for():
    territory = Ground().territory
    territory.open([SHARD])
    territory.close([SHARD])
    assert territory.has("a")
    assert territory.owned == {SHARD}
    assert not territory.admits("a", call())
    assert territory.admits("a", call(is_inner=True))
    assert territory.opened([SHARD]) == set()
    assert territory.closing([SHARD, SHARD + 1]) == {SHARD}


def test_a_sealed_shard_is_still_here_and_takes_nothing():
    ground = Ground()
    territory = ground.territory
    territory.open([SHARD])
    territory.close([SHARD])
    territory.seal([SHARD])
    assert territory.has("a")
    assert territory.owned == {SHARD}
    assert not territory.admits("a", call(is_inner=True))
    turn = call(is_inner=True)
    territory.wait(None, "a", turn)
    assert ground.submitted == []
    territory.lose([SHARD])
    assert ground.submitted == [("a", turn, False)]


@pytest.mark.parametrize("comes_back", [True, False])
def test_calls_that_waited_run_in_order_where_the_shard_is_then(comes_back):
    ground = Ground()
    ground.territory.open([SHARD])
    ground.territory.close([SHARD])
    calls = [call() for _ in range(3)]
    for one in calls:
        ground.territory.wait(None, "a", one)
    assert ground.submitted == []
    if comes_back:
        ground.territory.open([SHARD])
    else:
        ground.territory.lose([SHARD])
    assert ground.submitted == [("a", one, comes_back) for one in calls]
    ground.territory.open([SHARD])
    assert len(ground.submitted) == 3


def test_calls_of_other_shards_go_on_waiting():
    ground = Ground()
    ground.territory.open(range(SHARDS))
    ground.territory.close(range(SHARDS))
    ground.territory.wait(None, "a", call())
    ground.territory.lose([one for one in range(SHARDS) if one != SHARD])
    assert ground.submitted == []
    assert ground.territory.owned == {SHARD}


def test_more_calls_than_may_wait_are_refused_and_room_comes_back():
    ground = Ground(waiting_max=2)
    ground.territory.open([SHARD])
    ground.territory.close([SHARD])
    calls = [call() for _ in range(3)]
    for one in calls:
        ground.territory.wait(None, "a", one)
    assert [len(one.errors) for one in calls] == [0, 0, 1]
    assert isinstance(calls[2].errors[0], OverloadedError)
    ground.territory.lose([SHARD])
    ground.territory.open([SHARD])
    ground.territory.close([SHARD])
    for one in calls[:2]:
        ground.territory.wait(None, "a", one)
    assert [len(one.errors) for one in calls] == [0, 0, 1]
