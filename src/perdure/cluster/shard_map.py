"""The shard map: who owns which shard, as one process knows it.

It may be out of date. Nothing rests on it but where a call is sent first: who gets a call for what
it does not own says so, and what commits is decided by the fence.
"""

import struct
from collections.abc import Mapping, Sequence

import msgspec

from perdure.base.shards import SHARDS, shard_of
from perdure.cluster.frames import Map
from perdure.store.registry import NOBODY, Member, View

_NO_PLACE = 0xFFFF
_PLACES = struct.Struct(f">{SHARDS}H")


class ShardMap(msgspec.Struct, frozen=True):
    """All members and all owners, of one version."""

    version: int
    members: Mapping[int, Member]  # by incarnation
    owners: Sequence[int]  # incarnations, by shard

    def owner_of(self, key: str) -> Member | None:
        """The member that owns actors with this key; None: nobody just now."""
        return self.members.get(self.owners[shard_of(key)])

    def shards_of(self, incarnation: int) -> frozenset[int]:
        """All shards that a member owns."""
        return frozenset([shard for shard, one in enumerate(self.owners) if one == incarnation])

    def followed_by(self, view: View) -> "ShardMap":
        """The map as of a newer view; this one if it is not newer."""
        if view.version < self.version:
            return self
        members = {member.incarnation: member for member in view.members}
        owners = self.owners if view.owners is None else tuple(view.owners)
        return ShardMap(view.version, members, owners)


EMPTY = ShardMap(0, {}, (NOBODY,) * SHARDS)


def only(member: Member) -> ShardMap:
    """The map of a cluster where one member owns everything, for good."""
    return ShardMap(1, {member.incarnation: member}, (member.incarnation,) * SHARDS)


def to_frame(shard_map: ShardMap) -> Map:
    """The map as it is sent to others."""
    members = list(shard_map.members.values())
    places = dict.fromkeys(shard_map.owners, _NO_PLACE)
    places.update((member.incarnation, place) for place, member in enumerate(members))
    owners = _PLACES.pack(*map(places.__getitem__, shard_map.owners))
    return Map(shard_map.version, [msgspec.structs.astuple(one) for one in members], owners)


def from_frame(frame: Map) -> ShardMap:
    """The map that another process has sent; raises ValueError if it is none."""
    try:
        names = Member.__struct_fields__  # a newer release may know more of them
        members = [
            msgspec.convert(dict(zip(names, values, strict=False)), Member)
            for values in frame.members
        ]
        incarnations = {place: member.incarnation for place, member in enumerate(members)}
        incarnations[_NO_PLACE] = NOBODY
        owners = tuple(map(incarnations.__getitem__, _PLACES.unpack(frame.owners)))
    except (TypeError, KeyError, struct.error, msgspec.ValidationError) as error:
        raise ValueError(f"not a shard map: {error}") from None
    return ShardMap(frame.version, {one.incarnation: one for one in members}, owners)
