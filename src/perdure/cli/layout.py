"""Which processes run on this machine, and how they reach those of others: read and checked.

    without --web and --state    one process does all
    --web N                      N processes serve requests, one owns the actors
    --web N --state M            M own the actors: only with PostgreSQL
    --web N --state 0            the owners are on other machines
    --web 0 --state M            the requests arrive at other machines
    --store A --store B          the actors are spread over two databases; M processes for each

A store *has a registry* if several processes can own its actors and find each other in it: only
PostgreSQL does. Without one there is one owner, and whoever wants to be it has to wait until the
one before has left.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from perdure.cli.failures import NO_INPUT, Failure
from perdure.runtime.place import Role

WEB_MAX = 256  # more than cores is of no use, and a typing error shall not fork a machine to death
STATE_MAX = 64


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """The processes of this machine; without a number, one does all."""

    web: int | None = None
    state: int | None = None
    has_registry: bool = False
    cells: int = 1  # databases; the numbers of state processes go round them

    @property
    def is_one(self) -> bool:
        """Whether one process does all."""
        return self.web is None

    def roles(self) -> list[tuple[Role, int]]:
        """Every process as its role and its number, in the order in which they start."""
        if self.web is None or self.state is None:
            return [("all", 0)]
        states: list[tuple[Role, int]] = [("state", number + 1) for number in range(self.state)]
        return states + [("web", number + 1) for number in range(self.web)]

    def __str__(self) -> str:
        told = [(self.web, "web"), (self.state, "state")]
        return ", ".join(f"{count} {role}" for count, role in told if count)


class ClusterOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How processes of other machines reach those of this one, as the command line says it."""

    listen: str | None = None
    advertise: str | None = None
    key_file: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    authority: Path | None = None


def layout_of(web: int | None, state: int | None, stores: Sequence[str]) -> Layout:
    """The layout that these options mean; raises Failure if it cannot work."""
    has_registry = all(store.startswith("postgresql:") for store in stores)
    cells = len(stores)
    if cells > 1:
        _check_cells(web, stores, has_registry=has_registry)
    if web is None:
        if state is not None:
            raise Failure(
                f"--state {state} leaves open how many processes serve requests",
                "say that too: --web 1, or --web 0 for a machine without HTTP",
            )
        return Layout(has_registry=has_registry)
    state = 1 if state is None else state
    if web == state == 0:
        raise Failure("--web 0 --state 0 leaves nothing to run")
    if not has_registry and (state != 1 or web == 0):
        wanted = "several state processes" if state > 1 else "a machine with only one of the kinds"
        raise Failure(
            f"{wanted}: this needs PostgreSQL; a store in memory or SQLite has one state process, "
            "on the machine that serves the requests",
            "--store postgresql://…, or --web N without --state",
        )
    return Layout(web=web, state=state * cells, has_registry=has_registry, cells=cells)


def _check_cells(web: int | None, stores: Sequence[str], *, has_registry: bool) -> None:
    if not has_registry:
        raise Failure("actors are spread over several databases only with PostgreSQL")
    if len(set(stores)) < len(stores):
        raise Failure("--store names the same database twice")
    if web is None:
        raise Failure(
            "a process owns actors of one database only, and so cannot serve all of them alone",
            "add --web 1",
        )


def check_cluster(cluster: ClusterOptions, layout: Layout) -> None:
    """Raise Failure if these options cannot work together."""
    if not layout.has_registry and cluster != ClusterOptions():
        raise Failure(
            "a cluster needs PostgreSQL; a store in memory or SQLite belongs to one machine",
            "--store postgresql://…, or leave out the options that begin with --cluster",
        )
    if cluster.advertise is not None and cluster.listen is None:
        raise Failure("--advertise says how others reach --cluster-listen, which is not there")
    if cluster.listen is not None and layout.state == 0:
        raise Failure(
            "--cluster-listen is for processes that own actors, and --state 0 says there are none"
        )
    tls = {
        "--cluster-cert": cluster.certificate,
        "--cluster-cert-key": cluster.private_key,
        "--cluster-ca": cluster.authority,
    }
    missing = [option for option, path in tls.items() if path is None]
    if 0 < len(missing) < len(tls):
        raise Failure(
            f"TLS between processes is checked both ways and needs {' and '.join(missing)} too"
        )
    for option, path in tls.items():
        if path is not None and not path.is_file():
            raise Failure(f"{option}: there is no file {path}", exit_code=NO_INPUT)
