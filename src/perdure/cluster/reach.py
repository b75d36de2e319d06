"""Who lives, and yet cannot be reached from here: a cut between machines that all see the database.

Nobody takes over from an owner that holds its lease, so calls for it would wait until their ends.
They are refused instead: another machine may reach it. But while an owner is dead, or is about to
be taken for dead, they must wait, since another has its actors in a moment: a failover shows no
errors. The rule that tells the two apart:

*A member is cut off from here* when all of this is so:

1. It has been dialled without success, since the last link to it was lost, for `_UNREACHED_S`. That
   is longer than the second after which TCP sends the first packet of a connection again.
2. It has renewed its lease `_MARGIN_S` or more after that dialling began. A process that died took
   its links along, so its last renewal is older than that; the margin is for a renewal that was
   under way to the database when its process died. A machine that fell silent is dialled again only
   when its link has been silent for as long as a lease lasts.
3. That lease is not over, by what was seen of it last. Who was cut off and died then is waited for
   as any other; and while the database is away, nobody is refused for what was so before.

All is measured by the clock of this process: when a lease ends is counted from before the registry
was asked, so a renewal is never taken for later than it was. It is taken for granted that all
processes use the same `lease_ttl_s`.
"""

import math
from collections.abc import Mapping

from perdure.store.registry import View

_UNREACHED_S = 1.2
_MARGIN_S = 0.5


def lease_ends_s(view: View, asked_at_s: float) -> dict[int, float]:
    """When the leases of members end, by the clock of who asked then; without those that are
    over."""
    return {
        one.incarnation: asked_at_s + one.lease_left_ms / 1000
        for one in view.members
        if one.lease_left_ms >= 0
    }


class Leases:
    """The leases of all members, as this process has seen them last."""

    def __init__(self, lease_ttl_s: float) -> None:
        self._ttl_s = lease_ttl_s
        self._ends_s: Mapping[int, float] = {}

    def saw(self, ends_s: Mapping[int, float]) -> None:
        """When they end, by the clock of this process."""
        self._ends_s = ends_s

    def shows_cut_off(self, incarnation: int, *, dialled_since_s: float, now_s: float) -> bool:
        """True if that member lives, but cannot be reached; see the module."""
        end_s = self._ends_s.get(incarnation, -math.inf)
        return (
            now_s - dialled_since_s >= _UNREACHED_S
            and end_s - self._ttl_s >= dialled_since_s + _MARGIN_S
            and now_s < end_s
        )
