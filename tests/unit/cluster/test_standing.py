"""Views that come late."""

from perdure.cluster.standing import Standing
from perdure.store.registry import NOBODY, Member, View
from perdure.testing.clock import VirtualClock

from .members import ALL, SHARDS, TTL_S, Cluster, Process

ME, OTHER = 1, 2
MEMBERS = [Member(ME, "me", "tcp:127.0.0.1:1", "0"), Member(OTHER, "other", "tcp:127.0.0.1:2", "0")]


def test_a_view_that_is_older_than_the_map_changes_nothing():
    owner = Process(Cluster(), "me", "tcp:127.0.0.1:1")
    owner.gained = owner.open.update
    standing = Standing(owner, VirtualClock(), TTL_S)
    standing.joined(ME)
    asked = standing.asks()
    standing.saw(View(3, MEMBERS, (ME,) * SHARDS))
    standing.saw(View(4, MEMBERS, (OTHER,) * SHARDS))
    standing.renewed(asked, View(3, MEMBERS, (ME,) * SHARDS))
    standing.saw(View(2, MEMBERS, (NOBODY,) * SHARDS))
    assert standing.map.version == 4
    assert standing.map.shards_of(OTHER) == ALL
    assert not owner.open
    assert standing.holds_lease
