"""`perdure balance`: its options, checked here, and the process that balances."""

from typing import Annotated

import typer

from perdure.cli.failures import Failure

_Backends = Annotated[
    list[str] | None,
    typer.Argument(metavar="BACKEND...", help="HOST:PORT, [=WEIGHT] behind it."),
]
_File = Annotated[
    str | None, typer.Option(help="File with one backend a line, or JSON; it is watched.")
]
_Dns = Annotated[str | None, typer.Option(help="NAME:PORT whose addresses are the backends.")]
_Store = Annotated[
    list[str] | None,
    typer.Option(help="postgresql://… of the cluster whose web processes are the backends."),
]
_Listen = Annotated[str, typer.Option(help="HOST:PORT")]
_Policy = Annotated[str, typer.Option(help="peak-ewma, least-connections, round-robin or hash")]
_HashKey = Annotated[
    str | None,
    typer.Option("--hash", help="For --policy hash: header:NAME, cookie:NAME or path:N."),
]
_Health = Annotated[
    str | None,
    typer.Option(help="Path that backends are asked for (/-/ready); empty: not at all."),
]
_HealthInterval = Annotated[
    float, typer.Option(min=0.05, help="Seconds between two of these checks.")
]
_Trust = Annotated[
    list[str] | None, typer.Option(help="CIDR of proxies whose X-Forwarded-* are believed.")
]
_Via = Annotated[str | None, typer.Option(help="Name to add to Via; none: no Via.")]
_TlsCert = Annotated[str | None, typer.Option(help="PEM file: serve HTTPS with this certificate.")]
_TlsKey = Annotated[str | None, typer.Option(help="PEM file: its private key.")]
_Admin = Annotated[str | None, typer.Option(help="HOST:PORT for /metrics, kept from the public.")]
_AccessLog = Annotated[bool, typer.Option(help="Log one line for each answer.")]
_Grace = Annotated[
    float | None,
    typer.Option(min=0, help="Seconds to go on accepting after SIGTERM (1)."),
]
_Supervisor = Annotated[bool, typer.Option(help="Start the balancer again if it dies.")]
_Mode = Annotated[str, typer.Option(help="http, or tcp: pass bytes on unseen.")]
_Engine = Annotated[
    str, typer.Option(help="builtin, or haproxy: drive that program, which must be there.")
]
_ByOwner = Annotated[
    list[str] | None,
    typer.Option(help="Actor type whose requests go to their owner's machine (haproxy)."),
]
_SendProxy = Annotated[
    bool, typer.Option(help="Tell backends the client by PROXY v2 (tcp, haproxy).")
]
_AcceptProxy = Annotated[
    bool, typer.Option(help="Expect PROXY v2 from those in --trust (tcp, haproxy).")
]
_LogLevel = Annotated[str, typer.Option(help="debug, info, warning or error")]
_LogFormat = Annotated[str, typer.Option(help="text or json")]


def balance(
    backends: _Backends = None,
    file: _File = None,
    dns: _Dns = None,
    store: _Store = None,
    listen: _Listen = "127.0.0.1:8080",
    policy: _Policy = "peak-ewma",
    hash_key: _HashKey = None,
    health: _Health = None,
    health_interval: _HealthInterval = 0.5,
    trust: _Trust = None,
    via: _Via = None,
    tls_cert: _TlsCert = None,
    tls_key: _TlsKey = None,
    admin: _Admin = None,
    access_log: _AccessLog = False,
    grace: _Grace = None,
    mode: _Mode = "http",
    engine: _Engine = "builtin",
    by_owner: _ByOwner = None,
    send_proxy: _SendProxy = False,
    accept_proxy: _AcceptProxy = False,
    supervisor: _Supervisor = True,
    log_level: _LogLevel = "warning",
    log_format: _LogFormat = "text",
) -> None:
    """Pass HTTP requests on to several servers until told to stop (SIGTERM, Ctrl-C).

    A server that fails is left out, and its requests go to the others where that is safe.

    Where the servers are is named here, in a file, by DNS, or read from a cluster's own database.
    SIGHUP replaces the process by one with the code that is there now, without a failed request.

    With `explain URL` before the servers, say only where that would be sent, and why.

    Example: perdure balance --listen 0.0.0.0:80 10.0.0.1:8000 10.0.0.2:8000
    """
    from perdure.cli.balance_options import BalanceOptions
    from perdure.cli.balance_sources import SourceOptions
    from perdure.cli.balancing import explain_url, run_balancer

    url, given = _explained(backends or [])
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
        trust=tuple(trust or ()),
        via=via,
        tls_cert=tls_cert,
        tls_key=tls_key,
        admin=admin,
        access_log=access_log,
        grace_s=grace,
        with_supervisor=supervisor,
        log_level=log_level,
        log_format=log_format,
    )
    if url is not None:
        typer.echo(explain_url(options, url))
        return
    raise typer.Exit(run_balancer(options))


def _explained(words: list[str]) -> tuple[str | None, list[str]]:
    """The URL behind a leading `explain`, which is no address and so no backend; and the rest."""
    if words[:1] != ["explain"]:
        return None, words
    if len(words) == 1:
        raise Failure("explain what?", "for example perdure balance explain /cart/alice/view …")
    return words[1], words[2:]
