"""A simulation of many nodes on one PostgreSQL: how many calls/s until it is full.

Each node gathers the changes that arrive while its commit is under way, and then commits them
together; it has one commit under way at a time. A commit's statement goes through one of the
server's cores, then its WAL is flushed, together with all that waits for a flush by then, and then
the node has its answer. So the busier the server, the larger the commits, the cheaper each row.
"""

import heapq
import random
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum

_WARM_UP_S = 0.3
_MEASURED_S = 0.5
_FEW_PER_S = 1000.0
LATE_S = 0.05  # what 99 of 100 changes must be committed within


@dataclass(frozen=True)
class Server:
    """What the database has, and what a commit costs it."""

    cores: int = 32
    wal_bytes_per_s: float = 1e9  # that its disk takes, for ever
    flush_s: float = 0.0003  # one fsync
    network_s: float = 0.0002  # there and back
    commit_cpu_s: float = 0.00025
    row_cpu_s: float = 0.0000065
    commit_wal_bytes: float = 350.0
    row_wal_bytes: float = 340.0
    contention: float = 2.0  # how much dearer its CPU work is with all cores busy than with one
    background_cores: float = 0.0  # renewals and looks

    def cpu_s(self, rows: int) -> float:
        """What a commit of so many rows costs a core."""
        return self.contention * (self.commit_cpu_s + rows * self.row_cpu_s)


@dataclass
class Seen:
    """What came out for one load."""

    calls_per_s: float
    rows_per_s: float = 0.0
    commits_per_s: float = 0.0
    wal_bytes_per_s: float = 0.0
    cpu: float = 0.0  # share of its cores
    disk: float = 0.0  # share of its WAL bandwidth
    latencies_s: list[float] = field(default_factory=list)

    def latency_s(self, share: float) -> float:
        """Within which this share of the commits answered; counted from the change's arrival."""
        ordered = sorted(self.latencies_s)
        return ordered[int(share * (len(ordered) - 1))]


class _What(IntEnum):
    STEP, COMPUTED, FLUSHED, ANSWERED = range(4)


class Simulation:
    """One run. Arrivals are even: beside the size of a commit, their waves are small."""

    def __init__(self, server: Server, *, nodes: int, changes_per_s: float, seed: int = 4) -> None:
        self._server = server
        self._rate = changes_per_s / nodes  # of one node
        random_ = random.Random(seed)
        self._taken_until = [0.0] * nodes  # changes that arrived before this are in a commit
        self._events: list[tuple[float, int, int, int]] = []
        self._serial = 0
        for node in range(nodes):
            self._at(random_.random() / 100, _What.STEP, node)
        self._cores = max(server.cores - server.background_cores, 0.1)
        self._busy = 0
        self._for_core: deque[int] = deque()
        self._for_flush: list[int] = []
        self._flushing: list[int] = []
        self._rows = [0] * nodes
        self._since = [0.0] * nodes
        self.seen = Seen(0.0)

    def run(self) -> Seen:
        """Simulate, and return the second after warming up."""
        end_s = _WARM_UP_S + _MEASURED_S
        while self._events:
            now, _, what, node = heapq.heappop(self._events)
            if now > end_s:
                break
            [self._step, self._computed, self._flushed, self._answered][what](now, node)
        seen, server = self.seen, self._server
        seen.cpu = (
            seen.commits_per_s * server.cpu_s(0)
            + seen.rows_per_s * (server.cpu_s(1) - server.cpu_s(0))
        ) / self._cores
        seen.wal_bytes_per_s = (
            seen.commits_per_s * server.commit_wal_bytes + seen.rows_per_s * server.row_wal_bytes
        )
        seen.disk = seen.wal_bytes_per_s / server.wal_bytes_per_s
        return seen

    def _at(self, when_s: float, what: _What, node: int) -> None:
        self._serial += 1
        heapq.heappush(self._events, (when_s, self._serial, what, node))

    def _step(self, now: float, node: int) -> None:
        rows = int((now - self._taken_until[node]) * self._rate)
        if rows == 0:
            self._at(self._taken_until[node] + 1.0001 / self._rate, _What.STEP, node)
            return
        self._rows[node] = rows
        self._since[node] = self._taken_until[node] + 1 / self._rate  # the first of them came then
        self._taken_until[node] += rows / self._rate
        self._for_core.append(node)
        self._give_cores(now)

    def _give_cores(self, now: float) -> None:
        server = self._server
        while self._for_core and self._busy < round(self._cores):
            node = self._for_core.popleft()
            self._busy += 1
            self._at(now + server.cpu_s(self._rows[node]), _What.COMPUTED, node)

    def _computed(self, now: float, node: int) -> None:
        self._busy -= 1
        self._for_flush.append(node)
        self._give_cores(now)
        self._flush(now)

    def _flush(self, now: float) -> None:
        if self._flushing or not self._for_flush:
            return
        server = self._server
        self._flushing, self._for_flush = self._for_flush, []
        size = sum(
            server.commit_wal_bytes + self._rows[node] * server.row_wal_bytes
            for node in self._flushing
        )
        self._at(now + server.flush_s + size / server.wal_bytes_per_s, _What.FLUSHED, -1)

    def _flushed(self, now: float, _node: int) -> None:
        for node in self._flushing:
            self._at(now + self._server.network_s, _What.ANSWERED, node)
        self._flushing = []
        self._flush(now)

    def _answered(self, now: float, node: int) -> None:
        if now >= _WARM_UP_S:
            self.seen.commits_per_s += 1 / _MEASURED_S
            self.seen.rows_per_s += self._rows[node] / _MEASURED_S
            self.seen.latencies_s.append(now - self._since[node])
        self._step(now, node)


def simulate(server: Server, *, nodes: int, calls_per_s: float, changing: float) -> Seen:
    """What one database has to do for that many calls, of which this share changes a state."""
    seen = Simulation(server, nodes=nodes, changes_per_s=calls_per_s * changing).run()
    seen.calls_per_s = calls_per_s
    return seen


def is_full(seen: Seen, server: Server, changing: float) -> bool:
    """Late, behind, or above 70 % of what larger commits cannot spare: the rows' CPU, and the disk.

    Not above 70 % of all CPU: nodes commit as often as they can, and so a database with something
    to do is always busy; a busier one gets fewer and larger commits.
    """
    if not seen.latencies_s:
        return seen.calls_per_s * changing > _FEW_PER_S
    rows_cpu = seen.rows_per_s * server.contention * server.row_cpu_s / server.cores
    is_behind = seen.rows_per_s < 0.97 * seen.calls_per_s * changing
    return max(rows_cpu, seen.disk) > 0.7 or seen.latency_s(0.99) > LATE_S or is_behind


def largest(server: Server, *, nodes: int, changing: float) -> Seen:
    """The most calls/s of which the database is not full."""
    low, high = 10_000.0, 64_000_000.0
    best = simulate(server, nodes=nodes, calls_per_s=low, changing=changing)
    while high / low > 1.02:
        middle = (low * high) ** 0.5
        seen = simulate(server, nodes=nodes, calls_per_s=middle, changing=changing)
        if is_full(seen, server, changing):
            high = middle
        else:
            low, best = middle, seen
    return best
