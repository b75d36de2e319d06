"""Does to frames what no network does, but a broken box between two machines might.

It lets a frame come twice, out of order, or not at all. The handshake is left alone: it would only
fail.
"""

import random

from perdure.cluster.framing import HEADER
from perdure.testing.simulation.trace import Trace

_MESSAGE_HEADER_BYTES = 2  # of a message of the handshake: its length


class Mangler:
    """One direction of one link.

    Args:
        messages: how many messages of the handshake come before the first frame.
    """

    def __init__(self, random: random.Random, *, messages: int) -> None:
        self._draw = random.random
        self._messages = messages
        self._partial = b""
        self._held = b""  # a frame that comes after the next one

    def mangle(self, data: bytes, probability: float, trace: Trace) -> bytes:
        """What arrives instead of these bytes."""
        data = self._partial + data
        out, start = [], 0
        while (end := self._end(data, start)) <= len(data):
            part, start = data[start:end], end
            if self._messages > 0:
                self._messages -= 1
                out.append(part)
                continue
            out.append(self._one(part, probability, trace))
        self._partial = data[start:]
        return b"".join(out)

    def _end(self, data: bytes, start: int) -> int:
        """Where the message or frame that begins at `start` ends; behind the data if not here."""
        if self._messages > 0:
            body = start + _MESSAGE_HEADER_BYTES
            return body + int.from_bytes(data[start:body], "big")
        body = start + HEADER.size
        if body > len(data):
            return body
        length, _ = HEADER.unpack_from(data, start)
        return body + int(length)

    def _one(self, frame: bytes, probability: float, trace: Trace) -> bytes:
        held, self._held = self._held, b""
        if self._draw() >= probability:
            return frame + held
        draw = self._draw()
        if draw < 0.4:
            trace.fault("frame twice")
            return frame + held + frame
        if draw < 0.7:
            trace.fault("frame out of order")
            self._held = frame
            return held
        trace.fault("frame lost")
        return held
