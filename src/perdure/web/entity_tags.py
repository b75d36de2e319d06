"""Conditional requests: `ETag`, 304 for who has the answer already, and what `If-Match` asks for.

The tag of an answer is a hash of it; behind a dash follows, for a read of an actor, the tag of the
state that it was made from (`actor.state_tags`). `If-None-Match` compares the whole. `If-Match`
compares the part behind the dash only: a change is based on a state, whichever view showed it.

The state alone was rejected as the tag of an answer: a method may look at other actors, at its
caller or at the time, which no state of its own actor knows.

Invariants:
- What goes out with a tag may be kept by the client, not by anybody between, and never be used
  without asking: the next call may answer something else.
- A short answer has a tag only for the state in it: to hash it for a 304 would cost more than that
  saves.
"""

import hashlib
import re
from typing import TYPE_CHECKING

from perdure.actor.state_tags import ANY
from perdure.base.errors import BadArgumentsError

if TYPE_CHECKING:
    from perdure.web.exchange import Exchange

TAGGED_BYTES_MIN = 512

# A proxy that compresses makes a tag weak. What is compared is the state and not the bytes, so that
# does no harm here, although RFC 9110, 13.1.1 has If-Match compare strongly.
_TAG = rb'(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"'
_FIND_TAGS = re.compile(_TAG).findall
_IS_LIST = re.compile(rb"[\s,]*%b(?:[ \t]*,[ \t,]*%b)*[\s,]*" % (_TAG, _TAG)).fullmatch


def reply_tagged(exchange: "Exchange", body: bytes, state: str = "") -> None:
    """Reply to a GET or HEAD with this JSON, or with 304 if the client has it.

    Args:
        state: the tag of the state that the answer was made from, if it has one.
    """
    if not state and len(body) < TAGGED_BYTES_MIN:
        exchange.reply(200, body)
        return
    value = hashlib.blake2b(body, digest_size=16).hexdigest()
    tag = f'"{value}-{state}"' if state else f'"{value}"'
    lines = f"etag: {tag}\r\ncache-control: private, no-cache\r\n".encode()
    known = exchange.fields.get(b"if-none-match")
    if known is not None and _holds(exchange.header(b"if-none-match") or known, tag.encode()):
        exchange.reply(304, b"", extra=lines)
    else:
        exchange.reply(200, body, extra=lines)


def wanted_states(exchange: "Exchange") -> list[str] | None:
    """The states that If-Match allows a call to run on; None: whichever.

    Raises BadArgumentsError for what is no list of tags: to go on without it would overwrite.
    """
    if b"if-match" not in exchange.fields:
        return None
    asked = exchange.header(b"if-match") or b""
    if asked.strip() == b"*":
        return [ANY]
    if not _IS_LIST(asked):
        raise BadArgumentsError('If-Match is neither * nor a list of tags like "…"', "If-Match")
    return [
        state.decode("latin-1") for tag in _FIND_TAGS(asked) if (state := tag.partition(b"-")[2])
    ]


def _holds(known: bytes, tag: bytes) -> bool:
    """Whether a list of tags has this one; a proxy that compresses makes it weak (RFC 9110, 13)."""
    return known == b"*" or tag in [one.strip().removeprefix(b"W/") for one in known.split(b",")]
