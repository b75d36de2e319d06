"""Request ids: one name for everything that one request causes, in logs and on the wire.

An id comes from outside, in `X-Request-Id`, or is made here. It is no secret and no proof of
anything: it only says which log lines belong together. The idempotency key of a call, which is
called `request_id` in turns and frames for historical reasons, is something else.
"""

import re

from perdure.base.ids import new_id

CHARACTERS_MAX = 128

_WELL_FORMED = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,%d}" % CHARACTERS_MAX)


class RequestIds:
    """Makes request ids. Numbers behind a random name: a third of the cost of drawing each."""

    __slots__ = ("_count", "_prefix")

    def __init__(self) -> None:
        self._prefix = new_id()[:16]
        self._count = 0

    def next(self) -> str:
        """One that no other process makes, and this one only once."""
        self._count += 1
        return f"{self._prefix}-{self._count:x}"


def request_id_of(given: bytes) -> str | None:
    """A request id as it came in a header; None if it is not fit to be logged and passed on.

    Whoever calls this has made sure that it comes from a source that may name requests.
    """
    return given.decode("ascii") if _WELL_FORMED.fullmatch(given) else None
