"""Links that keep what is sent on them, for tests of what stands at their ends."""

from types import SimpleNamespace

from perdure import Actor, read
from perdure.actor.methods import actor_type_of
from perdure.base.shards import SHARDS
from perdure.cluster.shard_map import ShardMap
from perdure.store.registry import NOBODY, Member


class Counter(Actor):
    count: int = 0

    async def hit(self) -> int:
        self.count += 1
        return self.count

    @read
    async def view(self) -> int:
        return self.count


COUNTER = actor_type_of(Counter)


class FakeLink:
    """One end; what it refuses to send is the test's to say."""

    def __init__(self, process="peer", refuses=None):
        self.peer = SimpleNamespace(process=process)
        self.is_open = True
        self.sent = []
        self.refuses = refuses or (lambda _frame: None)
        self.closed_with = []

    def send(self, frame):
        if not self.is_open:
            return
        error = self.refuses(frame)
        if error is not None:
            raise error
        self.sent.append(frame)

    def close(self, error=None):
        self.is_open = False
        self.closed_with.append(error)

    def take(self):
        """What was sent since the last time."""
        sent, self.sent = self.sent, []
        return sent


class FakeLinks:
    """The open links, by incarnation."""

    def __init__(self, **links):
        self.open = dict(links)
        self.cut_off = set()

    def is_cut_off(self, incarnation):
        return incarnation in self.cut_off

    def link_to(self, incarnation, _address):
        return self.open.get(incarnation)


def map_of(version, owner, *others):
    """A map where one member owns everything; NOBODY: nobody does."""
    members = {one: Member(one, f"m{one}", f"tcp:h:{one}", "1") for one in {owner, *others}}
    members.pop(NOBODY, None)
    return ShardMap(version, members, (owner,) * SHARDS)
