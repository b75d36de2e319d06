"""`perdure balance`: its options, checked here, and the process that balances."""

from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.failures import Failure


def balance(
    backends: Annotated[
        list[str], typer.Argument(metavar="BACKEND...", help="HOST:PORT, [=WEIGHT] behind it.")
    ],
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
    ] = 0.5,
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
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error")] = "warning",
    log_format: Annotated[str, typer.Option(help="text or json")] = "text",
) -> None:
    """Pass HTTP requests on to several servers until told to stop (SIGTERM, Ctrl-C).

    A server that fails is left out, and its requests go to the others where that is safe.

    Example: perdure balance --listen 0.0.0.0:80 10.0.0.1:8000 10.0.0.2:8000
    """
    from perdure.cli.balancing import BalanceOptions, run_balancer

    if (tls_cert is None) != (tls_key is None):
        raise Failure("--tls-cert and --tls-key go together")
    options = BalanceOptions(
        backends=backends,
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
    raise typer.Exit(run_balancer(options))
