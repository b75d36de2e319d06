"""Spans beside those of turns: messages, outlets and transactions. Nothing, where none are made."""

from contextlib import AbstractContextManager, nullcontext

from perdure.actor.model import current_turn
from perdure.actor.trail import trail_here
from perdure.actor.turn import Turn
from perdure.base.trail import Trail, tracing


def trail_of_sent(turn: Turn, receiver: str) -> Trail | None:
    """The trail of a message that a turn sends, to `Class/method` or to an outlet."""
    spans = tracing()
    if spans is None:
        return turn.trail
    told = _messaging(receiver)
    with spans.inside(f"send {receiver}", trail_here(turn), "PRODUCER", told) as trail:
        return trail


def handing_over(outlet: str, trail: Trail | None) -> AbstractContextManager[Trail | None]:
    """Around an outlet that takes what was sent; gives the trail to hand on to it."""
    spans = tracing()
    if spans is None:
        return nullcontext(trail)
    told = _messaging(outlet)
    return spans.inside(f"process {outlet}", trail, "CONSUMER", told, is_linked=True)


def around(name: str) -> AbstractContextManager[Trail | None]:
    """Around a part of what the running code does."""
    spans = tracing()
    return nullcontext() if spans is None else spans.inside(name, trail_here(current_turn.get()))


def _messaging(name: str) -> dict[str, str | int]:
    return {"messaging.system": "perdure", "messaging.destination.name": name}
