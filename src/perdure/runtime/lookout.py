"""The lookout: a cluster as it is seen by a process that owns nothing there.

It keeps the shard map up to date, from the registry once a second and sooner when the members tell
of changes, and the links to them. Where the store has no registry there is one owner, at a known
address.
"""

import asyncio
import logging
from contextlib import suppress

from perdure.base.clock import Clock
from perdure.base.errors import OtherClusterError, StoreError
from perdure.base.limits import Limits
from perdure.base.shards import Cell
from perdure.cluster import shard_map
from perdure.cluster.network import Network
from perdure.cluster.reach import lease_ends_s
from perdure.cluster.waits import Wake
from perdure.runtime.place import Place
from perdure.runtime.station import RELEASE, SOLE_INCARNATION, Station
from perdure.store.registry import Member, Registry

log = logging.getLogger("perdure.lookout")

_LOOK_EVERY_S = 1.0


class Lookout:
    """What one process knows of one cell, and its way there."""

    def __init__(
        self,
        registry: Registry | None,
        cell: Cell,
        place: Place,
        clock: Clock,
        limits: Limits,
        *,
        network: Network | None = None,
    ) -> None:
        self._registry = registry
        self._cell = cell
        self._clock = clock
        self.station = Station(
            place,
            clock,
            limits,
            behind=self._behind,
            died=lambda _incarnation: None,
            network=network,
        )
        self._is_open = False
        self._wake = Wake(clock)
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> StoreError | None:
        """Begin to look; returns why nothing is seen yet, which may pass.

        Raises OtherClusterError where it will not.
        """
        self.station.start()
        if self._registry is None:
            owner = Member(SOLE_INCARNATION, "state", self.station.place.state_at or "", RELEASE)
            self.station.take_map(shard_map.only(owner), tell=False)
            return None
        trouble = None
        try:
            await self._look(self._registry)
        except OtherClusterError:
            raise
        except StoreError as error:
            trouble = error
        self._watcher = asyncio.create_task(self._keep_looking(self._registry), name="perdure-map")
        return trouble

    async def close(self) -> None:
        """Look no more, and close all links in order."""
        if self._watcher is not None:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
        await self.station.close()
        if self._registry is not None and self._is_open:
            await self._registry.close()

    def _behind(self, version: int) -> None:
        if version > self.station.map.version:
            self._wake.set()

    async def _keep_looking(self, registry: Registry) -> None:
        while True:
            await self._wake.wait(_LOOK_EVERY_S)
            try:
                await self._look(registry)
            except OtherClusterError as error:
                log.error("not the database of this cell", extra={"error": str(error)})
            except StoreError as error:  # the next look comes soon, and members tell of changes
                log.debug("map not read", extra={"error": str(error)})

    async def _look(self, registry: Registry) -> None:
        if not self._is_open:
            try:
                await registry.open()
                await registry.claim(self._cell)
            except BaseException:
                await registry.close()
                raise
            self._is_open = True
        known = self.station.map
        asked_at_s = self._clock.monotonic_s()
        view = await registry.view(known.version)
        self.station.links.saw_leases(lease_ends_s(view, asked_at_s))
        # older than what was known when it was asked: the database was set back, and it decides
        is_set_back = view.version < known.version
        newer = (shard_map.EMPTY if is_set_back else known).followed_by(view)
        if is_set_back or newer.version > self.station.map.version:
            self.station.take_map(newer, tell=False)
