"""The shard map, on the wire and as it follows views."""

import msgspec
import pytest

from perdure.base.shards import SHARDS, shard_of
from perdure.cluster.frames import Map
from perdure.cluster.shard_map import EMPTY, ShardMap, from_frame, only, to_frame
from perdure.store.registry import NOBODY, Member, View

MEMBERS = {number: Member(number, f"m{number}", f"tcp:h:{number}", "1") for number in (3, 7)}
OWNERS = tuple((3, 7, NOBODY)[shard % 3] for shard in range(SHARDS))
MAP = ShardMap(5, MEMBERS, OWNERS)


def over_the_wire(frame):
    return msgspec.msgpack.decode(msgspec.msgpack.encode(frame), type=Map)


def test_a_map_is_the_same_at_the_other_end():
    assert from_frame(over_the_wire(to_frame(MAP))) == MAP
    assert from_frame(over_the_wire(to_frame(EMPTY))) == EMPTY


def test_members_of_a_newer_release_may_have_more_fields():
    frame = over_the_wire(to_frame(MAP))
    frame.members = [[*values, "new", 1] for values in frame.members]
    assert from_frame(frame) == MAP


def test_members_of_an_older_release_may_have_fewer_fields():
    frame = over_the_wire(to_frame(MAP))
    frame.members = [values[:4] for values in frame.members]
    assert from_frame(frame) == MAP


@pytest.mark.parametrize(
    "spoil",
    [
        {"owners": b"\x00\x01"},
        {"owners": b"\x00\x09" * SHARDS},
        {"members": [1]},
        {"members": [["x", "y", "z", "1"]]},
        {"members": [[1]]},
    ],
)
def test_what_is_no_map_is_refused(spoil):
    frame = msgspec.structs.replace(to_frame(MAP), **spoil)
    with pytest.raises(ValueError, match="not a shard map"):
        from_frame(frame)


def test_owners_stay_where_a_view_leaves_them_out():
    view = View(5, [MEMBERS[3]], None)
    after = MAP.followed_by(view)
    assert after.owners == OWNERS
    assert list(after.members) == [3]


def test_an_older_view_changes_nothing():
    assert MAP.followed_by(View(4, [], (NOBODY,) * SHARDS)) is MAP


def test_who_owns_a_key_and_what_somebody_owns():
    key = next(str(n) for n in range(100) if shard_of(str(n)) % 3 == 1)
    assert MAP.owner_of(key) == MEMBERS[7]
    nobody_has = next(str(n) for n in range(100) if shard_of(str(n)) % 3 == 2)
    assert MAP.owner_of(nobody_has) is None
    assert MAP.shards_of(3) == frozenset(range(0, SHARDS, 3))


def test_a_sole_owner_owns_everything():
    assert only(MEMBERS[3]).shards_of(3) == frozenset(range(SHARDS))
