"""Live views on the wire: frames as Server-Sent Events and as WebSocket messages.

An event stream carries, for each frame,

    id: 0f62…            the token of what the client holds after this frame
    event: patch         snapshot, patch or error
    data: {"tea":2}      JSON on one line

and a WebSocket the same as one text message, `{"event":"patch","id":"0f62…","data":{"tea":2}}`.
A snapshot is the whole result, a patch a JSON Merge Patch (RFC 7396) to what was sent before it, an
error a problem document (RFC 9457), after which nothing comes.
"""

import struct

from perdure.base.ids import jittered
from perdure.runtime.live import Frame
from perdure.web.problems import problem_of
from perdure.web.queries import values_of
from perdure.web.replies import header_lines

EVENT_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
]
EVENT_STREAM_LINES = header_lines(EVENT_STREAM_HEADERS)
HEARTBEAT = b":\n\n"

_RETRY_MS = 1_000.0
_LAST_EVENT_ID = "last_event_id"


def as_event(frame: Frame) -> bytes:
    """The frame in an event stream."""
    head = f"id: {frame.token}\nevent: {frame.event}\ndata: "
    return b"%b%b\n\n" % (head.encode(), frame.body)


def as_text(frame: Frame) -> bytes:
    """The frame as the text of a WebSocket message."""
    head = f'{{"event":"{frame.event}","id":"{frame.token}","data":'
    return b"%b%b}" % (head.encode(), frame.body)


def as_message(frame: Frame) -> bytes:
    """The frame as an uncompressed WebSocket message of a server (RFC 6455, 5.2): the same for all
    clients, so it is made once."""
    text = as_text(frame)
    size = len(text)
    if size < 126:
        return struct.pack("!BB", 0x81, size) + text
    if size < 1 << 16:
        return struct.pack("!BBH", 0x81, 126, size) + text
    return struct.pack("!BBQ", 0x81, 127, size) + text


def error_as_event(error: BaseException) -> bytes:
    """The last event of a stream whose method failed."""
    return b"event: error\ndata: %b\n\n" % problem_of(error)[1]


def error_as_text(error: BaseException) -> bytes:
    """The last message of a WebSocket whose method failed."""
    return b'{"event":"error","data":%b}' % problem_of(error)[1]


def retry_line() -> bytes:
    """When to come back after the stream has ended: for each client another time, since a server
    that ends loses all of them at once."""
    return b"retry: %d\n\n" % jittered(_RETRY_MS)


def split_query(query: bytes, last_event_id: bytes | None) -> tuple[dict[str, str], str | None]:
    """Returns the arguments in a query, and the token of what the client holds. A header counts
    more: browsers send it when they connect anew, with the query they began with. Raises
    BadArgumentsError."""
    values = values_of(query)
    token = values.pop(_LAST_EVENT_ID, None)
    if last_event_id:
        token = last_event_id.decode("latin-1")
    return values, token
