"""Cursors: the text with which a listing goes on where its last page ended.

A cursor holds the position, which is the last row's values of the sorted fields and its key (of a
collection, the last entry); a fingerprint of the query, so that it cannot be used with another one
by mistake; and a check sum, so that no part of it can be changed by mistake. It is neither
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
_CHECKED_BYTES = 12  # the fingerprint, and four bytes of check sum
_decode_position = decoder(tuple[list[Any], str]).decode

Position = tuple[Sequence[Any], str]  # values of the sorted fields, as in JSON, and the key


def fingerprint_of(*query: Any) -> bytes:
    """What tells a query from others, whatever its page size."""
    return hashlib.sha256(encode(query)).digest()[:_FINGERPRINT_BYTES]


def encode_cursor(fingerprint: bytes, position: Position) -> str:
    """The cursor for a position, safe to put into a URL."""
    packed = encode(position)
    check_sum = hashlib.sha256(fingerprint + packed).digest()[: _CHECKED_BYTES - _FINGERPRINT_BYTES]
    return base64.urlsafe_b64encode(fingerprint + check_sum + packed).decode("ascii").rstrip("=")


def decode_cursor(fingerprint: bytes, cursor: str) -> Position:
    """The position in a cursor; raises BadArgumentsError when it is garbled or another query's."""
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        position: Position = _decode_position(raw[_CHECKED_BYTES:])
    except (binascii.Error, ValueError, msgspec.MsgspecError, RecursionError):
        raise garbled() from None
    if encode_cursor(raw[:_FINGERPRINT_BYTES], position) != cursor:
        raise garbled()  # also for what Base64 overlooks
    if raw[:_FINGERPRINT_BYTES] != fingerprint:
        raise BadArgumentsError(
            "the cursor belongs to another query; its conditions and order must stay the same",
            "cursor",
        )
    return position


def garbled() -> BadArgumentsError:
    """What is wrong with a cursor that names no place."""
    return BadArgumentsError("the cursor is garbled; begin again without one", "cursor")
