"""`perdure balance`: its options, checked here, and the process that balances."""

from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.failures import Failure


def balance(
    backends: Annotated[
        list[str] | None,
        typer.Argument(metavar="BACKEND...", help="HOST:PORT, [=WEIGHT] behind it."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="File with one backend a line, or JSON; it is watched.")
    ] = None,
    dns: Annotated[
        str | None, typer.Option(help="NAME:PORT whose addresses are the backends.")
    ] = None,
    store: Annotated[
        list[str] | None,
        typer.Option(help="postgresql://… of the cluster whose web processes are the backends."),
    ] = None,
    listen: Annotated[str, typer.Option(help="HOST:PORT")] = "127.0.0.1:8080",
    policy: Annotated[
        str, typer.Option(help="peak-ewma, least-connections, round-robin or hash")
    ] = "peak-ewma",
    hash_key: Annotated[
        str | None,
        typer.Option("--hash", help="For --policy hash: header:NAME, cookie:NAME or path:N."),
    ] = None,
    health: Annotated[
        str, typer.Option(help="Path that backends are asked for; empty: not at all.")
    ] = "/-/ready",
    health_interval: Annotated[
        float, typer.Option(min=0.05, help="Seconds between two of these checks.")
    ] = 2.0,
    trust: Annotated[
        list[str] | None, typer.Option(help="CIDR of proxies whose X-Forwarded-* are believed.")
    ] = None,
    via: Annotated[str | None, typer.Option(help="Name to add to Via; none: no Via.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file: TLS certificate.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file: its private key.")] = None,
    admin: Annotated[
        str | None, typer.Option(help="HOST:PORT for /metrics, kept from the public.")
    ] = None,
    access_log: Annotated[bool, typer.Option(help="Log one line for each answer.")] = False,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds to go on accepting after SIGTERM.")
    ] = 1.0,
    mode: Annotated[str, typer.Option(help="http, or tcp: pass bytes on unseen.")] = "http",
    engine: Annotated[
        str, typer.Option(help="builtin, or haproxy: drive that program, which must be there.")
    ] = "builtin",
    by_owner: Annotated[
        list[str] | None,
        typer.Option(help="Actor type whose requests go to their owner's machine (haproxy)."),
    ] = None,
    send_proxy: Annotated[
        bool, typer.Option(help="Tell backends the client by PROXY v2 (tcp, haproxy).")
    ] = False,
    accept_proxy: Annotated[
        bool, typer.Option(help="Expect PROXY v2 from those in --trust (tcp, haproxy).")
    ] = False,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error")] = "warning",
    log_format: Annotated[str, typer.Option(help="text or json")] = "text",
) -> None:
    """Pass HTTP requests on to several servers until told to stop (SIGTERM, Ctrl-C).

    A server that fails is left out, and its requests go to the others where that is safe.

    Where the servers are is named here, in a file, by DNS, or read from a cluster's own database.

    With `explain URL` before the servers, say only where that would be sent, and why.

    Example: perdure balance --listen 0.0.0.0:80 10.0.0.1:8000 10.0.0.2:8000
    """
    from perdure.cli.balance_sources import SourceOptions
    from perdure.cli.balancing import BalanceOptions, explain_url, run_balancer

    if (tls_cert is None) != (tls_key is None):
        raise Failure("--tls-cert and --tls-key go together")
    given = list(backends or [])
    url = None
    if given[:1] == ["explain"]:  # no address, and so no backend
        if len(given) == 1:
            raise Failure("explain what?", "perdure balance explain /cart/alice/view …")
        url = given[1]
        given = given[2:]
    options = BalanceOptions(
        backends=given,
        sources=SourceOptions(file=file, dns=dns, stores=tuple(store or ())),
        mode=mode,
        engine=engine,
        by_owner=tuple(by_owner or ()),
        send_proxy=send_proxy,
        accept_proxy=accept_proxy,
        listen=listen,
        policy=policy,
        hash_key=hash_key,
        health=health,
        health_interval_s=health_interval,
        trust=trust or [],
        via=via,
        tls_cert=tls_cert,
        tls_key=tls_key,
        admin=admin,
        access_log=access_log,
        grace_s=grace,
        log_level=log_level,
        log_format=log_format,
    )
    if url is not None:
        typer.echo(explain_url(options, url))
        return
    raise typer.Exit(run_balancer(options))
