"""From one state of HAProxy to the next, command by command."""

from hypothesis import given
from hypothesis import strategies as st

from perdure.balance.haproxy_slots import Slot, State, commands, followed_by
from perdure.balance.sources import Found, target_of

ADDRESSES = [f"10.0.0.{number}:80" for number in range(1, 6)]
SHARDS = 6
FOUND = st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=3, unique=True).flatmap(
    lambda names: st.tuples(
        st.just(names),
        st.sets(st.sampled_from(names)),
        st.lists(st.sampled_from([None, *names]), min_size=SHARDS, max_size=SHARDS),
    )
)


def found(names: list[str], draining: set[str], owners: list[str | None]) -> Found:
    return Found(tuple(map(target_of, names)), frozenset(draining), tuple(owners))


class Model:
    """What HAProxy does with commands."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self.states: dict[str, str] = {}
        self.map: dict[int, str] = {}

    def carry_out(self, command: str | tuple[str, ...]) -> None:
        if isinstance(command, tuple):
            entries = [line.split() for line in command]
            self.map = {int(shard): name for shard, name in entries}
            return
        words = command.split()
        backend, _, name = words[2].partition("/")
        if words[3] == "state":
            self.states[name] = words[4]
        elif words[3] == "addr" and backend == "owners":
            self.addresses[name] = f"{words[4]}:{words[6]}"

    def leads_to(self, shard: int) -> str | None:
        return self.addresses[self.map[shard]] if shard in self.map else None


@given(st.lists(FOUND, min_size=1, max_size=6))
def test_at_every_step_a_shard_leads_to_its_old_owner_its_new_one_or_nobody(steps) -> None:
    model, state, before = Model(), State((Slot(),) * 3), (None,) * SHARDS
    for step in steps:
        news = found(*step)
        after = followed_by(state, news)
        for command in commands(state, after, by_owner=True):
            model.carry_out(command)
            for shard in range(SHARDS):
                assert model.leads_to(shard) in (before[shard], news.owners[shard], None)
        assert tuple(model.leads_to(shard) for shard in range(SHARDS)) == news.owners
        serving = {model.addresses[name] for name, told in model.states.items() if told == "ready"}
        assert serving == {target.name for target in news.targets} - news.draining
        state, before = after, news.owners


def test_a_freed_slot_is_the_last_to_be_given_away_again() -> None:
    state = State((Slot(),) * 3)
    for names in (["a:1", "b:1"], ["b:1"], ["b:1", "c:1"]):
        state = followed_by(state, Found(tuple(map(target_of, names))))
    told = [slot.target.name if slot.target else None for slot in state.slots]
    assert told == [None, "b:1", "c:1"]


def test_nothing_is_said_when_nothing_changed_and_backends_keep_their_slots() -> None:
    first = followed_by(State((Slot(),) * 3), Found((target_of("a:1"), target_of("b:1"))))
    again = followed_by(first, Found((target_of("b:1"), target_of("a:1"))))
    assert commands(first, again, by_owner=True) == []


def test_those_for_whom_there_is_no_slot_are_left_out() -> None:
    targets = tuple(target_of(f"h{number}:1") for number in range(5))
    state = followed_by(State((Slot(),) * 2), Found(targets, owners=("h0:1", "h4:1")))
    assert [slot.target for slot in state.slots] == list(targets[:2])
    assert state.owners == (0, None)
