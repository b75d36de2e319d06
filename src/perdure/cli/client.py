"""`perdure client`: writes a typed client of an app."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.failures import CANNOT_CREATE, Failure

if TYPE_CHECKING:
    from perdure.client.api import Api

client = typer.Typer(help="Write a typed client of an app.", no_args_is_help=True)

_MARK = "Written by `perdure client"
_Target = Annotated[
    str, typer.Argument(metavar="TARGET", help="FILE.py or MODULE, with :VARIABLE if not :app.")
]
_Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="File to write; else standard output.")
]

_Version = Annotated[
    int, typer.Option("--api-version", metavar="N", min=1, help="Version of the API it speaks.")
]


@client.command()
def python(target: _Target, output: _Output = None, api_version: _Version = 1) -> None:
    """Write a module for Python 3.11 and later; it needs httpx and nothing else.

    For who cannot import the app's classes; who can uses `perdure.Client`.

    The same app gives the same file. No file is replaced that this command did not write.

    Example: perdure client python app.py -o shop_client.py
    """
    from perdure.client.python_module import python_module

    _write(target, output, api_version, python_module)


@client.command()
def typescript(target: _Target, output: _Output = None, api_version: _Version = 1) -> None:
    """Write a module for browsers and Node.js 20 and later; it needs nothing else.

    The same app gives the same file. No file is replaced that this command did not write.

    Example: perdure client typescript app.py -o shop_client.ts
    """
    from perdure.client.typescript_module import typescript_module

    _write(target, output, api_version, typescript_module)


def _write(
    target: str, output: Path | None, version: int, written: "Callable[[Api, str], str]"
) -> None:
    from perdure.cli.loading import load_app
    from perdure.client.api import api_of

    app = load_app(target)
    if version > app.versions:
        raise Failure(
            f"there is no version {version} of this API",
            f"the newest that something in {target} speaks of is {app.versions}",
        )
    text = written(api_of(app.operations(version)), app.title)
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        if output.exists() and _MARK not in output.read_text("utf-8", errors="replace")[:1000]:
            raise Failure(
                f"{output} is not a file that `perdure client` wrote; it stays as it is",
                "choose another name",
                exit_code=CANNOT_CREATE,
            )
        output.write_text(text, "utf-8")
    except OSError as error:
        raise Failure(
            f"cannot write {output}: {error.strerror}", exit_code=CANNOT_CREATE
        ) from error
