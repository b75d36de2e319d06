"""The commands, their options and help texts. What they do is in a module each."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.balance import balance
from perdure.cli.client import client
from perdure.cli.failures import Failure
from perdure.cli.layout import STATE_MAX, WEB_MAX, ClusterOptions

cli = typer.Typer(
    help="Stateful Python on stateless servers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@cli.callback(invoke_without_command=True)
def _perdure(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from perdure import __version__

        typer.echo(f"perdure {__version__}")
        raise typer.Exit


_Target = Annotated[
    str, typer.Argument(metavar="TARGET", help="FILE.py or MODULE, with :VARIABLE if not :app.")
]
_Audience = Annotated[
    str,
    typer.Option(
        help="Who may ask for /-/metrics: local, public or off; or HOST:PORT, to ask there, and"
        " at the next ports if there are several processes."
    ),
]
_Web = Annotated[
    int | None,
    typer.Option(min=0, max=WEB_MAX, help="Processes that serve HTTP, apart from the actors."),
]
_State = Annotated[
    int | None, typer.Option(min=0, max=STATE_MAX, help="Processes that own actors, beside --web.")
]
_TlsCert = Annotated[str | None, typer.Option(help="PEM file: serve HTTPS with this certificate.")]
_TlsKey = Annotated[str | None, typer.Option(help="PEM file: its private key.")]
_TrustProxy = Annotated[
    list[str] | None, typer.Option(help="Network of proxies whose X-Forwarded-For is believed.")
]
_AccessLog = Annotated[
    bool, typer.Option("--access-log", help="Log each request, and give it an id.")
]
_ClusterListen = Annotated[
    str | None, typer.Option(help="HOST:PORT for the processes of other machines.")
]
_Advertise = Annotated[
    str | None, typer.Option(help="HOST:PORT where those reach --cluster-listen.")
]
_ClusterKeyFile = Annotated[
    Path | None, typer.Option(help="File with the key that all machines share.")
]
_ClusterCert = Annotated[
    Path | None, typer.Option(help="PEM file: TLS certificate for other processes.")
]
_ClusterCertKey = Annotated[
    Path | None, typer.Option(help="PEM file: the certificate's private key.")
]
_ClusterAuthority = Annotated[
    Path | None, typer.Option(help="PEM file: who must have signed theirs.")
]


@cli.command()
def run(
    target: _Target,
    data: Annotated[str, typer.Option(help="Directory of the SQLite store.")] = "./data",
    store: Annotated[
        list[str] | None,
        typer.Option(help="Store URL instead of --data: sqlite:DIR, memory: or postgresql://…"),
    ] = None,
    listen: Annotated[str, typer.Option(help="HOST:PORT")] = "127.0.0.1:8000",
    web: _Web = None,
    state: _State = None,
    cluster_listen: _ClusterListen = None,
    advertise: _Advertise = None,
    cluster_key_file: _ClusterKeyFile = None,
    cluster_cert: _ClusterCert = None,
    cluster_cert_key: _ClusterCertKey = None,
    cluster_ca: _ClusterAuthority = None,
    tls_cert: _TlsCert = None,
    tls_key: _TlsKey = None,
    trust_proxy: _TrustProxy = None,
    access_log: _AccessLog = False,
    supervisor: Annotated[bool, typer.Option(help="Start a process again that died.")] = True,
    metrics: _Audience = "local",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error")] = "warning",
    log_format: Annotated[str, typer.Option(help="text or json")] = "text",
) -> None:
    """Serve an app over HTTP until told to stop (SIGTERM, Ctrl-C).

    SIGHUP replaces every process by one with the code that is there now, without a failed request.
    Several --store postgresql://… spread the actors over these databases.

    Example: perdure run app.py --listen 127.0.0.1:9000 --web 2
    """
    from perdure.cli.front import FrontOptions
    from perdure.cli.options import ServeOptions
    from perdure.cli.run import RunOptions, run_app

    front = FrontOptions(
        certificate=tls_cert,
        private_key=tls_key,
        trusted=tuple(trust_proxy or ()),
        access_log=access_log,
    )
    options = ServeOptions(
        target=target,
        stores=_stores(store, data),
        log_level=log_level,
        log_format=log_format,
        front=front,
    )
    cluster = ClusterOptions(
        listen=cluster_listen,
        advertise=advertise,
        key_file=cluster_key_file,
        certificate=cluster_cert,
        private_key=cluster_cert_key,
        authority=cluster_ca,
    )
    how = RunOptions(
        listen=listen,
        web=web,
        state=state,
        cluster=cluster,
        with_supervisor=supervisor,
        metrics=metrics,
    )
    raise typer.Exit(run_app(options, how))


def _stores(given: list[str] | None, data: str) -> tuple[str, ...]:
    if not given:
        return (f"sqlite:{data}",)
    return tuple(f"{one}:{data}" if one == "postgresql:embedded" else one for one in given)


@cli.command()
def check(
    target: _Target,
    store: Annotated[
        str | None, typer.Option(help="Compare with this store: DIR or postgresql://…")
    ] = None,
) -> None:
    """Load an app and print its actors, fields, routes and limits.

    Nothing is started. With --store, say instead whether the app fits what is stored there; that
    works while the server runs.

    Example: perdure check app.py --store data
    """
    from perdure.cli.check import check_app
    from perdure.cli.tables import console_for_output

    if store is None:
        check_app(target, console_for_output())
        return
    from perdure.cli.check_store import check_store
    from perdure.cli.failures import DATA_DAMAGED
    from perdure.cli.loading import load_app
    from perdure.cli.looking import place_of

    if not check_store(load_app(target), place_of(store), console_for_output()):
        raise typer.Exit(DATA_DAMAGED)


@cli.command()
def new(name: Annotated[str, typer.Argument(metavar="NAME", help="The folder to make.")]) -> None:
    """Make a small project that runs and has passing tests.

    Nothing is ever overwritten.

    Example: perdure new shop
    """
    from perdure.cli.new import new_project

    for path in new_project(name):
        typer.echo(f"wrote {path}")
    typer.echo(f"next: cd {shlex.quote(name)} && perdure run app.py")


state = typer.Typer(
    help="Look into a store, take its actors out, and put them in.", no_args_is_help=True
)
cli.add_typer(state, name="state")
cli.command()(balance)

_Data = Annotated[Path, typer.Option("--data", help="Directory of the SQLite store.")]
_DEFAULT_DATA = Path("data")
_LookedAt = Annotated[
    str | None,
    typer.Option("--store", help="Store URL instead of --data: sqlite:DIR, postgresql://…"),
]


@state.command("list")
def list_(
    actor_type: Annotated[
        str | None, typer.Argument(metavar="TYPE", help="An actor class or its table.")
    ] = None,
    after: Annotated[str, typer.Option(help="Begin behind this key.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="The most keys to print.")] = 50,
    data: _Data = _DEFAULT_DATA,
    store: _LookedAt = None,
) -> None:
    """List the actor types with their counts, or the keys of one type.

    Works while the server runs.

    Example: perdure state list Cart --limit 10
    """
    from perdure.cli.looking import place_given
    from perdure.cli.state import list_keys, list_types
    from perdure.cli.tables import console_for_notes, console_for_output

    place = place_given(data, store)
    if actor_type is None:
        list_types(place, console_for_output())
    else:
        consoles = (console_for_output(), console_for_notes())
        list_keys(place, actor_type, (after, limit), consoles)


@state.command()
def show(
    actor_type: Annotated[str, typer.Argument(metavar="TYPE", help="A class or its table.")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="The actor's key.")],
    data: _Data = _DEFAULT_DATA,
    store: _LookedAt = None,
) -> None:
    """Print one actor as JSON: its state, version and times.

    Works while the server runs.

    Example: perdure state show Cart alice
    """
    from perdure.cli.looking import place_given
    from perdure.cli.state import show as show_actor

    typer.echo(show_actor(place_given(data, store), actor_type, key))


@state.command()
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT.")],
    json: Annotated[bool, typer.Option("--json", help="A JSON object a row.")] = False,
    data: _Data = _DEFAULT_DATA,
    store: _LookedAt = None,
) -> None:
    """Ask the store in SQL; writing is refused.

    Each actor class is a table; its fields are JSON in the column `state`.
    Works while the server runs.

    Example: perdure state query "SELECT key, state ->> '$.total' FROM cart"
    """
    from perdure.cli.looking import place_given
    from perdure.cli.state import query_as_json, query_as_table
    from perdure.cli.tables import console_for_notes, console_for_output

    place = place_given(data, store)
    if json:
        for line in query_as_json(place, sql):
            sys.stdout.buffer.write(line)
    else:
        query_as_table(place, sql, (console_for_output(), console_for_notes()))


@state.command("export")
def export_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to; - is standard output.")],
    actor_type: Annotated[
        str | None, typer.Option("--type", help="Only this actor class or table.")
    ] = None,
    data: _Data = _DEFAULT_DATA,
    store: _LookedAt = None,
) -> None:
    """Write every actor as a line of JSON: type, key, version, times, timers and state.

    Entries of its collections follow as lines of their own. All lines are of one moment, also while
    the server runs; answers remembered for idempotency keys, and messages, are left out.

    Example: perdure state export actors.jsonl
    """
    from perdure.cli.looking import place_given
    from perdure.cli.state_files import export_state
    from perdure.cli.tables import console_for_notes

    count = export_state(place_given(data, store), file, actor_type, console_for_notes())
    typer.echo(f"exported {_actors(count)}", err=True)


@state.command("import")
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="An export; - is standard input.")],
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Overwrite actors that are there already, with all they have."
        ),
    ] = False,
    data: _Data = _DEFAULT_DATA,
    store: Annotated[
        list[str] | None,
        typer.Option(help="Store URL instead of --data; several: the cells of an app."),
    ] = None,
) -> None:
    """Put the actors of an export into a store; stop its server first.

    Versions, times, timers and entries are kept. Batches of lines are atomic; a bad line ends the
    import, and the message names it.

    Example: perdure state import actors.jsonl
    """
    from perdure.cli.looking import place_given
    from perdure.cli.state_files import import_state
    from perdure.cli.tables import console_for_notes

    places = [place_given(data, one) for one in store] if store else [data]
    count = import_state(places, file, replace=replace, notes=console_for_notes())
    typer.echo(f"imported {_actors(count)}", err=True)


@state.command()
def migrate(
    target: _Target,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only try, write nothing.")] = False,
    data: _Data = _DEFAULT_DATA,
    store: _LookedAt = None,
) -> None:
    """Bring every actor to the version of its class now; stop the server first.

    Without this, each is migrated when it wakes and written at its next change. A run that was cut
    off can be started again. A row that fails is named, and the others go on.

    Example: perdure state migrate app.py --dry-run
    """
    from perdure.cli.failures import DATA_DAMAGED
    from perdure.cli.looking import place_given
    from perdure.cli.state_migrate import migrate_state
    from perdure.cli.tables import console_for_notes, console_for_output

    place = place_given(data, store)
    consoles = (console_for_output(), console_for_notes())
    if not migrate_state(target, place, consoles, dry_run=dry_run):
        raise typer.Exit(DATA_DAMAGED)


cluster = typer.Typer(invoke_without_command=True)
cli.add_typer(cluster, name="cluster")
cli.add_typer(client, name="client")

_Store = Annotated[str, typer.Option("--store", help="Store URL: postgresql://…")]
_DEFAULT_STORE = "sqlite:data"


@cluster.callback()
def members(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    ready: Annotated[
        bool, typer.Option("--ready", help="Only say by the exit code if this machine is.")
    ] = False,
    store: _Store = _DEFAULT_STORE,
) -> None:
    """Show the processes that own the actors of a database, and how many shards each owns.

    --ready is for probes of machines without HTTP: 0 when the members of this machine have leases
    and own shards, and no shard of the database is without a living owner; else 1, and why.

    Example: perdure cluster --store postgresql://shop@db/shop
    """
    if context.invoked_subcommand is not None:
        return
    from perdure.cli import cluster as showing
    from perdure.cli.failures import NOT_YET
    from perdure.cli.tables import console_for_output

    if ready:
        why = showing.why_not_ready(store)
        typer.echo("ready" if why is None else f"not ready: {why}", err=why is not None)
        raise typer.Exit(0 if why is None else NOT_YET)
    if json:
        sys.stdout.buffer.write(showing.as_json(store))
    else:
        showing.show(store, console_for_output())


@cluster.command()
def drain(
    node: Annotated[
        str, typer.Argument(metavar="NODE", help="A member's incarnation, name or how that begins.")
    ],
    wait: Annotated[bool, typer.Option("--wait", help="Until it owns nothing any more.")] = False,
    store: _Store = _DEFAULT_STORE,
) -> None:
    """Let a member hand over all its shards, without an error for anybody.

    It goes on as a member that owns nothing, serves requests if it did, and owns shards again when
    its process is started anew.

    Example: perdure cluster drain shop-1/state-2 --wait --store postgresql://shop@db/shop
    """
    from perdure.cli.cluster import drain as drain_member

    member = drain_member(store, node, wait=wait)
    done = "owns nothing any more" if wait else "hands over its shards"
    typer.echo(f"{member.name} ({member.incarnation}) {done}", err=True)


_ID_MAX = 2**63 - 1
_LetterId = Annotated[
    int, typer.Argument(metavar="ID", min=1, max=_ID_MAX, help="As `letters` shows it.")
]


@state.command()
def letters(
    after: Annotated[int, typer.Option(min=0, max=_ID_MAX, help="Begin behind this id.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The most letters to print.")] = 50,
    data: _Data = _DEFAULT_DATA,
    store: _LookedAt = None,
) -> None:
    """List the dead letters: messages and timers that were given up.

    Works while the server runs.

    Example: perdure state letters --limit 10
    """
    from perdure.cli.looking import place_given
    from perdure.cli.state_letters import list_letters
    from perdure.cli.tables import console_for_notes, console_for_output

    list_letters(
        place_given(data, store),
        (after, limit),
        (console_for_output(), console_for_notes()),
    )


@state.command()
def resend(
    ids: Annotated[
        list[int] | None,
        typer.Argument(metavar="ID...", min=1, max=_ID_MAX, help="As `letters` shows them."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All that are there now.")] = False,
    data: _Data = _DEFAULT_DATA,
    store: _LookedAt = None,
) -> None:
    """Send dead letters again, with all their attempts before them.

    Works while the server runs, which begins within seconds; else its next start does.

    Example: perdure state resend 17 18
    """
    from perdure.cli import state_letters
    from perdure.cli.looking import place_given

    if bool(ids) == every:
        raise Failure("name the letters, or say --all", "perdure state letters shows them")
    place = place_given(data, store)
    count = state_letters.resend(place, ids) if ids else state_letters.resend_all(place)
    typer.echo(f"{count:,} {'letter is' if count == 1 else 'letters are'} due again", err=True)


@state.command("drop-letter")
def drop_letter(
    letter_id: _LetterId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data: _Data = _DEFAULT_DATA,
    store: _LookedAt = None,
) -> None:
    """Delete a dead letter for good.

    Works while the server runs.

    Example: perdure state drop-letter 17 --yes
    """
    from perdure.cli import state_letters
    from perdure.cli.looking import place_given

    place = place_given(data, store)
    told = state_letters.described(place, letter_id)
    if not yes:
        typer.confirm(f"Delete {told}?", abort=True, err=True)
    state_letters.drop(place, letter_id)
    typer.echo(f"letter {letter_id} is deleted", err=True)


def _actors(count: int) -> str:
    return f"{count:,} actor" if count == 1 else f"{count:,} actors"


def run_command_line() -> None:
    """Run the command that the arguments name; a Failure becomes its message and exit code."""
    try:
        cli()
    except Failure as failure:
        typer.echo(failure.text(), err=True)
        sys.exit(failure.exit_code)
