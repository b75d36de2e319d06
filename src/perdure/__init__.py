"""Perdure: stateful Python on stateless servers.

Layers, each importing only those below it (a test enforces it):

    cli → testing → web → runtime → actor → store → base

This module is the whole public API for applications; `perdure.testing` is the one for their tests.
"""

from typing import TYPE_CHECKING, Any

from perdure.actor.block import transaction
from perdure.actor.model import (
    Actor,
    Caller,
    anyone,
    expose,
    interleave,
    owner,
    read,
    relaxed,
    signed_in,
)
from perdure.base.errors import (
    BadArgumentsError,
    ConflictError,
    CycleError,
    DeadlineError,
    DefinitionError,
    DomainError,
    ForbiddenError,
    InvalidKeyError,
    LimitError,
    MethodNotAllowedError,
    NewerStateError,
    NotFoundError,
    NotRunningError,
    NotSignedInError,
    OverloadedError,
    PerdureError,
    ReadOnlyError,
    RequestReusedError,
    RequestRunningError,
    StateTooLargeError,
    StoppingError,
    StoreBrokenError,
    StoreCorruptError,
    StoreError,
    StoreFormatError,
    StoreFullError,
    StoreLockedError,
    TransactionConflictError,
    TransactionError,
    UnencodableError,
    UniqueError,
)
from perdure.base.limits import Limits

if TYPE_CHECKING:
    from perdure.web.app import App

__version__ = "0.1.0"

__all__ = [
    "Actor",
    "App",
    "BadArgumentsError",
    "Caller",
    "ConflictError",
    "CycleError",
    "DeadlineError",
    "DefinitionError",
    "DomainError",
    "ForbiddenError",
    "InvalidKeyError",
    "LimitError",
    "Limits",
    "MethodNotAllowedError",
    "NewerStateError",
    "NotFoundError",
    "NotRunningError",
    "NotSignedInError",
    "OverloadedError",
    "PerdureError",
    "ReadOnlyError",
    "RequestReusedError",
    "RequestRunningError",
    "StateTooLargeError",
    "StoppingError",
    "StoreBrokenError",
    "StoreCorruptError",
    "StoreError",
    "StoreFormatError",
    "StoreFullError",
    "StoreLockedError",
    "TransactionConflictError",
    "TransactionError",
    "UnencodableError",
    "UniqueError",
    "anyone",
    "expose",
    "interleave",
    "owner",
    "read",
    "relaxed",
    "signed_in",
    "transaction",
]


def __getattr__(name: str) -> Any:
    """Load the web tier with the first use of `App`: code that only defines actors is spared it."""
    if name == "App":
        from perdure.web.app import App

        return App
    raise AttributeError(f"module 'perdure' has no attribute {name!r}")
