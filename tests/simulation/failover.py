"""Scenario `failover`: the cluster, and a database whose replica lags when it takes over.

What was acknowledged shortly before may be lost then, and for about a lease two owners may both
answer. What must hold even so: what is in the store belongs together (no half of a transaction, no
cent more or less), versions of an actor are one chain, and whatever is acknowledged after everybody
has noticed stays.
"""

from tests.simulation.cluster import FAULTS, Cluster, Fault
from tests.simulation.world import World

NOTICED_TTLS = 2.0


class Failover(Cluster):
    """See the module."""

    name = "failover"
    letters = "BX"  # what they check can be said in spite of lost commits

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._kinds = ["failover", *self._kinds]
        world.unsure_s = NOTICED_TTLS * self.ttl_s

    async def fail_over(self) -> None:
        """Set the database back by a part of a second, or a few."""
        set_back = self.world.database.remember()
        await self.pause(self.random.choice((0.02, 0.1, 0.5, 2.0)) * self.random.uniform(0.5, 1.5))
        self.world.trace.fault("database set back")
        set_back()
        self.world.set_back_s = self.world.loop.now_s

    faults: dict[str, Fault] = {**FAULTS, "failover": fail_over}  # type: ignore[dict-item]

    def check(self) -> list[str]:
        """What is wrong in what the database has seen, but for who owned what in between."""
        return [one for one in super().check() if " owns it" not in one]
