"""The trail: what outside has to do with a piece of work, for logs.

It goes along wherever the work goes: from a request to its turn, to the calls which that makes,
over the wire, and into messages. Nobody decides anything by it.
"""

import msgspec


class Trail(msgspec.Struct, array_like=True, frozen=True):
    """Which request it is. An array on the wire, so that more can follow."""

    request_id: str = ""  # see `base.request_ids`; no idempotency key
