"""Errors on their way between processes.

The other side gets the same class: one of ours by its kind, one of Python's own or of the
application by its name, if that process has it too. It is looked up, never imported, and its
constructor is not run: what a frame says decides nothing but which known class it is. What cannot
be made so becomes a RuntimeError, never one of ours: those are told to clients, and what the
message of any other error holds is nobody's business outside.
"""

import logging
import sys
from typing import Any

from perdure.base import errors
from perdure.base.errors import DomainError, PerdureError
from perdure.cluster.frames import Failed

log = logging.getLogger("perdure.cluster")

_MESSAGE_CHARACTERS_MAX = 4096  # an error must fit into a frame, or its caller would hear nothing

_OWN = {
    error.kind: error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, PerdureError) and error is not DomainError
}


def failed(call_id: int, error: BaseException) -> Failed:
    """The frame that tells a caller elsewhere; what is no PerdureError is logged here."""
    path = f"{type(error).__module__}.{type(error).__qualname__}"
    if isinstance(error, PerdureError):
        is_own = _OWN.get(error.kind) is type(error)
        field = getattr(error, "field", None)
        message = _message(error)
        return Failed(call_id, error.kind, error.status, message, "" if is_own else path, field)
    log.error("turn failed", exc_info=error)
    return Failed(call_id, PerdureError.kind, PerdureError.status, _message(error), path)


def error_from(frame: Failed) -> Exception:
    """The error that a frame tells of."""
    if not frame.path:
        error: Exception = _made(_OWN.get(frame.kind, PerdureError), frame)
    elif (known := _known(frame.path)) is not None:
        error = _made(known, frame)
    elif frame.kind != PerdureError.kind:
        error = _made(_OWN.get(frame.kind, DomainError), frame)
    else:
        error = RuntimeError(f"{frame.path}: {frame.message}")
    if isinstance(error, PerdureError):
        error.__dict__ |= {"kind": frame.kind, "status": frame.status, "field": frame.field}
    return error


def _message(error: BaseException) -> str:
    try:
        # the text of a KeyError is the repr of its key: it would grow quotes on each way
        is_key = isinstance(error, KeyError) and error.args and isinstance(error.args[0], str)
        return (error.args[0] if is_key else str(error))[:_MESSAGE_CHARACTERS_MAX]
    except Exception:  # the application's own __str__
        return "(its text cannot be made)"


def _made(kind: type[Exception], frame: Failed) -> Exception:
    try:
        return kind.__new__(kind, frame.message)
    except Exception:  # it wants more than a message, as an ExceptionGroup does
        return RuntimeError(f"{frame.path or frame.kind}: {frame.message}")


def _known(path: str) -> type[Exception] | None:
    """The exception class of this name, if its module is loaded."""
    module_name, _, rest = path.rpartition(".")
    names = [rest]
    while module_name and module_name not in sys.modules:
        module_name, _, outer = module_name.rpartition(".")
        names.insert(0, outer)
    found: Any = sys.modules.get(module_name)
    for name in names:
        found = vars(found).get(name) if hasattr(found, "__dict__") else None
    return found if isinstance(found, type) and issubclass(found, Exception) else None
