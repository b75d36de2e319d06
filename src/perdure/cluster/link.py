"""A link: one authenticated connection between two processes, and the frames on it.

It is made for many small frames: what is sent during one pass of the event loop leaves with one
write, and there is one timer for each link, none for a frame.

Invariants:
- The handler gets no frame before the other end has proven the key.
- Frames arrive in the order in which they were sent, each once; what would break that is dropped
  (a frame that came before) or closes the link (a gap, a frame that cannot be read).
- `closed` is called once for each link that had a connection, when that is gone, and last of all.
"""

import asyncio
import logging
from typing import Protocol, cast

from perdure.base.clock import Clock, Handle
from perdure.base.errors import (
    HandshakeError,
    OverloadedError,
    PerdureError,
    UnreachableError,
    WireError,
)
from perdure.base.limits import Limits
from perdure.cluster.frames import Frame, Ping, Pong
from perdure.cluster.framing import FrameReader, FrameWriter
from perdure.cluster.handshake import ClientHandshake, Handshake, Identity, ServerHandshake

log = logging.getLogger("perdure.cluster")

_PASSES_MAX = 2
_FLUSH_BYTES = 256 << 10  # more than this does not wait for the end of the pass


class LinkHandler(Protocol):
    """Whom a link tells. All calls come on the event loop."""

    def opened(self, link: "Link") -> None:
        """The other end is who `link.peer` says, and frames can be sent."""
        ...

    def received(self, link: "Link", frame: Frame) -> None:
        """A frame came. If this raises, the link is closed with that error."""
        ...

    def closed(self, link: "Link", error: Exception | None) -> None:
        """The connection is gone: what it had not answered it will not answer. `link.peer` is None
        if it never opened; `error` is None if one of the two ended an open link in order."""
        ...


class Link(asyncio.Protocol):
    """One end of it. All methods run on the event loop."""

    def __init__(
        self,
        identity: Identity,
        key: bytes,
        clock: Clock,
        limits: Limits,
        handler: LinkHandler,
        *,
        dials: bool,  # whether this end made the connection
    ) -> None:
        handshake_of_end = ClientHandshake if dials else ServerHandshake
        self.peer: Identity | None = None
        self.version = 0
        self.is_open = False
        self.is_congested = False  # the other end does not read as fast as this one sends
        self._clock = clock
        self._limits = limits
        self._handler = handler
        self._handshake: Handshake | None = handshake_of_end(identity, key)
        self._writer = FrameWriter(limits.frame_bytes_max)
        self._reader = FrameReader(limits.frame_bytes_max)
        self._loop: asyncio.AbstractEventLoop
        self._transport: asyncio.Transport | None = None
        self._is_flush_due = False
        self._is_closing = False
        self._error: Exception | None = None
        self._timer: Handle | None = None
        self._timer_due_s = 0.0
        self._heard_s = 0.0

    @property
    def duplicates(self) -> int:
        """How many frames came again, and were dropped."""
        return self._reader.duplicates

    def send(self, frame: Frame) -> None:
        """Send a frame, at the end of this pass of the event loop.

        On a link that is not open it goes nowhere, as it may on the way: whoever waits for an
        answer hears of that by `closed`. Raises LimitError, and the link stays as it was, if the
        frame is larger than `Limits.frame_bytes_max`.
        """
        if not self.is_open:
            return
        waiting_bytes = self._writer.add(frame)
        if waiting_bytes > _FLUSH_BYTES:
            self._write()
        elif not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush, waiting_bytes, 0)

    def close(self, error: Exception | None = None) -> None:
        """Close. Without an error, what was sent before still leaves if the other end takes it
        within `Limits.link_silent_s`. `closed` is called later, not from here."""
        if self._is_closing:
            return
        if error is None:
            self._write()
        self._end(error)
        if error is not None and self._transport is not None:
            self._transport.abort()

    # --- the transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = cast("asyncio.Transport", transport)
        if self._is_closing:
            self._transport.abort()
            return
        self._set_timer(self._limits.link_handshake_s)
        first = cast("Handshake", self._handshake).begin()
        if first:
            self._transport.write(first)

    def data_received(self, data: bytes) -> None:
        self._heard_s = self._clock.monotonic_s()
        if self._handshake is not None:
            data = self._shake_hands(self._handshake, data)
        if self.is_open:
            self._take_frames(data)

    def eof_received(self) -> bool:
        return False  # half a connection is of no use: the transport closes itself

    def pause_writing(self) -> None:
        self.is_congested = True

    def resume_writing(self) -> None:
        self.is_congested = False

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._error is None and self.peer is None:
            error = error or HandshakeError("the other end closed the link before it was open")
        self._is_closing = True
        self.is_open = False
        self._handshake = None
        self._writer.take()
        self._handler.closed(self, self._error or error)

    # --- receiving

    def _shake_hands(self, handshake: Handshake, data: bytes) -> bytes:
        """Returns what came behind the handshake."""
        if self._is_closing:
            return b""
        reply = handshake.receive(data)
        if reply:
            cast("asyncio.Transport", self._transport).write(reply)
        if handshake.error is not None:
            self._end(handshake.error)  # not aborted: the reply says which versions there are
        elif handshake.peer is not None:
            self._handshake = None
            self.peer = handshake.peer
            self.version = handshake.version
            self.is_open = True
            self._set_timer(self._limits.link_ping_s)
            try:
                self._handler.opened(self)
            except Exception as error:
                self._fail(error)
        return handshake.rest

    def _take_frames(self, data: bytes) -> None:
        received = self._handler.received
        try:
            for frame in self._reader.read(data):
                kind = type(frame)
                if kind is Ping:
                    self.send(Pong())
                elif kind is not Pong:
                    received(self, frame)
                if not self.is_open:
                    return
        except WireError as error:
            self.close(error)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        log.exception("handler of a link failed", extra=self._names())
        self.close(error)

    # --- sending

    def _flush(self, waiting_bytes: int, passes: int) -> None:
        """Write, unless the last pass of the event loop has brought more: then more may follow."""
        waiting = self._writer.waiting_bytes
        if waiting > waiting_bytes and passes < _PASSES_MAX:
            self._loop.call_soon(self._flush, waiting, passes + 1)
            return
        self._is_flush_due = False
        self._write()

    def _write(self) -> None:
        if not self.is_open:
            return
        transport = cast("asyncio.Transport", self._transport)
        waiting = self._writer.take()
        if waiting:
            transport.write(waiting)
        waiting_bytes = transport.get_write_buffer_size()
        if waiting_bytes > self._limits.link_bytes_max:
            self.close(
                OverloadedError(
                    f"{waiting_bytes:,} bytes wait for a process that does not read;"
                    f" Limits.link_bytes_max is {self._limits.link_bytes_max:,}"
                )
            )

    # --- time and the end

    def _set_timer(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due_s = self._clock.monotonic_s() + delay_s
        self._timer = self._clock.call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        limits = self._limits
        if self._is_closing:
            cast("asyncio.Transport", self._transport).abort()
        elif self._handshake is not None:
            self.close(HandshakeError(f"no handshake within {limits.link_handshake_s:g} s"))
        else:
            self._look_for_life()

    def _look_for_life(self) -> None:
        limits = self._limits
        now_s = self._clock.monotonic_s()
        # If this process was itself held up, the other end is not to blame for that time: what it
        # said may be waiting in the socket.
        self._heard_s = min(now_s, self._heard_s + max(0.0, now_s - self._timer_due_s))
        silent_s = now_s - self._heard_s
        if silent_s >= limits.link_silent_s:
            self.close(UnreachableError(f"nothing was heard for {limits.link_silent_s:g} s"))
        elif silent_s >= limits.link_ping_s:
            self.send(Ping())
            self._set_timer(min(limits.link_ping_s, limits.link_silent_s - silent_s))
        else:
            self._set_timer(limits.link_ping_s - silent_s)

    def _end(self, error: Exception | None) -> None:
        """Nothing is sent or taken any more; the connection ends when what was written has left."""
        self._is_closing = True
        self.is_open = False
        self._error = error
        if error is not None:
            told = str(error) if isinstance(error, PerdureError) else type(error).__name__
            log.warning("link closed", extra=self._names() | {"error": told})
        if self._transport is not None:
            self._transport.close()
            self._set_timer(self._limits.link_silent_s)

    def _names(self) -> dict[str, object]:
        return {"peer": self.peer.name if self.peer is not None else None}
