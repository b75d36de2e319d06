"""`perdure state list|show|query`: look into a store, while its server runs or not."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from perdure.base.codec import encode
from perdure.base.errors import InvalidKeyError, StoreError
from perdure.base.keys import normalize_key
from perdure.base.names import snake_case
from perdure.cli.failures import NO_INPUT, USAGE, Failure
from perdure.cli.looking import Place, looking
from perdure.cli.tables import print_columns, printable
from perdure.store.look import Look

KEY_BYTES_MAX = 64 << 10  # far above any `Limits.key_bytes_max`: the app decides, not we
_TABLE_ROWS_MAX = 1_000  # a table is held in memory to align its columns


def list_types(place: Place, output: Console) -> None:
    """Print the actor types and how many actors each has."""
    with looking(place) as reader:
        rows = [(name, f"{reader.count(name):,}") for name in reader.actor_tables()]
    print_columns(output, rows, ("type", "actors"))


def list_keys(
    place: Place, given: str, page: tuple[str, int], consoles: tuple[Console, ...]
) -> None:
    """Print one page of the keys of a type; `page` is (after, limit)."""
    (after, limit), (output, notes) = page, consoles
    after = after and stored_key(after)
    with looking(place) as reader:
        actor_type = type_named(reader, given)
        actors = reader.scan(actor_type, after, limit + 1)
    rows = [(actor.key, actor.version, time_text(actor.updated_at_ms)) for actor in actors[:limit]]
    print_columns(output, rows, ("key", "version", "updated"))
    if len(actors) > limit:
        notes.print(f"there are more: --after {shlex.quote(actors[limit - 1].key)}", markup=False)


def show(place: Place, given: str, key: str) -> str:
    """One actor as a JSON document to read."""
    with looking(place) as reader:
        actor_type = type_named(reader, given)
        actor = reader.load(actor_type, stored_key(key))
    if actor is None:
        raise Failure(
            f"no {actor_type} has the key {key!r}",
            f"perdure state list {actor_type} shows those there are",
            exit_code=NO_INPUT,
        )
    document = {
        "type": actor_type,
        "key": actor.key,
        "version": actor.version,
        "created": time_text(actor.created_at_ms),
        "updated": time_text(actor.updated_at_ms),
        "state": msgspec.Raw(actor.state),
    }
    return msgspec.json.format(encode(document), indent=2).decode()


def query_as_table(place: Place, sql: str, consoles: tuple[Console, Console]) -> None:
    """Run one SELECT and print its rows in columns."""
    output, notes = consoles
    with _asking(place, sql) as (names, rows):
        table = [[_cell(value) for value in row] for row in islice(rows, _TABLE_ROWS_MAX)]
        print_columns(output, table, names)
        if next(rows, None) is not None:
            notes.print(f"only the first {_TABLE_ROWS_MAX:,} rows are shown; --json gives all")


def query_as_json(place: Place, sql: str) -> Iterator[bytes]:
    """Run one SELECT; each row as a JSON object on a line of its own."""
    with _asking(place, sql) as (names, rows):
        for row in rows:
            values = map(_json_value, row)
            yield encode(dict(zip(_distinct(names), values, strict=True))) + b"\n"


def type_named(reader: Look, given: str) -> str:
    """The table of a type, which may be given as `ShoppingCart` or `shopping-cart` too."""
    names = reader.actor_tables()
    name = snake_case(given)
    if name in names:
        return name
    hint = f"it has: {', '.join(names)}" if names else "it has none yet"
    raise Failure(f"the store has no type {given!r}", hint, exit_code=NO_INPUT)


def stored_key(key: str) -> str:
    """The key in the form in which it is stored; raises Failure if it cannot be one."""
    try:
        return normalize_key(key, KEY_BYTES_MAX)
    except InvalidKeyError as error:
        raise Failure(str(error)) from error


def time_text(at_ms: int) -> str:
    """Wall-clock milliseconds for people: ISO 8601, UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


@contextmanager
def _asking(place: Place, sql: str) -> Iterator[tuple[list[str], Iterator[tuple[Any, ...]]]]:
    if not sql.strip() or any("\ud800" <= character <= "\udfff" for character in sql):
        raise Failure("the SQL is empty or not valid UTF-8")
    with looking(place) as reader:
        try:
            names, rows = reader.query(sql)
            yield names, rows
        except StoreError as error:
            if type(error) is not StoreError:
                raise
            path = "$.items" if isinstance(place, Path) else "items"
            hint = f"for example: \"SELECT key, state ->> '{path}' FROM todo_list\""
            raise Failure(str(error), hint, exit_code=USAGE) from error


def _cell(value: Any) -> str:
    if isinstance(value, bytes):
        return _text_of_blob(value)
    if isinstance(value, bool | list | dict):
        value = encode(_json_value(value)).decode()
    return "" if value is None else printable(str(value))


def _json_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return _text_of_blob(value)
    if isinstance(value, Decimal):  # digit for digit; JSON has no other number for it
        return msgspec.Raw(format(value, "f").encode()) if value.is_finite() else str(value)
    if isinstance(value, list):
        return [_json_value(one) for one in value]
    if isinstance(value, dict):
        return {name: _json_value(one) for name, one in value.items()}
    return value


def _text_of_blob(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()


def _distinct(names: list[str]) -> list[str]:
    """Names as JSON needs them: a second `key` becomes `key_2`."""
    return [
        name if names.index(name) == index else f"{name}_{names[: index + 1].count(name)}"
        for index, name in enumerate(names)
    ]
