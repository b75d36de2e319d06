"""Actor keys: what may be one, and the one form in which each is stored.

The rule: 1 to 512 bytes of UTF-8 after Unicode NFC normalisation, no control characters (C0, C1,
DEL), no lone surrogates, and not `.` or `..`, which HTTP clients fold away as path segments. All
else is allowed, `/` and quotes included: keys travel percent-encoded in paths and as bound
parameters in SQL, so they can escape neither.
"""

import unicodedata
from urllib.parse import unquote_to_bytes

from perdure.base.errors import InvalidKeyError

_PERCENT = ord("%")  # a number is looked for at once, bytes only after a failed attempt at one


def normalize_key(key: str, bytes_max: int = 512) -> str:
    """Return the stored form of `key`; raises InvalidKeyError when it may not be a key."""
    if key.isascii():
        if key.isprintable() and 0 < len(key) <= bytes_max and key not in {".", ".."}:
            return key
    else:
        key = unicodedata.normalize("NFC", key)
    return _check(key, bytes_max)


def key_of_path_segment(segment: bytes, bytes_max: int = 512) -> str:
    """Decode one raw, percent-encoded path segment into a key; raises InvalidKeyError."""
    if _PERCENT in segment:
        segment = unquote_to_bytes(segment)
    try:
        return normalize_key(segment.decode(), bytes_max)
    except UnicodeDecodeError:
        raise InvalidKeyError("the key is not UTF-8") from None


def _check(key: str, bytes_max: int) -> str:
    if key in {"", ".", ".."}:
        raise InvalidKeyError(f"{key!r} cannot be a key")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in key):
        raise InvalidKeyError("the key holds a control character or a lone surrogate")
    if (size := len(key.encode())) > bytes_max:
        raise InvalidKeyError(f"the key has {size} bytes; at most {bytes_max} are allowed")
    return key
