"""What live views of this process watch, wherever the actors are: here, or over a link.

A watch follows its actor: whenever the owner changes, or the link to it, it is set up anew there,
and its watcher is told to look, since a commit may have passed in between.
"""

from collections.abc import Callable

from perdure.actor.host import Watcher
from perdure.actor.methods import ActorType
from perdure.cluster import shard_map
from perdure.cluster.frames import Changed
from perdure.cluster.frames import Watch as WatchFrame
from perdure.cluster.link import Link
from perdure.cluster.shard_map import ShardMap
from perdure.runtime.forwarder import Links
from perdure.runtime.live import Watch
from perdure.store.registry import Member

_Place = tuple[ActorType, str]


class _Watched:
    """One actor that is watched, and where."""

    __slots__ = ("is_here", "link", "watcher")

    def __init__(self, watcher: Watcher, *, is_here: bool) -> None:
        self.watcher = watcher
        self.is_here = is_here
        self.link: Link | None = None  # None: here, or nowhere yet


class Watches:
    """The watches of one process on actors of others, and on its own."""

    def __init__(self, links: Links, here: Watch | None, incarnation: Callable[[], int]) -> None:
        self._links = links
        self._here = here
        self._incarnation = incarnation
        self._map = shard_map.EMPTY
        self._watched: dict[_Place, _Watched] = {}
        self._by_name: dict[tuple[str, str], _Watched] = {}

    def watch(self, actor_type: ActorType, key: str, watcher: Watcher, *, on: bool) -> None:
        """Tell `watcher` of every commit of this actor; or stop."""
        place, name = (actor_type, key), (actor_type.name, key)
        if self._here is not None:
            self._here(actor_type, key, watcher, on=on)  # a shard may come here without notice
        if on:
            is_here = self._is_here(self._map.owner_of(key))
            watched = _Watched(watcher, is_here=is_here)
            self._watched[place] = self._by_name[name] = watched
            self._aim(place, watched)
            return
        watched = self._watched.pop(place)
        del self._by_name[name]
        if watched.link is not None and watched.link.is_open:
            watched.link.send(WatchFrame(*name, on=False))

    def take_map(self, newer: ShardMap) -> None:
        """Go by this map from now on."""
        self._map = newer
        self.aim_all()

    def aim_all(self) -> None:
        """There may be another owner, or another link to it."""
        for place, watched in self._watched.items():
            self._aim(place, watched)

    def closed(self, link: Link) -> None:
        """A link is lost."""
        for watched in self._watched.values():
            if watched.link is link:
                watched.link = None
        self.aim_all()

    def changed(self, frame: Changed) -> None:
        """An owner says that an actor was committed."""
        watched = self._by_name.get((frame.actor_type, frame.key))
        if watched is not None:
            watched.watcher.changed()

    def _aim(self, place: _Place, watched: _Watched) -> None:
        actor_type, key = place
        owner = self._map.owner_of(key)
        is_here, link = self._is_here(owner), None
        if owner is not None and not is_here:
            link = self._links.link_to(owner.incarnation, owner.address)
        if link is watched.link and is_here == watched.is_here:
            return
        before, watched.link, watched.is_here = watched.link, link, is_here
        if before is not None and before.is_open:
            before.send(WatchFrame(actor_type.name, key, on=False))
        if link is not None:
            link.send(WatchFrame(actor_type.name, key))
        watched.watcher.changed()

    def _is_here(self, owner: Member | None) -> bool:
        return owner is not None and owner.incarnation == self._incarnation()
