"""JSON in and out. One place, so that state, arguments and replies follow the same rules."""

from typing import Any

import msgspec

# Decimals become strings and dict keys keep their order: what was written is what is read.
_ENCODER = msgspec.json.Encoder()

encode = _ENCODER.encode


def decoder(wanted: Any) -> msgspec.json.Decoder[Any]:
    """A reusable decoder for one type; building it is slow, using it is not."""
    return msgspec.json.Decoder(wanted)
