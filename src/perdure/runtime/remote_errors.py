"""Errors on their way between processes.

The other side gets the same class: one of ours by its kind, one of Python's own or of the
application by its name, if that process has defined it too. It is looked up, never imported, and
its constructor is not run: what a frame says decides nothing but which known class it is.
"""

import builtins
import logging
from collections.abc import Iterator

from perdure.base import errors
from perdure.base.errors import DomainError, PerdureError
from perdure.cluster.frames import Failed

log = logging.getLogger("perdure.cluster")

_OWN = {
    error.kind: error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, PerdureError) and error is not DomainError
}


def failed(call_id: int, error: BaseException) -> Failed:
    """The frame that tells a caller elsewhere; what is no PerdureError is logged here."""
    kind = type(error)
    if isinstance(error, PerdureError):
        path = _path(kind) if isinstance(error, DomainError) else ""
        field = getattr(error, "field", None)
        return Failed(call_id, error.kind, error.status, str(error), path, field)
    log.error("turn failed", exc_info=error)
    path = _path(kind) if kind.__module__ == builtins.__name__ else ""
    return Failed(call_id, PerdureError.kind, PerdureError.status, str(error), path)


def error_from(frame: Failed) -> Exception:
    """The error that a frame tells of."""
    module, _, name = frame.path.rpartition(".")
    if module == builtins.__name__:
        known = getattr(builtins, name, None)
        if isinstance(known, type) and issubclass(known, Exception):
            return known.__new__(known, frame.message)
    domain = next((one for one in _below(DomainError) if _path(one) == frame.path), DomainError)
    kind = domain if frame.path else _OWN.get(frame.kind, PerdureError)
    error = kind.__new__(kind, frame.message)
    error.__dict__ |= {"kind": frame.kind, "status": frame.status, "field": frame.field}
    return error


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _below(kind: type[PerdureError]) -> Iterator[type[PerdureError]]:
    for one in kind.__subclasses__():
        yield one
        yield from _below(one)
