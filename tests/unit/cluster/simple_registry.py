"""A registry in memory, for the tests of membership alone."""

from perdure.base.errors import FencedError
from perdure.base.shards import SHARDS
from perdure.store.registry import NOBODY, Member, View


class SimpleRegistry:
    def __init__(self, clock):
        self.clock = clock
        self.jumped_s = 0.0
        self.version = 1
        self.members = {}
        self.ends_s = {}
        self.owners = [NOBODY] * SHARDS
        self.last = 0
        self.sessions = set()  # incarnations that the database has a connection from

    def now_s(self):
        return self.clock.monotonic_s() + self.jumped_s

    async def join(self, name, address, release, lease_ttl_s):
        self.last += 1
        self.members[self.last] = Member(self.last, name, address, release)
        self.ends_s[self.last] = self.now_s() + lease_ttl_s
        self.sessions.add(self.last)
        self.version += 1
        return self.last

    async def renew(self, incarnation, lease_ttl_s, state, known_version):
        member = self._member(incarnation)
        self.ends_s[incarnation] = self.now_s() + lease_ttl_s
        if member.state != state:
            self.members[incarnation] = Member(
                incarnation, member.name, member.address, member.release, state
            )
            self.version += 1
        return await self.view(known_version)

    async def view(self, known_version):
        members = [
            Member(
                one.incarnation,
                one.name,
                one.address,
                one.release,
                one.state,
                int((self.ends_s[one.incarnation] - self.now_s()) * 1000),
            )
            for one in self.members.values()
        ]
        owners = None if known_version == self.version else tuple(self.owners)
        return View(self.version, members, owners)

    async def take_over(self, victim, heirs, *, seen_dead):
        if victim == NOBODY:
            if NOBODY not in self.owners:
                return None
        elif victim not in self.members:
            return None
        elif self.ends_s[victim] >= self.now_s() and (not seen_dead or victim in self.sessions):
            return None
        else:
            del self.members[victim]
        for shard, owner in enumerate(self.owners):
            if owner == victim:
                heir = heirs.get(shard, NOBODY)
                self.owners[shard] = heir if heir in self.members else NOBODY
        self.version += 1
        return await self.view(0)

    async def hand_over(self, incarnation, heirs):
        self._member(incarnation)
        for shard, heir in heirs.items():
            if self.owners[shard] == incarnation and heir in self.members:
                self.owners[shard] = heir
        self.version += 1
        return await self.view(0)

    async def leave(self, incarnation):
        if self.members.pop(incarnation, None) is not None:
            self.owners = [NOBODY if one == incarnation else one for one in self.owners]
            self.version += 1

    def _member(self, incarnation):
        if incarnation not in self.members:
            raise FencedError("this is no member any more")
        return self.members[incarnation]
