"""The trail of the code that runs: see `base.trail`."""

from perdure.actor.model import current_turn
from perdure.base.request_ids import current_request_id
from perdure.base.trail import Trail


def request_id() -> str | None:
    """The id of the request that the running code belongs to, in a method of an actor or in the
    mounted app; None if it belongs to none, or that has none.

    It is in the log lines of `perdure`, and fit to be passed on to other services.
    """
    turn = current_turn.get()
    if turn is None:
        return current_request_id.get()
    return None if turn.trail is None else turn.trail.request_id or None


def trail_here() -> Trail | None:
    """Of what the running code begins, if it runs in no turn."""
    name = current_request_id.get()
    return None if name is None else Trail(name)


def follow(trail: Trail | None) -> None:
    """Let what this task begins follow a trail that came from elsewhere."""
    if trail is not None and trail.request_id:
        current_request_id.set(trail.request_id)
