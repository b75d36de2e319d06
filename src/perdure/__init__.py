"""Perdure: stateful Python on stateless servers.

Layers, each importing only those below it (a test enforces it):

    cli → testing → client → web → runtime → actor → store → base

This module is the whole public API for applications; `perdure.testing` is the one for their tests.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from perdure.actor.block import transaction
from perdure.actor.collections import Log, Map
from perdure.actor.indexes import indexed, unique
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
from perdure.actor.pages import Page
from perdure.actor.query import Row, Selection
from perdure.actor.rate import Rate
from perdure.actor.reference import watch
from perdure.actor.schema import migrate
from perdure.actor.trail import request_id
from perdure.base.errors import (
    BadArgumentsError,
    BodyTooLargeError,
    ConflictError,
    CycleError,
    DeadlineError,
    DefinitionError,
    DomainError,
    EngineError,
    FencedError,
    ForbiddenError,
    HandshakeError,
    InterruptedCallError,
    InvalidKeyError,
    LimitError,
    MethodNotAllowedError,
    NewerStateError,
    NotFoundError,
    NotRunningError,
    NotSignedInError,
    OtherClusterError,
    OutcomeUnknownError,
    OverloadedError,
    PerdureError,
    PreconditionFailedError,
    ProxyProtocolError,
    RateLimitError,
    ReadOnlyError,
    RequestReusedError,
    RequestRunningError,
    SourceError,
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
    UnansweredError,
    UnencodableError,
    UniqueError,
    UnreachableError,
    WireError,
)
from perdure.base.limits import Limits

if TYPE_CHECKING:
    from perdure.client.remote import Client
    from perdure.runtime.outlets import Delivery
    from perdure.web.api_keys import ApiKeys
    from perdure.web.app import App
    from perdure.web.cors import Cors
    from perdure.web.openapi import Docs
    from perdure.web.outlets import Mail, Webhooks

_UPPER = {
    "ApiKeys": "perdure.web.api_keys",
    "App": "perdure.web.app",
    "Client": "perdure.client.remote",
    "Cors": "perdure.web.cors",
    "Delivery": "perdure.runtime.outlets",
    "Docs": "perdure.web.openapi",
    "Mail": "perdure.web.outlets",
    "Webhooks": "perdure.web.outlets",
}

__version__ = "0.1.0"

__all__ = [
    "Actor",
    "ApiKeys",
    "App",
    "BadArgumentsError",
    "BodyTooLargeError",
    "Caller",
    "Client",
    "ConflictError",
    "Cors",
    "CycleError",
    "DeadlineError",
    "DefinitionError",
    "Delivery",
    "Docs",
    "DomainError",
    "EngineError",
    "FencedError",
    "ForbiddenError",
    "HandshakeError",
    "InterruptedCallError",
    "InvalidKeyError",
    "LimitError",
    "Limits",
    "Log",
    "Mail",
    "Map",
    "MethodNotAllowedError",
    "NewerStateError",
    "NotFoundError",
    "NotRunningError",
    "NotSignedInError",
    "OtherClusterError",
    "OutcomeUnknownError",
    "OverloadedError",
    "Page",
    "PerdureError",
    "PreconditionFailedError",
    "ProxyProtocolError",
    "Rate",
    "RateLimitError",
    "ReadOnlyError",
    "RequestReusedError",
    "RequestRunningError",
    "Row",
    "Selection",
    "SourceError",
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
    "UnansweredError",
    "UnencodableError",
    "UniqueError",
    "UnreachableError",
    "Webhooks",
    "WireError",
    "anyone",
    "expose",
    "indexed",
    "interleave",
    "live",
    "migrate",
    "owner",
    "read",
    "relaxed",
    "request_id",
    "signed_in",
    "transaction",
    "unique",
    "watch",
]


def __getattr__(name: str) -> Any:
    """Load the upper layers with the first use: code that only defines actors is spared them."""
    if name in _UPPER:
        return getattr(import_module(_UPPER[name]), name)
    raise AttributeError(f"module 'perdure' has no attribute {name!r}")
