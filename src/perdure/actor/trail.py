"""The trail of the code that runs: see `base.trail`."""

from perdure.actor.model import current_turn
from perdure.actor.turn import Turn
from perdure.base.trail import Trail, current_trail, tracing


def request_id() -> str | None:
    """The id of the request that the running code belongs to, in a method of an actor or in the
    mounted app; None if it belongs to none, or that has none.

    It is in the log lines of `perdure`, and fit to be passed on to other services.
    """
    trail = _own(current_turn.get())
    return None if trail is None else trail.request_id or None


def trail_here(turn: Turn | None = None) -> Trail | None:
    """Of what the running code begins, in this turn or in none."""
    trail, spans = _own(turn), tracing()
    return trail if spans is None else spans.trail_here(trail)


def follow(trail: Trail | None) -> None:
    """Let what this task begins follow a trail that came from elsewhere."""
    if trail is not None:
        current_trail.set(trail)
        if (spans := tracing()) is not None:
            spans.attach(trail)


def names_here() -> dict[str, str]:
    """What a log line says of the request, and the span, that the running code belongs to."""
    trail = trail_here(current_turn.get())
    return {} if trail is None else trail.names


def _own(turn: Turn | None) -> Trail | None:
    return current_trail.get() if turn is None else turn.trail
