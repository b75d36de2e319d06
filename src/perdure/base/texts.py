"""Which texts a store can hold: all of Unicode but NUL, and no halves of a surrogate pair.

PostgreSQL has neither in a text, and SQLite's own tools end a text at NUL. So both are refused at
the edge, whatever the store: else one such text would fail a whole group commit, again and again.
"""

import re

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # not a backslash, itself escaped, and u0000


def unstorable(text: str) -> str | None:
    """What in this text no store can hold, or None."""
    if "\0" in text:
        return "a NUL character"
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return "a lone surrogate"
    return None


def holds_nul(encoded: bytes) -> bool:
    """True if a text in this JSON holds NUL."""
    # `in` would first try to take the bytes for a number, at the cost of an exception
    return encoded.find(b"\\u0000") >= 0 and _NUL.search(encoded) is not None
