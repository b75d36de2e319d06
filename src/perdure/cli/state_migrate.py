"""`perdure state migrate`: bring every stored actor to the version of its class, now.

A row that was rewritten has the new version and is passed over from then on, so a run that was
killed at any point is simply started again.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from perdure.actor.methods import ActorType
from perdure.base.clock import SystemClock
from perdure.base.codec import encode
from perdure.base.errors import PerdureError, StateTooLargeError, StoreFormatError, StoreLockedError
from perdure.base.limits import Limits
from perdure.cli.failures import LOCKED, Failure, failure_of
from perdure.cli.loading import load_app
from perdure.cli.looking import Place, looking, owning
from perdure.cli.tables import print_columns, printable
from perdure.store.api import ActorWrite, Batch, Store, StoredActor

_PAGE_ROWS = 64  # of up to 4 MiB each; one commit
_NAMED_MAX = 20  # failures in full; the rest is counted


class Outcome(msgspec.Struct):
    """What became of one class's rows."""

    actor_type: ActorType
    seen: int = 0
    migrated: int = 0
    failures: int = 0
    named: list[str] = []  # the first failures, with their reasons

    def fail(self, key: str, error: object) -> None:
        """Count a row that stays as it is."""
        self.failures += 1
        if len(self.named) < _NAMED_MAX:
            self.named.append(f"{self.actor_type.name}/{key}: {error}")


def migrate_state(
    target: str, place: Place, consoles: tuple[Console, Console], *, dry_run: bool
) -> bool:
    """Migrate all rows that older versions of their classes wrote; returns False if any failed.

    `consoles` are for the summary and for the progress. A dry run writes nothing, and may look at
    the store of a running server. Raises Failure.
    """
    output, notes = consoles
    app = load_app(target)
    with _progress(notes) as progress:
        if dry_run:
            outcomes = _try(app.actor_types, place, app.limits, progress)
        else:
            with owning(place) as store:
                outcomes = asyncio.run(_migrate(app.actor_types, store, app.limits, progress))
    for line in (line for outcome in outcomes for line in outcome.named):
        notes.print(f"not migrated: {printable(line)}", markup=False)
    _print_summary(outcomes, output, dry_run=dry_run)
    return not any(outcome.failures for outcome in outcomes)


# -- row by row ----------------------------------------------------------------------------------


def _try(
    actor_types: Sequence[ActorType], place: Place, limits: Limits, progress: Progress
) -> list[Outcome]:
    """Migrate in memory only."""
    outcomes = []
    with looking(place) as reader:
        stored = set(reader.actor_tables())
        for actor_type in actor_types:
            outcome = Outcome(actor_type)
            outcomes.append(outcome)
            if actor_type.name not in stored:
                continue
            task = progress.add_task(actor_type.name, total=reader.count(actor_type.name))
            after = ""
            while page := reader.scan(actor_type.name, after, _PAGE_ROWS):
                outcome.migrated += len(_writes(outcome, page, limits))
                progress.update(task, advance=len(page))
                after = page[-1].key
    return outcomes


async def _migrate(
    actor_types: Sequence[ActorType], store: Store, limits: Limits, progress: Progress
) -> list[Outcome]:
    try:
        await store.open([actor_type.schema for actor_type in actor_types])
    except StoreLockedError as error:
        hint = "stop its server first; --dry-run works while it runs"
        raise Failure(str(error), hint, exit_code=LOCKED) from error
    try:
        return await _migrate_all(store, actor_types, limits, progress)
    except PerdureError as error:
        failure = failure_of(error)
        failure.hint = "what was migrated so far is kept; run it again to go on"
        raise failure from error
    finally:
        await store.close()


async def _migrate_all(
    store: Store, actor_types: Sequence[ActorType], limits: Limits, progress: Progress
) -> list[Outcome]:
    totals = await store.actor_types()
    return [
        await _migrate_class(store, actor_type, totals.get(actor_type.name, 0), limits, progress)
        for actor_type in actor_types
    ]


async def _migrate_class(
    store: Store, actor_type: ActorType, total: int, limits: Limits, progress: Progress
) -> Outcome:
    outcome = Outcome(actor_type)
    task = progress.add_task(actor_type.name, total=total)
    async for page in _pages(store, actor_type.name):
        writes = _writes(outcome, page, limits)
        if writes:
            committed = await store.commit(Batch(writes, (), SystemClock().wall_ms()))
            for refusal in committed.refused:
                outcome.fail(refusal.key, f"another actor has its {refusal.field}, which is unique")
            outcome.migrated += len(writes) - len(committed.refused)
        progress.update(task, advance=len(page))
    return outcome


async def _pages(store: Store, name: str) -> AsyncIterator[list[StoredActor]]:
    after = ""
    while page := await store.scan(name, after, _PAGE_ROWS):
        yield page
        after = page[-1].key


def _writes(outcome: Outcome, page: list[StoredActor], limits: Limits) -> list[ActorWrite]:
    """The rows of a page that must be written anew."""
    actor_type = outcome.actor_type
    outcome.seen += len(page)
    writes = []
    for stored in page:
        if stored.schema >= actor_type.schema.version:
            continue
        try:
            actor, _ = actor_type.decode_stored(stored)
            state = encode(actor)
            if len(state) > limits.state_bytes_max:
                raise StateTooLargeError(
                    f"its new state has {len(state)} bytes; at most {limits.state_bytes_max} fit"
                )
        except (StoreFormatError, StateTooLargeError) as error:
            outcome.fail(stored.key, error)
        else:
            writes.append(ActorWrite(actor_type.name, stored.key, state, stored.version + 1))
    return writes


# -- what is shown -------------------------------------------------------------------------------


class _Rate(ProgressColumn):
    """Rows a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} rows/s")


def _progress(notes: Console) -> Progress:
    """A bar on standard error for each class; nothing at all unless that is a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=notes,
        transient=True,
        disable=not notes.is_terminal,
    )


def _print_summary(outcomes: list[Outcome], output: Console, *, dry_run: bool) -> None:
    names = ("type", "version", "actors", "would migrate" if dry_run else "migrated", "failed")
    rows = [
        (
            outcome.actor_type.name,
            outcome.actor_type.schema.version,
            f"{outcome.seen:,}",
            f"{outcome.migrated:,}",
            f"{outcome.failures:,}",
        )
        for outcome in outcomes
    ]
    print_columns(output, rows, names)
