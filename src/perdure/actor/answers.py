"""Answers as they are encoded, and as they are remembered under an idempotency key."""

from typing import Any

from perdure.actor.turn import Turn
from perdure.base.codec import encode
from perdure.base.errors import RequestReusedError, UnencodableError
from perdure.store.api import RequestRecord


def encoded_by(turn: Turn, value: Any) -> bytes:
    """The value as JSON; raises UnencodableError naming the turn."""
    try:
        return encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        # RecursionError: a list that holds itself
        raise UnencodableError(f"{turn}: JSON cannot hold this: {error}") from error


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
        raise RequestReusedError(
            f"{turn}: idempotency key {turn.request_id!r} came before with another request"
        )
    return record.reply
