"""Runs `perdure …` inside this process, and stores to run it on."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from perdure.cli.commands import cli
from perdure.cli.failures import Failure
from perdure.cli.looking import Place
from perdure.store.api import ActorSchema, ActorWrite, Batch, Store
from perdure.store.postgres import PostgresStore
from perdure.store.sqlite import SqliteStore


@dataclass
class Done:
    """How a command ended and what it said."""

    exit_code: int
    output: str
    errors: str


def perdure(*arguments: str | Path, given: str | bytes | None = None) -> Done:
    """Run a command as `run_command_line` does; any other exception than a Failure is raised."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], input=given)
    if isinstance(result.exception, Failure):
        failure = result.exception
        return Done(failure.exit_code, result.stdout, result.stderr + failure.text())
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


def at(place: Place) -> list[str]:
    """The options that tell a command of this store."""
    return ["--data", str(place)] if isinstance(place, Path) else ["--store", place]


def store_at(place: Place) -> Store:
    """The store itself, to open it as a server would."""
    return SqliteStore(place) if isinstance(place, Path) else PostgresStore(place)


def fill(place: Place, actors: dict[str, dict[str, str]], at_ms: int = 1_000) -> None:
    """Commit actors, given as {type: {key: state}}, each at version 1."""

    async def body() -> None:
        store = store_at(place)
        await store.open([ActorSchema(name) for name in actors])
        writes = [
            ActorWrite(name, key, state.encode(), 1)
            for name, states in actors.items()
            for key, state in states.items()
        ]
        await store.commit(Batch(writes, [], at_ms))
        await store.close()

    asyncio.run(body())
