"""`perdure check --store`: does this code fit what is stored? Asked before it is deployed.

Looks without owning, also into the store of a running server. The counts are of all rows; whether
rows can be decoded is tried on a sample: all of a small table, else the ends, the newest row of
each version, and rows spread evenly. Evenly and not at random, so that a second run says the same.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from perdure.actor.methods import ActorType
from perdure.base.errors import StoreError
from perdure.cli.looking import Place, looking
from perdure.cli.tables import print_columns
from perdure.store.api import ActorSchema, StoredActor, StoredSchema
from perdure.store.look import Look
from perdure.web.app import App

_SAMPLE_ROWS = 1_000
_KEYS_SHOWN = 3


class Finding(msgspec.Struct):
    """What is said of one class, and whether it fits."""

    class_name: str
    table: str
    rows: int
    notes: list[str] = []
    fits: bool = True

    def object_to(self, note: str) -> None:
        """Add a reason why the code does not fit."""
        self.notes.append(f"! {note}")
        self.fits = False


def check_store(app: App, place: Place, console: Console) -> bool:
    """Print how each class fits what is stored, and a verdict; returns it. Raises Failure."""
    with looking(place) as reader:
        known = {schema.name: schema for schema in reader.schemas()}
        counts = {name: reader.count(name) for name in reader.actor_tables()}
        ours = {actor_type.name for actor_type in app.actor_types}
        lost = [name for name, rows in counts.items() if rows and name not in ours]
        findings = [
            _compare(actor_type, reader, known.get(actor_type.name))
            if counts.get(actor_type.name)
            else _new(actor_type, [(name, _fields(reader, name, known)) for name in lost])
            for actor_type in app.actor_types
        ]
        findings += [
            Finding("–", name, counts[name], ["the app has no class for it; its data stays"])
            for name in lost
        ]
    print_columns(console, list(_lines(findings)), ("class", "stored as", "rows", "finding"))
    fits = all(finding.fits for finding in findings)
    told = place if isinstance(place, Path) else "the database"  # a URL may hold a password
    console.print()
    console.print(
        f"{told}: the app fits what is stored"
        if fits
        else f"{told}: the app does not fit what is stored, see the lines with !",
        style="bold",
        markup=False,
    )
    return fits


# -- one class -----------------------------------------------------------------------------------


def _new(actor_type: ActorType, lost: Sequence[tuple[str, set[str]]]) -> Finding:
    finding = Finding(actor_type.actor_class.__name__, actor_type.name, 0)
    fields = set(actor_type.schema.fields)
    for name, stored_fields in lost:
        if stored_fields and stored_fields <= fields:
            finding.notes.append(
                f'new; if it is {name!r} under another name, keep its data with name="{name}"'
            )
    finding.notes = finding.notes or ["new: nothing is stored"]
    return finding


def _compare(actor_type: ActorType, reader: Look, known: StoredSchema | None) -> Finding:
    ours = actor_type.schema
    versions = reader.versions(ours.name)
    rows_of = {version: rows for version, (rows, _) in versions.items()}
    newest = [key for _, key in versions.values()]
    finding = Finding(actor_type.actor_class.__name__, ours.name, sum(rows_of.values()))
    tried = _try(actor_type, _sample(reader, ours.name, newest))
    _compare_versions(finding, ours.version, rows_of)
    _compare_fields(finding, ours, known, tried.unknown)
    _look_for_duplicates(finding, ours, reader)
    if tried.failures:
        keys = f" ({', '.join(tried.keys)})" if tried.keys else ""
        finding.object_to(
            f"of {_rows(tried.rows)} tried, {tried.failures:,} cannot be read{keys}: {tried.error}"
        )
    finding.notes = finding.notes or ["unchanged"]
    return finding


def _compare_versions(finding: Finding, version: int, rows_of: dict[int, int]) -> None:
    older = sum(rows for schema, rows in rows_of.items() if schema < version)
    newer = sum(rows for schema, rows in rows_of.items() if schema > version)
    if older:
        finding.notes.append(
            f"version {min(rows_of)} → {version}: {_rows(older)} will be migrated on waking"
        )
    if newer:
        finding.object_to(
            f"version {max(rows_of)} has {_rows(newer)}, and the class is of version {version}: "
            "it will only read those"
        )


def _compare_fields(
    finding: Finding, ours: ActorSchema, known: StoredSchema | None, gone: set[str]
) -> None:
    if known is not None:
        added = [name for name in ours.fields if name not in known.fields]
        dropped = [name for name in known.fields if name not in ours.fields]
        if known.version == ours.version:
            gone = gone | set(dropped)
        elif known.version < ours.version and dropped:
            finding.notes.append(f"fields dropped by migration: {', '.join(dropped)}")
        if added:
            by = "by migration, or their" if known.version < ours.version else "their"
            finding.notes.append(f"fields added: {', '.join(added)}; {by} defaults fill in")
    if gone:
        finding.object_to(
            f"fields gone: {', '.join(sorted(gone))}; this needs @migrate(to={ours.version + 1}); "
            "without it, rows that have them can only be read"
        )


def _look_for_duplicates(finding: Finding, ours: ActorSchema, reader: Look) -> None:
    """The store would refuse to open; it, too, looks at rows as they are stored."""
    for field in ours.indexes:
        if not field.unique:
            continue
        found = reader.duplicates(ours.name, field.name, _KEYS_SHOWN)
        if found:
            values = ", ".join(f"{value!r} in {_rows(rows)}" for value, rows in found)
            finding.object_to(f"{field.name} is unique, but has {values}: the app will not start")


class _Tried(msgspec.Struct):
    """What came of decoding a sample; the rows themselves may be too large to keep."""

    rows: int = 0
    unknown: set[str] = set()  # fields of this version that the class lacks
    failures: int = 0
    keys: list[str] = []  # the first that failed
    error: str = ""  # of the very first


def _try(actor_type: ActorType, sample: Iterator[tuple[str, StoredActor | StoreError]]) -> _Tried:
    tried = _Tried()
    for key, stored in sample:
        tried.rows += 1
        try:
            if isinstance(stored, StoreError):
                raise stored
            _, newer = actor_type.decode_stored(stored)
        except StoreError as error:
            tried.failures += 1
            tried.error = tried.error or str(error)
            if len(tried.keys) < _KEYS_SHOWN:
                tried.keys.append(key)
        else:
            if newer and stored.schema == actor_type.schema.version:
                tried.unknown |= actor_type.migrations.unknown_fields(stored.state)
    return tried


# -- looking at the store ------------------------------------------------------------------------


def _fields(reader: Look, name: str, known: dict[str, StoredSchema]) -> set[str]:
    return set(known[name].fields) if name in known else set()


def _sample(
    reader: Look, name: str, newest: Sequence[str]
) -> Iterator[tuple[str, StoredActor | StoreError]]:
    """Keys to try, each with its row or with why that cannot be read."""
    for key in dict.fromkeys([*newest, *reader.spread(name, _SAMPLE_ROWS)]):
        try:
            stored: StoredActor | StoreError | None = reader.load(name, key)
        except StoreError as error:
            stored = error
        if stored is not None:  # else it went meanwhile
            yield key, stored


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def _lines(findings: Sequence[Finding]) -> Iterator[tuple[str, ...]]:
    for finding in findings:
        head = (finding.class_name, finding.table, f"{finding.rows:,}")
        for note in finding.notes:
            yield (*head, note)
            head = ("", "", "")
