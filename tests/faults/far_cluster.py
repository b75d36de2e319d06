"""Three machines, their database and their clients, each a host of a network that can be cut.

`n1` and `n2` have a web process and an owner; `n3` has an owner alone, so it can be cut off without
a single client that was connected to it.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from tests.faults.cluster_lab import Cluster, Load, Machine
from tests.faults.database import Database
from tests.faults.network import Network
from tests.faults.supervised import until

HOSTS = ("n1", "n2", "n3")


class FarCluster:
    """Use as a context manager; all of it is up on entering."""

    def __init__(self, folder: Path, **how: Any) -> None:
        self._folder = folder
        self._how = how
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.network = network = stack.enter_context(Network(*HOSTS, "db", "c1"))
            self.database = stack.enter_context(
                Database(
                    host=network.address("db"),
                    wrapper=network.wrapper("db"),
                    enter=network.enter("db"),
                )
            )
            self.cluster = stack.enter_context(Cluster(self._folder, self.database.url))
            for host in HOSTS:
                address = network.address(host)
                self.cluster.add(
                    wait=False,
                    web=0 if host == "n3" else 1,
                    state=1,
                    host=address,
                    cluster=(address, 7000),
                    wrapper=network.wrapper(host),
                    **self._how,
                )
            self.cluster.wait_served()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def machines(self) -> list[Machine]:
        """On n1, n2 and n3."""
        return self.cluster.machines

    def load(self, **how: Any) -> Load:
        """Clients on c1."""
        return Load(self.cluster.addresses, enter=self.network.enter("c1"), **how)

    def wait_for_members(self, count: int) -> None:
        """Wait until so many members hold shards, and no other is known."""
        sql = """SELECT count(*) = $1 AND count(*) = (
            SELECT count(DISTINCT owner) FROM perdure_shard JOIN perdure_member
            ON owner = incarnation) FROM perdure_member"""
        until(lambda: self.database.asks(sql, count), f"{count} members", 60)

    def incarnation(self, machine: Machine) -> int:
        """Under which the owner of a machine is a member now; 0: it is none."""
        sql = "SELECT coalesce(max(incarnation), 0) FROM perdure_member WHERE address = $1"
        return int(self.database.tells(sql, machine.member))
