"""`perdure run`: check what was asked for, bind the address, and serve."""

import socket

import msgspec

from perdure.base.metrics import Audience
from perdure.cli.address import bind, bind_row
from perdure.cli.choices import check_logs
from perdure.cli.cluster_key import is_read_by_others
from perdure.cli.door import door_address
from perdure.cli.failures import Failure
from perdure.cli.front import check_front
from perdure.cli.layout import ClusterOptions, check_cluster, layout_of
from perdure.cli.options import ServeOptions
from perdure.cli.places import Places
from perdure.cli.signals import has_terminal


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `perdure run` was told beside what to serve."""

    listen: str
    web: int | None = None
    state: int | None = None
    cluster: ClusterOptions = ClusterOptions()
    with_supervisor: bool = True
    metrics: str = "local"  # or `public`, `off`, or HOST:PORT


def run_app(options: ServeOptions, run: RunOptions) -> int:
    """Serve until stopped; returns the exit code. Raises Failure."""
    check_logs(options.log_level, options.log_format)
    for store in options.stores:
        _check_store(store)
    check_front(options.front)
    layout = layout_of(run.web, run.state, options.stores)
    check_cluster(run.cluster, layout)
    if not (run.with_supervisor or layout.is_one):
        raise Failure("several processes need their supervisor", "leave out --no-supervisor")
    places = Places(layout, run.cluster, options.stores[0])
    bound = None if layout.web == 0 else bind(run.listen)
    if bound is not None and layout.has_registry:
        places.door = door_address(bound, run.cluster, options.stores[0])
    audience, metrics = _metrics(run.metrics, len(layout.roles()))
    _warn_of_open_key(options, run.cluster)
    waits = not (layout.is_one and has_terminal())  # see `waiting`
    options = msgspec.structs.replace(options, waits=waits, metrics=audience)
    if run.with_supervisor:
        from perdure.cli.supervisor import Supervisor

        return Supervisor(options, bound, metrics, layout, places).run()
    from perdure.cli.serve import serve  # heavy, and the supervisor has no use for it

    with places:
        options = msgspec.structs.replace(options, place=places.take("all", 0))
        return serve(options, bound, metrics[0] if metrics else None)


def _metrics(asked: str, processes: int) -> tuple[Audience, list[socket.socket]]:
    """Who may ask for metrics where requests come in, and an address for each process if not."""
    if asked in ("local", "public", "off"):
        return asked, []  # type: ignore[return-value]  # mypy does not narrow by `in`
    return "off", bind_row(asked, processes, "--metrics")


def _warn_of_open_key(options: ServeOptions, cluster: ClusterOptions) -> None:
    if cluster.key_file is None or not is_read_by_others(cluster.key_file):
        return
    import logging  # only now that there is something to tell

    from perdure.cli.logs import set_up_logs

    set_up_logs(options.log_level, options.log_format)
    logging.getLogger("perdure.supervisor").warning(
        "others can read the cluster key; chmod 600 keeps it to you",
        extra={"file": str(cluster.key_file)},
    )


def _check_store(url: str) -> None:
    scheme, _, rest = url.partition(":")
    if not ((scheme in {"sqlite", "postgresql"} and rest) or (scheme == "memory" and not rest)):
        raise Failure(
            f"unknown store {url!r}", "use sqlite:DIRECTORY, memory: or postgresql://HOST/DATABASE"
        )
