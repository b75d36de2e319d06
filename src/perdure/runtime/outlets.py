"""Outlets: ways out of the database for messages, such as webhooks and e-mail.

An outlet is any async function that takes a `Delivery` and raises when it could not hand it over;
then it is called again later. It may be called twice for one delivery, when the process dies after
the outside has taken it and before that was written down: pass `delivery.id` on, it stays the same.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Self

import msgspec

from perdure.base.codec import decoder
from perdure.base.trail import Trail
from perdure.store.api import Message


class Delivery(msgspec.Struct, frozen=True):
    """What an actor has sent to an outlet."""

    id: str  # random, the same at each attempt
    sender: str  # the actor, as `type/key`
    values: dict[str, Any]
    attempt: int  # 1 at first
    traceparent: str = ""  # where traces are made: to be passed on, as the header of that name
    tracestate: str = ""

    @classmethod
    def of(cls, message: Message, attempts: int, trail: Trail | None = None) -> Self:
        """The delivery of a message that was tried `attempts` times in vain."""
        stream = message.stream
        values = _decode_values(message.arguments)
        sender = f"{stream.sender_type}/{stream.sender_key}"
        trail = trail or Trail()
        return cls(message.uid, sender, values, attempts + 1, trail.traceparent, trail.tracestate)


Outlet = Callable[[Delivery], Awaitable[None]]

_decode_values = decoder(dict[str, Any]).decode
