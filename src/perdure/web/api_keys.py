"""API keys for programs: an `identify` that knows keys by their hashes.

The app holds hashes only, so neither its code nor its configuration lets anybody in. A key is 256
random bits, which nobody can guess: a plain SHA-256 is enough, and a slow hash, as passwords need,
would only make every call slow.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping

from starlette.requests import HTTPConnection

from perdure.actor.model import Caller
from perdure.base.errors import DefinitionError

_HASH_BYTES = 32
_PREFIX = "key_"  # lets scanners for leaked secrets know one


class ApiKeys:
    """Identifies callers by `Authorization: Bearer KEY`: `App(…, identify=ApiKeys({hash: id}))`.

    Args:
        callers: for the hash of each key, in hexadecimal, who has it: an id or a `Caller`. One
            caller may have several keys, as while they change from an old one to a new one.

    All hashes are compared, each in constant time, so that the time of an answer tells nothing. It
    is meant for some hundreds of keys; keep more of them in actors.

    Raises DefinitionError if a hash is none.
    """

    security_scheme: Mapping[str, str] = {"type": "http", "scheme": "bearer"}

    def __init__(self, callers: Mapping[str, Caller | str]) -> None:
        self._callers = [
            (_digest_of(text), Caller(caller) if isinstance(caller, str) else caller)
            for text, caller in callers.items()
        ]

    @classmethod
    def create(cls) -> tuple[str, str]:
        """A new key, for the caller, and its hash, for the app."""
        key = _PREFIX + secrets.token_urlsafe(_HASH_BYTES)
        return key, cls.hash_of(key)

    @staticmethod
    def hash_of(key: str) -> str:
        """The hash of a key, in hexadecimal."""
        return hashlib.sha256(key.encode()).hexdigest()

    def __call__(self, connection: HTTPConnection) -> Caller | None:
        """Who has the key that came with the request; None if nobody has."""
        scheme, _, key = connection.headers.get("authorization", "").partition(" ")
        given = hashlib.sha256(key.strip().encode()).digest()
        found = None
        for digest, caller in self._callers:
            if hmac.compare_digest(digest, given):
                found = caller
        return found if scheme.lower() == "bearer" else None


def _digest_of(text: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != _HASH_BYTES:  # the text stays out of the message: it may be a key
        raise DefinitionError(
            f"ApiKeys takes hashes of {2 * _HASH_BYTES} hexadecimal digits, "
            "as `ApiKeys.hash_of(key)` makes them, never the keys"
        )
    return digest
