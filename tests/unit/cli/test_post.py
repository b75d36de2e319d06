"""Posts and roll-outs, with processes that do what the test says."""

import signal
import time

import pytest

from perdure.cli import rollout
from perdure.cli.post import Post
from perdure.cli.restarts import PAUSE_MAX_S
from perdure.cli.rollout import NotStartedError, roll_out

TERM, HUP = signal.SIGTERM, signal.SIGHUP


class Puppet:
    """A process that gets only as far as the test lets it, and as it may."""

    def __init__(self) -> None:
        self.place = None
        self.began_s = time.monotonic()
        self.is_standing_by = self.is_ready = self.is_told_to_leave = False
        self.may_go = False
        self.told: list[signal.Signals] = []
        self.code: int | None = None

    def hear(self) -> None:
        pass

    def go(self) -> None:
        self.may_go |= self.is_standing_by

    def serve(self) -> None:
        assert self.may_go, "it may not begin yet"
        self.is_ready = True

    def tell_to_leave(self, number: signal.Signals) -> None:
        self.is_told_to_leave = True
        self.told.append(number)

    def kill(self) -> None:
        self.is_told_to_leave = True
        self.code = -signal.SIGKILL

    def exit_code(self) -> int | None:
        return self.code

    def ran_s(self) -> float:
        return 10.0


class Stage:
    """Posts, and every puppet that was started, in order."""

    def __init__(self, *names: str, only_one: bool = False) -> None:
        self.puppets: list[Puppet] = []
        self.posts = [Post(name, number, self._start, only_one=only_one) for number, name in
                      enumerate(names, start=1)]  # fmt: skip

    def _start(self, _post: Post) -> Puppet:
        self.puppets.append(Puppet())
        return self.puppets[-1]

    def turn(self) -> None:
        """One round of what a supervisor does."""
        for post in self.posts:
            list(post.reap())
            post.hear()

    def serving(self) -> "Stage":
        for post in self.posts:
            post.start()
            post.child.is_standing_by = True
            post.hear()
            post.child.serve()
            post.hear()
        return self


def test_it_is_told_to_go_once_it_stands_by() -> None:
    stage = Stage("web")
    (post,) = stage.posts
    post.start()
    (puppet,) = stage.puppets
    post.hear()
    assert not puppet.may_go
    assert not post.was_loaded
    puppet.is_standing_by = True
    post.hear()
    assert puppet.may_go
    assert post.was_loaded
    assert not post.was_ready
    puppet.serve()
    post.hear()
    assert post.was_ready
    assert post.is_ready
    assert post.is_settled


def test_a_death_leaves_the_post_vacant_until_the_pause_is_over() -> None:
    stage = Stage("web").serving()
    (post,) = stage.posts
    for pause_s in (0.0, 0.0):  # it ran well each time
        post.child.code = -9
        ((_, end),) = list(post.reap())
        assert (end.code, end.pause_s, end.has_given_up) == (-9, pause_s, False)
        assert post.child is None
        assert post.due_in_s() == 0.0
        stage.serving()
    post.child.code = 78
    ((_, end),) = list(post.reap())
    assert end.pause_s is None
    assert post.retry_later() == PAUSE_MAX_S
    assert PAUSE_MAX_S - 1 < post.due_in_s() <= PAUSE_MAX_S


def test_a_roll_out_takes_a_new_process_before_it_lets_the_old_one_go() -> None:
    stage = Stage("web", "web").serving()
    steps = roll_out(stage.posts)
    for number, post in enumerate(stage.posts):
        old = stage.puppets[number]
        next(steps)
        new = stage.puppets[2 + number]
        assert len(stage.puppets) == 3 + number, "one after the other"
        new.is_standing_by = True
        stage.turn()
        next(steps)
        assert old.told == []
        new.serve()
        stage.turn()
        next(steps)
        assert old.told == [HUP]
        assert post.child is new
        old.code = 0
        stage.turn()
    assert next(steps, "over") == "over"
    assert [post.child for post in stage.posts] == stage.puppets[2:]


def test_where_only_one_may_own_it_the_old_one_leaves_before_the_new_one_goes() -> None:
    stage = Stage("state", only_one=True).serving()
    steps = roll_out(stage.posts)
    next(steps)
    old, new = stage.puppets
    stage.turn()
    next(steps)
    assert old.told == []
    new.is_standing_by = True
    stage.turn()
    next(steps)
    assert old.told == [HUP]
    stage.turn()
    next(steps)
    assert not new.may_go
    old.code = 0
    stage.turn()
    next(steps)
    assert new.may_go
    new.serve()
    assert next(steps, "over") == "over"
    assert stage.posts[0].child is new


@pytest.mark.parametrize("only_one", [False, True])
def test_a_successor_that_dies_ends_the_roll_out_and_the_old_ones_stay(only_one: bool) -> None:
    stage = Stage("web", "web", only_one=only_one).serving()
    steps = roll_out(stage.posts)
    next(steps)
    stage.puppets[2].code = 78
    stage.turn()
    with pytest.raises(NotStartedError, match=r"web 1 did not start \(exit code 78\)"):
        next(steps)
    assert [post.child for post in stage.posts] == stage.puppets[:2]
    assert not any(puppet.told for puppet in stage.puppets[:2])


def test_a_successor_that_dies_once_it_has_the_post_ends_the_roll_out() -> None:
    stage = Stage("state", "state", only_one=True).serving()
    steps = roll_out(stage.posts)
    next(steps)
    stage.puppets[2].is_standing_by = True
    next(steps)
    stage.puppets[0].code = 0
    stage.turn()
    stage.puppets[2].code = 65
    stage.turn()
    stage.posts[0].start()  # as the supervisor does, at once
    with pytest.raises(NotStartedError, match=r"state 1 did not last \(exit code 65\)"):
        next(steps)
    assert stage.posts[1].child is stage.puppets[1]


def test_a_successor_that_is_never_ready_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage("web").serving()
    steps = roll_out(stage.posts)
    next(steps)
    old, new = stage.puppets
    stage.turn()
    next(steps)
    monkeypatch.setattr(rollout, "START_MAX_S", -1.0)
    with pytest.raises(NotStartedError, match="web 1 was not ready after"):
        next(steps)
    assert new.code == -signal.SIGKILL
    stage.turn()
    assert stage.posts[0].processes() == [old]


def test_who_does_not_leave_in_time_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "LEAVE_MAX_S", -1.0)
    stage = Stage("state", only_one=True).serving()
    steps = roll_out(stage.posts)
    next(steps)
    old, new = stage.puppets
    new.is_standing_by = True
    next(steps)
    assert old.code == -signal.SIGKILL
    stage.turn()
    new.serve()
    assert next(steps, "over") == "over"


@pytest.mark.parametrize("serves", [True, False])
def test_a_successor_that_the_system_does_not_allow_ends_the_roll_out(serves: bool) -> None:
    stage = Stage("web").serving()
    (post,) = stage.posts
    (old,) = stage.puppets
    old.is_ready = serves

    def refused(_post: Post) -> Puppet:
        raise OSError(11, "Resource temporarily unavailable")

    post._start = refused
    with pytest.raises(NotStartedError, match=r"web 1 did not start \(Resource temporarily"):
        next(roll_out(stage.posts))
    assert post.processes() == [old]
    assert old.code is None


def test_a_successor_takes_over_at_once_when_the_old_one_dies() -> None:
    stage = Stage("state", only_one=True).serving()
    (post,) = stage.posts
    steps = roll_out(stage.posts)
    next(steps)
    old, new = stage.puppets
    old.code = -9
    stage.turn()
    assert post.child is new
    assert post.successor is None
    next(steps)
    new.is_standing_by = True
    stage.turn()
    new.serve()
    assert next(steps, "over") == "over"
    assert len(stage.puppets) == 2, "nobody else was started"


def test_who_does_not_serve_yet_is_replaced_at_once() -> None:
    stage = Stage("web")
    (post,) = stage.posts
    post.start()
    steps = roll_out(stage.posts)
    next(steps)
    slow, new = stage.puppets
    assert slow.code == -signal.SIGKILL
    stage.turn()
    new.is_standing_by = True
    stage.turn()
    new.serve()
    assert next(steps, "over") == "over"
    assert post.processes() == [new]


def test_a_vacant_post_is_filled_by_a_roll_out() -> None:
    stage = Stage("web").serving()
    (post,) = stage.posts
    post.child.code = -9
    stage.turn()
    steps = roll_out(stage.posts)
    next(steps)
    assert post.child is stage.puppets[1]
    stage.turn()
    post.child.is_standing_by = True
    stage.turn()
    post.child.serve()
    assert next(steps, "over") == "over"
