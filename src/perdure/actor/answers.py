"""Answers as they are encoded, and as they are remembered.

Under an idempotency key for long, in rows of their own. And for a minute, all of one gateway in a
commit as one row, for calls that were sent again because their owner died: see `cluster`. There,
`None` in place of an answer says that something of the call was committed, but not its end.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.actor.model import Actor
from perdure.actor.turn import Turn
from perdure.base.codec import encode
from perdure.base.errors import NewerStateError, RequestReusedError, UnencodableError
from perdure.base.texts import holds_nul
from perdure.store.api import Answers, RequestRecord

if TYPE_CHECKING:
    from perdure.actor.activation import Activation

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[tuple[int, bytes | None]]).decode


def encoded_by(turn: Turn, value: Any) -> bytes:
    """The value as JSON; raises UnencodableError naming the turn."""
    try:
        return encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        # RecursionError: a list that holds itself
        raise UnencodableError(f"{turn}: JSON cannot hold this: {error}") from error


def newer_state(activation: "Activation") -> NewerStateError:
    """Why an actor may not be written by this code."""
    return NewerStateError(
        f"newer code wrote {activation}, or its class lost a field without @migrate: it can be"
        " read, but a write would lose what this code does not know"
    )


def read_back(turn: Turn, encoded: bytes) -> Actor:
    """The actor as its state will be read when it wakes; raises UnencodableError if it will not.

    NUL in a text is refused whatever the store: PostgreSQL cannot hand it out as text, and so
    neither index it nor show it in a view.
    """
    if holds_nul(encoded):
        raise UnencodableError(f"{turn} left a state with NUL in a text, which no store holds")
    try:
        return turn.activation.actor_type.decode_state(encoded)  # type: ignore[no-any-return]
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UnencodableError(
            f"{turn} left a state that could not be read back: {error}"
        ) from None


def _fingerprint(turn: Turn) -> bytes:
    return encode((turn.method.name, turn.arguments))


def record_of(turn: Turn, request_id: str, body: bytes) -> RequestRecord:
    """What is remembered of the answer to an idempotency key."""
    activation = turn.activation
    return RequestRecord(
        activation.actor_type.name, activation.key, request_id, _fingerprint(turn), body
    )


def reply_of(record: RequestRecord, turn: Turn) -> bytes:
    """The remembered answer; raises RequestReusedError when it is that of another request."""
    if record.fingerprint != _fingerprint(turn):
        # what stands before the line end says who sent it, which the web tier put there
        sent = (turn.request_id or "").rpartition("\n")[2]
        raise RequestReusedError(
            f"{turn}: idempotency key {sent!r} came before with another request"
        )
    return record.reply


Origin = tuple[str, int]
"""What names a call among processes: the gateway where it came in, and its number there."""


def answers_of(
    given: Iterable[tuple[Any, Origin, bytes | None]], groups: Mapping[Any, int]
) -> list[Answers]:
    """What a commit remembers of the calls that it holds; of those of a group that may be left out
    apart from the others."""
    by_gateway: dict[tuple[str, int], list[tuple[int, bytes | None]]] = {}
    for activation, (gateway, number), body in given:
        group = groups.get(activation, 0)
        by_gateway.setdefault((gateway, group), []).append((number, body))
    return [
        Answers(
            gateway,
            min(number for number, _ in answers),
            max(number for number, _ in answers),
            _pack(answers),
            group,
        )
        for (gateway, group), answers in by_gateway.items()
    ]


def answer_among(bodies: Iterable[bytes], number: int) -> tuple[bytes | None] | None:
    """The answer to a gateway's call, if one of these bodies of `Answers` holds it: in a tuple, to
    tell the answer of a call that was only begun from none."""
    found = [body for packed in bodies for given, body in _unpack(packed) if given == number]
    if not found:
        return None
    return (next((body for body in found if body is not None), None),)
