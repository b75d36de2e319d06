"""Watches follow their actors over links and owners, and miss no commit on the way."""

from perdure import Actor
from perdure.actor.methods import actor_type_of
from perdure.cluster.frames import Changed, Watch
from perdure.runtime.watches import Watches
from perdure.store.registry import NOBODY

from .wire import FakeLink, FakeLinks, map_of


class Board(Actor):
    count: int = 0


BOARD = actor_type_of(Board)
ME = 9


class Watcher:
    def __init__(self):
        self.looks = 0

    def changed(self):
        self.looks += 1

    def take(self):
        looks, self.looks = self.looks, 0
        return looks


class Watching:
    """A process with links to members 1 and 2, which watches one actor."""

    def __init__(self, owner=1):
        self.one, self.two = FakeLink(), FakeLink()
        self.links = FakeLinks()
        self.links.open = {1: self.one, 2: self.two}
        self.here = []
        self.watches = Watches(self.links, self._watch_here, lambda: ME)
        self.watches.take_map(map_of(1, owner))
        self.watcher = Watcher()
        self.watches.watch(BOARD, "a", self.watcher, on=True)

    def _watch_here(self, _actor_type, key, _watcher, *, on):
        self.here.append((key, on))

    def move_to(self, owner, version=2):
        self.watches.take_map(map_of(version, owner))


def test_the_owner_is_asked_to_tell_and_the_watcher_told():
    watching = Watching()
    assert watching.one.take() == [Watch(BOARD.name, "a")]
    watching.watcher.take()
    watching.watches.changed(Changed(BOARD.name, "a"))
    watching.watches.changed(Changed(BOARD.name, "another"))
    assert watching.watcher.take() == 1


def test_a_watch_moves_with_its_actor_and_looks_once():
    watching = Watching()
    watching.one.take()
    watching.watcher.take()
    watching.move_to(2)
    assert watching.one.take() == [Watch(BOARD.name, "a", on=False)]
    assert watching.two.take() == [Watch(BOARD.name, "a")]
    assert watching.watcher.take() == 1
    watching.move_to(2, version=3)
    assert watching.two.take() == []
    assert watching.watcher.take() == 0


def test_a_watch_is_set_up_anew_on_the_next_link_and_looks():
    watching = Watching()
    watching.watcher.take()
    lost = watching.links.open.pop(1)
    lost.is_open = False
    watching.watches.closed(lost)
    again = watching.links.open[1] = FakeLink()
    watching.watches.aim_all()
    assert again.take() == [Watch(BOARD.name, "a")]
    assert watching.watcher.take() >= 1


def test_a_lost_link_of_others_changes_nothing():
    watching = Watching()
    watching.one.take()
    watching.watcher.take()
    watching.watches.closed(watching.two)
    assert watching.one.take() == []
    assert watching.watcher.take() == 0


def test_nothing_is_missed_when_the_actor_comes_here_after_its_link_was_lost():
    watching = Watching()
    lost = watching.links.open.pop(1)
    lost.is_open = False
    watching.watches.closed(lost)
    watching.watcher.take()
    watching.move_to(ME)  # a commit of its owner may have come between
    assert watching.watcher.take() == 1
    watching.move_to(ME, version=3)
    assert watching.watcher.take() == 0


def test_nothing_is_missed_when_the_actor_leaves_for_where_no_link_is_yet():
    watching = Watching(owner=ME)
    watching.watcher.take()
    watching.links.open.pop(2)
    watching.move_to(2)
    watching.watcher.take()
    later = watching.links.open[2] = FakeLink()
    watching.watches.aim_all()
    assert later.take() == [Watch(BOARD.name, "a")]
    assert watching.watcher.take() == 1


def test_an_actor_without_an_owner_is_watched_as_soon_as_it_has_one():
    watching = Watching(owner=NOBODY)
    assert watching.one.take() == []
    watching.move_to(1)
    assert watching.one.take() == [Watch(BOARD.name, "a")]
    assert watching.watcher.take() == 1


def test_a_watch_that_ends_ends_everywhere():
    watching = Watching()
    watching.one.take()
    watching.watches.watch(BOARD, "a", watching.watcher, on=False)
    assert watching.one.take() == [Watch(BOARD.name, "a", on=False)]
    assert watching.here == [("a", True), ("a", False)]
    watching.watcher.take()
    watching.move_to(2)
    watching.watches.changed(Changed(BOARD.name, "a"))
    assert watching.two.take() == []
    assert watching.watcher.take() == 0
