"""Cursors: the text with which a listing goes on where its last page ended.

A cursor holds the position, which is the last row's values of the sorted fields and its key, and
a fingerprint of the query, so that it cannot be used with another one by mistake. It is neither
encrypted nor signed: it names a place and grants nothing, and whoever makes one up gets the rows
behind that place, which any caller of the same listing could have asked for.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from perdure.base.codec import decoder, encode
from perdure.base.errors import BadArgumentsError

_FINGERPRINT_BYTES = 8
_decode_position = decoder(tuple[list[Any], str]).decode

Position = tuple[Sequence[Any], str]  # values of the sorted fields, as in JSON, and the key


def fingerprint_of(*query: Any) -> bytes:
    """What tells a query from others, whatever its page size."""
    return hashlib.sha256(encode(query)).digest()[:_FINGERPRINT_BYTES]


def encode_cursor(fingerprint: bytes, position: Position) -> str:
    """The cursor for a position, safe to put into a URL."""
    return base64.urlsafe_b64encode(fingerprint + encode(position)).decode("ascii").rstrip("=")


def decode_cursor(fingerprint: bytes, cursor: str) -> Position:
    """The position in a cursor; raises BadArgumentsError when it is garbled or another query's."""
    garbled = BadArgumentsError("the cursor is garbled; begin again without one")
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        position: Position = _decode_position(raw[_FINGERPRINT_BYTES:])
    except (binascii.Error, ValueError, msgspec.MsgspecError, RecursionError):
        raise garbled from None
    if encode_cursor(raw[:_FINGERPRINT_BYTES], position) != cursor:
        raise garbled  # Base64 overlooks what it does not know
    if raw[:_FINGERPRINT_BYTES] != fingerprint:
        raise BadArgumentsError(
            "the cursor belongs to another query; its conditions and order must stay the same"
        )
    return position
