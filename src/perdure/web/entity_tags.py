"""Conditional GETs: `ETag`, and 304 for who has the answer already.

A tag is a hash of the answer. The version of the actor was rejected: turns that share a commit
share a version, so two different answers could have one tag; and a method may look at other actors,
at its caller or at the time, which no version of its own actor knows.

Invariants:
- What goes out with a tag may be kept by the client, not by anybody between, and never be used
  without asking: the next call may answer something else.
- An answer shorter than the head of a 304 has no tag: to hash it would cost more than it saves.
"""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.web.exchange import Exchange

TAGGED_BYTES_MIN = 512


def reply_tagged(exchange: "Exchange", body: bytes) -> None:
    """Reply to a GET or HEAD with this JSON, or with 304 if the client has it."""
    if len(body) < TAGGED_BYTES_MIN:
        exchange.reply(200, body)
        return
    tag = b'"%b"' % hashlib.blake2b(body, digest_size=16).hexdigest().encode()
    lines = b"etag: %b\r\ncache-control: private, no-cache\r\n" % tag
    known = exchange.header(b"if-none-match")
    if known is not None and _holds(known, tag):
        exchange.reply(304, b"", extra=lines)
    else:
        exchange.reply(200, body, extra=lines)


def _holds(known: bytes, tag: bytes) -> bool:
    """Whether a list of tags has this one; a proxy that compresses makes it weak (RFC 9110, 13)."""
    return known == b"*" or tag in [one.strip().removeprefix(b"W/") for one in known.split(b",")]
