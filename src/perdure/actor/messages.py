"""Messages: calls that are committed with the turn that makes them, and delivered after it.

A message is a row that its sender's commit writes and its receiver's commit takes away. So it is
applied once, however often the process dies between the two: there is nothing to remember at the
receiver, since both commits are of one database. Where they are not, the sender's process calls the
receiver, under an idempotency key that is the message's own, and then takes the row away.
"""

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from perdure.actor.effects import send
from perdure.actor.model import Caller, running_turn
from perdure.actor.spans import trail_of_sent
from perdure.base.codec import encode
from perdure.base.errors import BadArgumentsError, UnencodableError
from perdure.base.trail import Trail
from perdure.store.api import ABROAD, OUTLET

if TYPE_CHECKING:
    from perdure.actor.methods import ActorType, Method
    from perdure.actor.turn import Turn


class Sent:
    """What a `tell` gives: awaiting it waits for nothing, since the turn has still to commit."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, None]:
        return iter(())  # type: ignore[return-value]


_SENT = Sent()


class Teller:
    """The methods of one actor, as messages to it."""

    __slots__ = ("_actor_type", "_key")

    def __init__(self, actor_type: "ActorType", key: str) -> None:
        self._actor_type = actor_type
        self._key = key

    def __getattr__(self, name: str) -> Callable[..., Sent]:
        method = self._actor_type.methods.get(name)
        if method is None:
            raise AttributeError(f"{self._actor_type.actor_class.__name__} has no method {name!r}")

        def tell(*positional: Any, **named: Any) -> Sent:
            send_to_actor(running_turn(), method, self._key, positional, named)
            return _SENT

        return tell


def send_to_actor(
    turn: "Turn", method: "Method", key: str, positional: tuple[Any, ...], named: dict[str, Any]
) -> None:
    """Add a message to the effects of the turn; raises BadArgumentsError, LimitError."""
    arguments = encode(method.arguments_from_python(positional, named))
    abroad = ABROAD if turn.activation.host.is_abroad(key) else ""
    trail = trail_of_sent(turn, f"{method.actor_type.actor_class.__name__}/{method.name}")
    _send(turn, (abroad + method.actor_type.name, key), method.name, arguments, trail)


class OutletSender:
    """What a turn sends to the outlets of its App."""

    __slots__ = ("_turn",)

    def __init__(self, turn: "Turn") -> None:
        self._turn = turn

    def send(self, outlet: str, **values: Any) -> None:
        """Hand something to an outlet once this turn has committed.

        Tried again until the outlet takes it, under an id that stays the same, and in the order in
        which this actor sent it. Raises BadArgumentsError when the App has no such outlet,
        LimitError, and UnencodableError.
        """
        turn, known = self._turn, self._turn.activation.outlets
        if outlet not in known:
            names = ", ".join(sorted(known)) or "none"
            raise BadArgumentsError(f"the App has no outlet {outlet!r}; it has: {names}")
        arguments = _encode(turn, values)
        _send(turn, (OUTLET + outlet, ""), "", arguments, trail_of_sent(turn, outlet))


def _send(
    turn: "Turn",
    receiver: tuple[str, str],
    method: str,
    arguments: bytes,
    trail: Trail | None,
) -> None:
    caller = None if turn.caller is None else _encode(turn, turn.caller)
    send(turn, turn.activation.limits, receiver, method, arguments, caller, trail)


def _encode(turn: "Turn", value: dict[str, Any] | Caller) -> bytes:
    try:
        return encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise UnencodableError(f"{turn}: JSON cannot hold what it sends: {error}") from error
