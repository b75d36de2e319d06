"""Every public error, in one flat file.

Each class carries what the web tier needs to answer for it: an HTTP `status` and a stable `kind`,
which becomes the `type` of the RFC 9457 problem (`urn:perdure:problem:<kind>`). Whose fault it is
can be read from the status: 4xx is the caller's, 503 and 504 are operating trouble that a retry
may cure, 500 is a bug.
"""

from typing import Any, ClassVar


class PerdureError(Exception):
    """The root of every error that Perdure raises on purpose.

    `problem` is the document (RFC 9457) of one that came from a server, through `perdure.Client`.
    """

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "internal"
    problem: dict[str, Any] | None = None


class DomainError(PerdureError):
    """Raised by application code to refuse a call: `class SoldOut(DomainError): status = 409`.

    The turn is rolled back, the caller gets the message, and HTTP callers get `status` (any 4xx)
    and `kind` (by default the class name in kebab-case).
    """

    status: ClassVar[int] = 400
    kind: ClassVar[str] = "domain-error"

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "kind" not in cls.__dict__:
            cls.kind = "".join(
                f"-{c.lower()}" if c.isupper() and i else c.lower()
                for i, c in enumerate(cls.__name__)
            )
        if not 400 <= cls.status <= 499:
            raise DefinitionError(f"{cls.__name__}.status is {cls.status}; a domain error is 4xx")


class DefinitionError(PerdureError):
    """Raised at import time when an actor class or an App is declared in a way that cannot work."""

    kind = "definition"


class NotRunningError(PerdureError):
    """Raised when an actor is called in a process where no App that holds its class is running."""

    kind = "not-running"


class BadArgumentsError(PerdureError):
    """Raised when the arguments of a call do not fit the method's signature."""

    status = 422
    kind = "bad-arguments"

    def __init__(self, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.field = field


class BodyTooLargeError(PerdureError):
    """Raised when the body of a request is larger than its route takes."""

    status = 413
    kind = "body-too-large"


class InvalidKeyError(PerdureError):
    """Raised when an actor key is empty, too long, or holds characters that keys may not hold."""

    status = 400
    kind = "invalid-key"


class NotFoundError(PerdureError):
    """Raised when no exposed class or method answers to the name in the route."""

    status = 404
    kind = "not-found"


class MethodNotAllowedError(PerdureError):
    """Raised when a route exists but does not answer this HTTP method."""

    status = 405
    kind = "method-not-allowed"

    def __init__(self, detail: str, allowed: str) -> None:
        super().__init__(detail)
        self.allowed = allowed


class NotSignedInError(PerdureError):
    """Raised when a method wants a signed-in caller and the request carries none."""

    status = 401
    kind = "not-signed-in"


class ForbiddenError(PerdureError):
    """Raised when the caller is known but the method's access rule refuses it."""

    status = 403
    kind = "forbidden"


class RateLimitError(PerdureError):
    """Raised when a caller asks more often than a `Rate` allows. The request was not begun, and
    is not counted. `retry_after_s` says when one will be allowed, `policies` whose limit it is."""

    status = 429
    kind = "rate-limited"
    retry_after_s: int = 1  # here for errors that come from afar, without their constructor
    policies: tuple[str, ...] = ()

    def __init__(self, detail: str, retry_after_s: int = 1, policies: tuple[str, ...] = ()) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s
        self.policies = policies


class RequestReusedError(PerdureError):
    """Raised when an idempotency key comes again with a different request."""

    status = 422
    kind = "request-reused"


class RequestRunningError(PerdureError):
    """The same idempotency key is being worked on; its answer can be had in a moment."""

    status = 409
    kind = "request-running"


class PreconditionFailedError(PerdureError):
    """Raised when a call came with `If-Match`, and its actor is not in that state any more. Nothing
    was done: read, and decide anew."""

    status = 412
    kind = "precondition-failed"


class UniqueError(DomainError):
    """Another actor has this value in a field that is `unique`; the turn has left nothing.

    `field` names it.
    """

    status = 409
    kind = "not-unique"

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class NewerStateError(PerdureError):
    """Newer code wrote this state; this code can at best read it, and must not write over it."""

    status = 503
    kind = "newer-state"


class CycleError(PerdureError):
    """Raised when a call would wait for an actor that, in the end, waits for the call itself."""

    status = 500
    kind = "call-cycle"


class TransactionError(PerdureError):
    """Raised when code does what makes no sense in a transaction; the message says what to do."""

    status = 500
    kind = "transaction"


class TransactionConflictError(PerdureError):
    """Raised when a transaction and another one, or another call, would wait for each other. The
    one that gets it has left nothing; a `@transaction` function is run again by itself."""

    status = 503
    kind = "transaction-conflict"


class ReadOnlyError(PerdureError):
    """Raised when a `@read` method changed the actor's state; the change is rolled back."""

    status = 500
    kind = "read-only"


class StateTooLargeError(PerdureError):
    """Raised when a turn would leave an actor with more state than `Limits.state_bytes_max`."""

    status = 413
    kind = "state-too-large"


class LimitError(PerdureError):
    """A turn did more of something than fits: messages, timers, entries.

    The message names the limit.
    """

    status = 413
    kind = "limit"


class UnencodableError(PerdureError):
    """Raised when a turn leaves a value in the state, or returns one, that JSON cannot hold."""

    status = 500
    kind = "unencodable"


class OverloadedError(PerdureError):
    """Raised at once when a bounded queue is full; nothing was done, try again later."""

    status = 503
    kind = "overloaded"


class StoppingError(PerdureError):
    """Raised when the process is stopping and takes no new calls."""

    status = 503
    kind = "stopping"


class DeadlineError(PerdureError):
    """Raised when a call did not finish before its deadline. A turn that had begun is undone,
    unless it was already waiting for its commit: then the outcome is unknown to the caller."""

    status = 504
    kind = "deadline"


class StoreError(PerdureError):
    """Raised when the store could not be read, or could not commit. The turn has no effect."""

    status = 503
    kind = "store-unavailable"


class StoreFullError(StoreError):
    """Raised when the disk under the store is full. Reads go on; writes resume once it is not."""

    kind = "store-full"


class StoreBrokenError(StoreError):
    """Raised when the disk failed under a commit. What a failed fsync leaves behind cannot be
    trusted, so the store takes no more writes: the process must end, and the next one recover."""

    kind = "store-broken"


class OtherClusterError(StoreError):
    """Raised when this database is not this process's: processes with another cluster key run on
    it, and they and this one could not reach each other; or it is another cell."""

    kind = "other-cluster"


class ConflictError(StoreError):
    """Raised when the store holds another version than the one this turn was based on."""

    kind = "conflict"


class FencedError(StoreError):
    """Another process owns these actors now: this one was too slow to renew its lease, or was told
    dead. The turn has no effect here; whoever forwards calls sends it to the new owner."""

    kind = "fenced"


class OutcomeUnknownError(StoreError):
    """The database went away in the midst of a commit and could not be asked in time what became
    of it. A call with an idempotency key can be repeated: it is done once."""

    kind = "outcome-unknown"


class InterruptedCallError(PerdureError):
    """The process that ran a call died in its midst, after a part of it was committed: something it
    called, or what came before its `save()`. It is not repeated: that part would be done twice."""

    status = 504
    kind = "interrupted"


class UnreachableError(PerdureError):
    """Raised when the process that owns an actor could not be reached before the deadline; or at
    once if it lives, but not for this process: another machine may reach it. Nothing was done."""

    status = 503
    kind = "unreachable"


class UnansweredError(PerdureError):
    """Raised when the process that owns an actor was sent the call, and cannot be reached any more
    although it lives. The call has been done, will be done, or never. One with an idempotency key
    can be repeated, by another machine too: it is done once."""

    status = 504
    kind = "unanswered"


class WireError(PerdureError):
    """What came over a link between two processes was malformed, too large, or had a gap. The link
    is closed; nothing that came with or after it was looked at."""

    kind = "wire"


class HandshakeError(WireError):
    """Raised when the process at the other end of a new link did not prove in time that it knows
    the cluster's key, or speaks no version that this one speaks."""

    kind = "handshake"


class ProxyProtocolError(PerdureError):
    """A connection from a trusted proxy did not begin with a correct PROXY header; it is closed."""

    kind = "proxy-protocol"


class SourceError(PerdureError):
    """Raised when it cannot be read which backends a balancer has; it keeps those it knew."""

    kind = "source"


class EngineError(PerdureError):
    """Raised when the program that carries out the balancing cannot be started, or refuses what it
    is told."""

    kind = "engine"


class StoreLockedError(StoreError):
    """Raised when another process owns the data directory; the message names it."""

    kind = "store-locked"


class StoreCorruptError(StoreError):
    """Raised when a store file is damaged or is not a Perdure store; nothing is read from it."""

    kind = "store-corrupt"


class StoreFormatError(StoreError):
    """Raised when a store, or an actor's state in it, does not fit this version of the code."""

    kind = "store-format"
