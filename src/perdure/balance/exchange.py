"""One request on its way: to which backend, whether again, and what becomes of it.

It stands between a client's connection (`front`), which brings the request, and a connection to a
backend (`upstream`), which brings the answer, and decides everything that concerns both.

Invariants:
- At most one backend has it at a time, and each `begin` of a backend is followed by one `end`.
- It is sent again only while no byte of an answer has come, and only if that is harmless: nothing
  was sent, or nothing arrived, or the method is idempotent, or an idempotency key says it may be
  repeated.
- Every other end is an answer: the backend's, or a problem of ours that says nothing of the inside.
"""

import time
from typing import TYPE_CHECKING

from perdure.balance.backends import Backend
from perdure.balance.chunks import LAST, chunk
from perdure.balance.evidence import none_arrived
from perdure.balance.heads import CHUNKED, AnswerHead, RequestHead
from perdure.balance.shared import Shared

if TYPE_CHECKING:
    from perdure.balance.front import ClientConnection
    from perdure.balance.upstream import Upstream

_UNREACHABLE_MAX = 8  # backends tried for one request, where no connection can be made
_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))

_TITLES = {
    "no-backend": (503, "No backend can take the request"),
    "busy": (503, "All connections to the backend are in use"),
    "unreachable": (502, "The backend cannot be reached"),
    "broken-off": (502, "The backend ended the connection without an answer"),
    "bad-answer": (502, "The backend's answer is not valid HTTP"),
    "no-answer": (504, "The backend did not answer in time"),
}


class Exchange:
    """A request and its answer."""

    __slots__ = (
        "_backend",
        "_bytes",
        "_pieces",
        "_shared",
        "_tried",
        "attempts",
        "client",
        "head",
        "is_answering",
        "is_complete",
        "is_head",
        "method",
        "request_id",
        "sent_s",
        "started_s",
        "status",
        "target",
        "upstream",
        "waits_since_s",
    )

    def __init__(
        self,
        shared: Shared,
        client: "ClientConnection",
        method: bytes,
        target: bytes,
        head: RequestHead,
    ) -> None:
        self.client = client
        self.method = method
        self.target = target
        self.head = head
        self.request_id = head.request_id or shared.ids.next().encode()
        self.is_head = method == b"HEAD"
        self.is_complete = head.length == 0
        self.is_answering = False  # the client has been sent a part of the final answer
        self.status = 0
        self.upstream: Upstream | None = None
        self.started_s = self.sent_s = 0.0
        self.waits_since_s = 0.0
        self._shared = shared
        self._backend: Backend | None = None
        self._tried: tuple[Backend, ...] = ()
        self.attempts = 0
        self._pieces: list[bytes] | None = None if self.is_complete else []
        self._bytes = 0

    # --- towards the backend

    def start(self, *, wants_fresh: bool = False) -> None:
        """Sends the request, with what there is of its body, or has it wait for a connection."""
        shared = self._shared
        now_s = time.monotonic()
        backend = shared.backends.choose(
            shared.hash_of(self) if shared.hash_of is not None else None, self._tried, now_s
        )
        if backend is None:
            self._fail("no-backend" if not self._tried else "unreachable")
            return
        self._backend = backend
        backend.begin()
        pool = shared.pools[backend]
        upstream = None if wants_fresh else pool.take()
        if upstream is not None:
            self.send(upstream, now_s)
        elif not pool.wait(self):
            self._give_up("busy", blames=False)

    def send(self, upstream: "Upstream", now_s: float) -> None:
        """This connection is the request's now."""
        self.upstream = upstream
        self.attempts += 1
        self.sent_s = now_s
        if not self.started_s:
            self.started_s = now_s
        data = self._head_data()
        if self._pieces is None:
            upstream.send(self, data)
            return
        body = b"".join(self._pieces)
        upstream.send(self, data + self._framed(body) + self._last())
        self._forget_long_body()
        self.client.resume_reading()

    def feed(self, data: bytes) -> bool:
        """Takes a piece of the body, without its framing; False: no more for now."""
        pieces = self._pieces
        if pieces is not None:
            pieces.append(data)
            self._bytes += len(data)
        upstream = self.upstream
        if upstream is None:
            return self._bytes < self._shared.limits.replay_bytes_max
        upstream.write(self._framed(data))
        self._forget_long_body()
        return not upstream.is_write_paused

    def complete(self) -> None:
        """The body is all there."""
        self.is_complete = True
        if self.upstream is not None and self.head.length == CHUNKED:
            self.upstream.write(LAST)

    def abandon(self, *, gently: bool = False) -> None:
        """The client is gone, or may not stay; gently: what it has sent still gets there."""
        upstream, self.upstream = self.upstream, None
        backend, self._backend = self._backend, None
        if upstream is not None and gently:
            upstream.close()
        elif upstream is not None:
            upstream.cut()
        if backend is not None:
            self._shared.pools[backend].forget(self)
            backend.end(None, failed=False)

    # --- from the backend

    def wants_other_answer(self, head: AnswerHead) -> bool:
        """Whether this answer only says that the backend is going, and another one may be asked."""
        return (
            head.status == 503
            and head.has_retry_after
            and self._may_repeat()
            and self._has_alternative()
            and self._shared.budget.take()
        )

    def ask_another(self) -> None:
        """The backend is left, without blame."""
        self._leave(None, failed=False, is_tried=True)
        self.start()

    def began(self, head: AnswerHead) -> None:
        """The head of the final answer is on its way to the client."""
        self.is_answering = True
        self.status = head.status

    def answered(self, head: AnswerHead) -> None:
        """The whole answer is on its way; the connection to the backend is let go already."""
        self.upstream = None
        status = head.status
        now_s = time.monotonic()
        backend = self._backend
        if backend is not None:
            self._backend = None
            failed = status >= 500 and not head.has_retry_after
            backend.end(now_s - self.sent_s, failed=failed, now_s=now_s)
            self._shared.observe(self, backend, status, now_s)

    def cut_short(self) -> None:
        """The answer broke off in the middle: all that can be done is to let the client see it."""
        self._leave(None, failed=True)
        self.client.abort()

    def lost(self, kind: str, *, was_reused: bool, had_end: bool = False) -> None:
        """The connection ended, or was ended, before any of the answer was there.

        A used connection may have been closed by the backend while the request was on its way,
        which says nothing about the backend.

        Args:
            had_end: the backend had ended it in order, which may prove that nothing arrived.
        """
        is_stale = was_reused and kind == "broken-off"
        repeats = (
            kind == "broken-off"
            and (self._may_repeat() or (had_end and self._never_arrived()))
            and (is_stale or self._has_alternative())
            and self._shared.budget.take()
        )
        self._leave(None, failed=not is_stale, is_tried=not is_stale)
        if repeats:
            self.start(wants_fresh=is_stale)
        else:
            self._fail(kind)

    def not_connected(self) -> None:
        """No connection could be made; nothing was sent, so anything may be sent elsewhere."""
        self._leave(None, failed=True, is_tried=True, is_away=True)
        if len(self._tried) < _UNREACHABLE_MAX:
            self._shared.budget.retries_total += 1
            self.start()
        else:
            self._fail("unreachable")

    def leave_silent(self, backend: Backend) -> None:
        """This backend does not answer its checks either: who may be repeated asks another."""
        upstream = self.upstream
        if (
            self._backend is backend
            and upstream is not None
            and not self.is_answering
            and self._may_repeat()
            and self._has_alternative()
            and self._shared.budget.take()
        ):
            upstream.cut()
            self._leave(None, failed=True, is_tried=True)
            self.start()

    def time_out(self, now_s: float) -> None:
        """Ends what has taken too long. The client's own waits are its connection's."""
        limits = self._shared.limits
        if self.upstream is None:
            if self.waits_since_s and now_s - self.waits_since_s > limits.waiting_s:
                self._give_up("busy", blames=False)
        elif self.is_answering:
            if self.upstream.is_silent_for(now_s) > limits.answer_idle_s:
                self.upstream.cut()
                self.cut_short()
        elif self.upstream.is_silent_for(now_s) > limits.answer_s:
            self._give_up("no-answer", blames=True)

    # ---

    def _head_data(self) -> bytes:
        head = self.head
        if head.request_id:
            return b"%b %b HTTP/1.1\r\n%b\r\n" % (self.method, self.target, head.lines)
        return b"%b %b HTTP/1.1\r\n%bx-request-id: %b\r\n\r\n" % (
            self.method,
            self.target,
            head.lines,
            self.request_id,
        )

    def _framed(self, data: bytes) -> bytes:
        return chunk(data) if data and self.head.length == CHUNKED else data

    def _last(self) -> bytes:
        return LAST if self.is_complete and self.head.length == CHUNKED else b""

    def _forget_long_body(self) -> None:
        if self._bytes > self._shared.limits.replay_bytes_max:
            self._pieces = None

    def _may_repeat(self) -> bool:
        return self._can_repeat() and (self.method in _IDEMPOTENT or self.head.has_idempotency_key)

    def _can_repeat(self) -> bool:
        limits = self._shared.limits
        return self.attempts < limits.attempts_max and self._bytes <= limits.replay_bytes_max

    def _never_arrived(self) -> bool:
        """Whether the backend can have read nothing of it, so that it may be sent again whatever
        it is."""
        if self.upstream is None or not self._can_repeat():
            return False
        body_bytes = sum(len(self._framed(piece)) for piece in self._pieces or ())
        sent_bytes = len(self._head_data()) + body_bytes + len(self._last())
        return none_arrived(self.upstream.transport, sent_bytes)

    def _has_alternative(self) -> bool:
        others: tuple[Backend | None, ...] = (*self._tried, self._backend)
        return self._shared.backends.choose(None, others) is not None

    def _leave(
        self,
        latency_s: float | None,
        *,
        failed: bool,
        is_tried: bool = False,
        is_away: bool = False,
    ) -> None:
        backend, self._backend = self._backend, None
        self.upstream = None
        self.waits_since_s = 0.0
        if backend is None:
            return
        if is_tried:
            self._tried = (*self._tried, backend)
        if failed:
            self._shared.metrics.failed(backend)
        backend.end(latency_s, failed=failed, is_away=is_away)

    def _give_up(self, kind: str, *, blames: bool) -> None:
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.cut()
        if self._backend is not None:
            self._shared.pools[self._backend].forget(self)
        self._leave(None, failed=blames)
        self._fail(kind)

    def _fail(self, kind: str) -> None:
        status, title = _TITLES[kind]
        self.status = status
        self._shared.observe(self, None, status, time.monotonic())
        self.client.answer_problem(status, kind, title)
