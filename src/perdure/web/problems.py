"""RFC 9457 problem bodies: the one shape in which the web tier says no.

It exists so that every refusal, whether the parser, the server, the route or an actor said it,
looks the same to a client: `type` is `urn:perdure:problem:<kind>` and never changes its meaning.

Invariants:
- A body tells what the caller can use and nothing about the inside: an exception that Perdure did
  not raise on purpose becomes kind `internal` without a detail.
- Header lines returned from here end in CRLF and can be written as they are.
"""

from typing import Any

import msgspec

from perdure.base import errors
from perdure.base.errors import (
    BadArgumentsError,
    DomainError,
    MethodNotAllowedError,
    PerdureError,
    RateLimitError,
    RequestRunningError,
    UniqueError,
)

CONTENT_TYPE = b"application/problem+json"

TYPE_PREFIX = "urn:perdure:problem:"
_RETRY_AFTER = b"retry-after: 1\r\n"

TITLES: dict[int, str] = {
    400: "Bad request",
    401: "Not signed in",
    403: "Forbidden",
    404: "Not found",
    409: "Conflict",
    412: "The state has changed",
    413: "Too large",
    422: "The arguments do not fit",
    429: "Too many requests",
    500: "Internal error",
    503: "Try again later",
    504: "Deadline passed",
}

_TITLES_BY_KIND = {"request-reused": "The idempotency key was used for another request"}

_OWN: dict[str, type[PerdureError]] = {
    public.kind: public
    for public in vars(errors).values()
    if isinstance(public, type) and issubclass(public, PerdureError) and public is not DomainError
}

# RFC 9110, 11.6.1: a 401 names a scheme; ours is whatever the app's own sign-in is
_CHALLENGE = b"www-authenticate: Session\r\n"


def problem(
    status: int, kind: str, title: str, detail: str | None = None, **extensions: object
) -> bytes:
    """Returns the JSON body of a problem; extensions become members beside the standard ones."""
    members: dict[str, object] = {"type": TYPE_PREFIX + kind, "title": title, "status": status}
    if detail is not None:
        members["detail"] = detail
    members.update(extensions)
    return msgspec.json.encode(members)


def kind_of(document: dict[str, Any]) -> str:
    """Returns the kind of error that a problem document tells of."""
    return str(document.get("type", "")).removeprefix(TYPE_PREFIX) or "internal"


def error_of(document: dict[str, Any], known: type[DomainError] | None = None) -> PerdureError:
    """Returns the error that a problem document of another process stands for.

    Its constructor is not run. It has `kind`, `status`, `field`, `problem` and its text.

    Args:
        known: the class, if it is an error of the application.
    """
    kind = kind_of(document)
    text = document.get("detail") or document.get("title") or "the server said no more"
    error_class = _OWN.get(kind) or known or PerdureError
    error = error_class.__new__(error_class, text)
    status = int(document.get("status", 500))
    error.__dict__ |= {
        "kind": kind,
        "status": status if 400 <= status <= 599 else 500,  # who passes it on answers with it
        "field": document.get("field"),
        "problem": document,
    }
    if isinstance(error, RateLimitError):
        error.policies = tuple(document.get("violated-policies", ()))
    return error


def problem_of(error: BaseException) -> tuple[int, bytes, bytes]:
    """Returns the status, the problem body and the extra header lines that answer `error`."""
    if not isinstance(error, PerdureError):
        return 500, problem(500, "internal", TITLES[500]), b""
    status = error.status
    title = _TITLES_BY_KIND.get(error.kind) or TITLES.get(status, "The call was refused")
    extensions: dict[str, object] = {}
    if isinstance(error, BadArgumentsError | UniqueError) and error.field is not None:
        extensions["field"] = error.field
    if isinstance(error, RateLimitError):
        extensions["violated-policies"] = error.policies
    body = problem(status, error.kind, title, str(error) or None, **extensions)
    if isinstance(error, RateLimitError):
        return status, body, b"retry-after: %d\r\n" % error.retry_after_s
    if isinstance(error, MethodNotAllowedError):
        return status, body, b"allow: %b\r\n" % error.allowed.encode("ascii")
    if status == 401:
        return status, body, _CHALLENGE
    passes = status == 503 or isinstance(error, RequestRunningError)
    return status, body, _RETRY_AFTER if passes else b""
