"""Perdure: stateful Python on stateless servers.

Layers, each importing only those below it (a test enforces it):

    cli → testing → web → runtime → actor → store → base

This module is the whole public API for applications; `perdure.testing` is the one for their tests.
"""

from typing import TYPE_CHECKING, Any

from perdure.actor.model import (
    Actor,
    Caller,
    anyone,
    expose,
    interleave,
    live,
    owner,
    read,
    relaxed,
    signed_in,
)
from perdure.actor.reference import watch
from perdure.base.errors import (
    BadArgumentsError,
    ConflictError,
    CycleError,
    DeadlineError,
    DefinitionError,
    DomainError,
    ForbiddenError,
    InvalidKeyError,
    MethodNotAllowedError,
    NotFoundError,
    NotRunningError,
    NotSignedInError,
    OverloadedError,
    PerdureError,
    ReadOnlyError,
    RequestReusedError,
    StateTooLargeError,
    StoppingError,
    StoreBrokenError,
    StoreCorruptError,
    StoreError,
    StoreFormatError,
    StoreFullError,
    StoreLockedError,
    UnencodableError,
)
from perdure.base.limits import Limits

if TYPE_CHECKING:
    from perdure.web.app import App
    from perdure.web.live_client import LiveClient

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
    "Limits",
    "LiveClient",
    "MethodNotAllowedError",
    "NotFoundError",
    "NotRunningError",
    "NotSignedInError",
    "OverloadedError",
    "PerdureError",
    "ReadOnlyError",
    "RequestReusedError",
    "StateTooLargeError",
    "StoppingError",
    "StoreBrokenError",
    "StoreCorruptError",
    "StoreError",
    "StoreFormatError",
    "StoreFullError",
    "StoreLockedError",
    "UnencodableError",
    "anyone",
    "expose",
    "interleave",
    "live",
    "owner",
    "read",
    "relaxed",
    "signed_in",
    "watch",
]


def __getattr__(name: str) -> Any:
    """Load the web tier with the first use of `App`: code that only defines actors is spared it."""
    if name == "App":
        from perdure.web.app import App

        return App
    if name == "LiveClient":
        from perdure.web.live_client import LiveClient

        return LiveClient
    raise AttributeError(f"module 'perdure' has no attribute {name!r}")
