"""The ownership log: who has committed what, written down out of reach of what is tested.

It holds two things against every commit. The versions of an actor are one chain: each rises by one,
so no commit rests on another that it does not know. And who commits is who has the right to, as the
registry knows at that moment: two may think that they own an actor, only one may commit.
"""

Place = tuple[str, str]
"""An actor's type and key."""

Known = tuple[dict[Place, int], dict[Place, int], dict[int, int]]
"""Versions and writers of actors, and by whom each message was taken."""


class OwnershipLog:
    """What was committed, and what of it is wrong."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.commits = 0
        self.moves = 0  # commits of an actor by another than the last time
        self._versions: dict[Place, int] = {}
        self._owners: dict[Place, int] = {}
        self._taken: dict[int, int] = {}  # message: by whom

    def committed(
        self, at_s: float, place: Place, version: int | None, owner: int, entitled: int
    ) -> None:
        """An actor was written.

        Args:
            version: that it has now; None: it is gone.
            owner: who has written it.
            entitled: who owned it at that moment.
        """
        self.commits += 1
        before = self._versions.get(place, 0)
        if version is not None and version != before + 1:
            self._note(at_s, place, f"became version {version} after {before}")
        self._versions[place] = version or 0
        self.moves += self._owners.get(place, owner) != owner
        self._owners[place] = owner
        if owner != entitled:
            self._note(at_s, place, f"was written by {owner}, but {entitled} owns it")

    def took(self, at_s: float, place: Place, message: int, owner: int, entitled: int) -> None:
        """A message was taken by the actor it is for."""
        if message in self._taken:
            self._note(at_s, place, f"has taken message {message} twice")
        self._taken[message] = owner
        if owner != entitled:
            self._note(at_s, place, f"took a message at {owner}, but {entitled} owns it")

    def known(self) -> Known:
        """What was committed so far, for `set_back`."""
        return dict(self._versions), dict(self._owners), dict(self._taken)

    def set_back(self, known: Known) -> None:
        """The database has forgotten all that came after that."""
        self._versions, self._owners, self._taken = known

    def _note(self, at_s: float, place: Place, what: str) -> None:
        self.wrong.append(f"{place[0]}/{place[1]} {what} ({at_s:.4f} s)")
