"""The commands, their options and help texts. What they do is in a module each."""

import sys
from typing import Annotated

import typer

from perdure.cli.failures import Failure

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


@cli.command()
def run(
    target: Annotated[str, typer.Argument(help="FILE.py or MODULE, with :VARIABLE if not :app.")],
    data: Annotated[str, typer.Option(help="Directory of the SQLite store.")] = "./data",
    store: Annotated[
        str | None, typer.Option(help="Store URL instead of --data: sqlite:DIR or memory:")
    ] = None,
    listen: Annotated[str, typer.Option(help="HOST:PORT")] = "127.0.0.1:8000",
    supervisor: Annotated[bool, typer.Option(help="Start a server that died again.")] = True,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error")] = "warning",
    log_format: Annotated[str, typer.Option(help="text or json")] = "text",
) -> None:
    """Serve an app over HTTP until told to stop (SIGTERM, Ctrl-C)."""
    from perdure.cli.run import run_app

    raise typer.Exit(
        run_app(
            target,
            store or f"sqlite:{data}",
            listen=listen,
            with_supervisor=supervisor,
            log_level=log_level,
            log_format=log_format,
        )
    )


def run_command_line() -> None:
    """Run the command that the arguments name; a Failure becomes its message and exit code."""
    try:
        cli()
    except Failure as failure:
        typer.echo(failure.text(), err=True)
        sys.exit(failure.exit_code)
