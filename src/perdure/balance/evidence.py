"""What the kernel knows of a request that was lost with its connection: whether any of it arrived.

It exists because of the one race that keep-alive cannot avoid: a server closes a connection that
nobody uses in the very moment in which a request leaves for it. Such a request was never read, so
it may be sent again whatever it is; and without this nobody could tell it from one that was read
and then lost.

The proof: the other end's FIN has come, and its acknowledgements, the FIN's among them, cover
nothing of the request. All that a program can have read is acknowledged by then. (One that ends its
side and then carries out what it can no longer answer would escape this; it would not be a server.)
A reset proves nothing: it acknowledges nothing, not even what was read a moment before.
"""

import asyncio
import socket
import struct

_ACKNOWLEDGED = struct.Struct("=Q")  # of Linux's struct tcp_info, as are the offsets
_ACKNOWLEDGED_AT = 120
_SENT = struct.Struct("=QQ")  # all, and again
_SENT_AT = 200
_INFO_BYTES = _SENT_AT + _SENT.size
_SYN = 1  # is counted as acknowledged


def none_arrived(transport: asyncio.Transport, sent_bytes: int) -> bool:
    """Whether none of the last `sent_bytes` bytes was acknowledged; for a connection that has seen
    the other end's FIN. False, too, where the kernel does not tell."""
    bound = transport.get_extra_info("socket")
    try:
        info = bound.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    except (AttributeError, OSError):  # no Linux, a Unix socket
        return False
    if len(info) < _INFO_BYTES:
        return False
    (acknowledged,) = _ACKNOWLEDGED.unpack_from(info, _ACKNOWLEDGED_AT)
    sent, sent_again = _SENT.unpack_from(info, _SENT_AT)
    return bool(sent - sent_again - (acknowledged - _SYN) >= sent_bytes)
