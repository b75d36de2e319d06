"""`perdure state letters|resend|drop-letter`: what to do about messages that were given up."""

from collections.abc import Iterator, Sequence
from itertools import islice

from rich.console import Console

from perdure.base.clock import SystemClock
from perdure.cli.failures import NO_INPUT, Failure
from perdure.cli.looking import Place, letters, looking
from perdure.cli.state import time_text
from perdure.cli.tables import print_columns, printable
from perdure.store.api import Message
from perdure.store.look import Look

_PAGE_ROWS = 50
_COLUMNS = ("id", "sent", "sender", "receiver", "attempts", "error")


def list_letters(place: Place, page: tuple[int, int], consoles: tuple[Console, Console]) -> None:
    """Print one page of the dead letters; `page` is (after, limit)."""
    (after, limit), (output, notes) = page, consoles
    with looking(place) as reader:
        rows = list(islice(_rows(reader, after), limit + 1))
    if not rows:
        output.print("No dead letters." if after == 0 else "No more dead letters.")
        return
    print_columns(output, rows[:limit], _COLUMNS)
    if len(rows) > limit:
        notes.print(f"there are more: --after {rows[limit - 1][0]}")


def resend(place: Place, ids: Sequence[int]) -> int:
    """Make these letters due again; returns how many. Raises Failure if one of them is none.

    Those that are letters are sent again even then.
    """
    with letters(place) as dead:
        _refuse_others(ids, dead.resend(ids, SystemClock().wall_ms()), "sent again")
    return len(set(ids))


def resend_all(place: Place) -> int:
    """Make every letter due again; returns how many.

    By id and each once: a letter that dies again meanwhile would else be sent without an end.
    """
    with letters(place) as dead:
        after, count = 0, 0
        while sent := dead.resend_behind(after, SystemClock().wall_ms()):
            after = sent[-1]
            count += len(sent)
    return count


def described(place: Place, letter_id: int) -> str:
    """One letter in a line, for who is asked whether to drop it; raises Failure if it is none."""
    with looking(place) as reader:
        found = reader.dead_letters(letter_id - 1, 1)
    if not found or found[0].id != letter_id:
        _refuse_others([letter_id], [], "dropped")
    _, sent, sender, receiver, _, error = _row(found[0])
    return printable(f"{receiver} from {sender}, sent {sent}, error {error!r}")


def drop(place: Place, letter_id: int) -> None:
    """Delete a letter for good; raises Failure if it is none."""
    with letters(place) as dead:
        _refuse_others([letter_id], dead.drop([letter_id]), "dropped")


def _rows(reader: Look, after: int) -> Iterator[tuple[str, ...]]:
    """What is shown of each letter; what is not, its arguments, is held for a few at a time."""
    while page := reader.dead_letters(after, _PAGE_ROWS):
        yield from map(_row, page)
        after = page[-1].id


def _row(letter: Message) -> tuple[str, ...]:
    stream = letter.stream
    return (
        str(letter.id),
        time_text(letter.sent_at_ms),
        f"{stream.sender_type}/{stream.sender_key}",
        f"{_place(stream.receiver_type, stream.receiver_key)}.{letter.method}".rstrip("."),
        str(letter.attempts),
        letter.error,
    )


def _place(receiver_type: str, receiver_key: str) -> str:
    return f"{receiver_type}/{receiver_key}" if receiver_key else receiver_type  # an outlet


def _refuse_others(ids: Sequence[int], done: Sequence[int], what: str) -> None:
    others = sorted(set(ids) - set(done))
    if not others:
        return
    named = ", ".join(map(str, others[:20])) + (", …" if len(others) > 20 else "")
    told = f"; {len(done):,} others were {what}" if done else ""
    raise Failure(
        f"no dead letter has the id {named}{told}",
        "perdure state letters shows those there are",
        exit_code=NO_INPUT,
    )
