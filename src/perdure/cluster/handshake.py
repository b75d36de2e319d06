"""How two processes make sure of each other before the first frame: a shared key, proven both ways.

The server begins, with a nonce. The client answers with its hello, the server with its own:

    server → client   nonce
    client → server   proof, hello         proof over: "client", the server's nonce, this hello
    server → client   proof, hello         proof over: "server", the server's nonce, both hellos

A hello holds a nonce, the identity and the range of versions. Each message has two bytes of length
before it, and a hello may grow at its end: who is older ignores what it does not know. (Menezes et
al., "Handbook of Applied Cryptography", 10.3: challenge and response, both ways.)

Invariants:
- Who connects and has not proven the key sees 32 random digits and then the end, whatever it sends.
  One of the two has to go first, and the client knows better whom it talks to: it dialled.
- Nothing is decoded before its proof was checked.
- A proof is good for one connection, one role, and exactly the identity and the versions that its
  sender told; the server's also for what the client told. So it cannot be replayed, reflected, or
  used to make two ends agree on an older version than both speak.

What it does not do: frames that follow are neither encrypted nor signed. Who can change packets on
the way between two machines is kept out by TLS, not by this.
"""

import hmac
import logging
import struct

import msgspec

from perdure.base.errors import HandshakeError
from perdure.base.ids import new_id
from perdure.cluster.frames import VERSION, VERSION_MIN

KEY_BYTES_MIN = 16  # a shorter one could be guessed from one proof that was overheard
MESSAGE_BYTES_MAX = 4096

log = logging.getLogger("perdure.cluster")

_LENGTH = struct.Struct(">H")
_PROOF_BYTES = 32
_NONCE_BYTES = 32


def fingerprint_of(key: bytes) -> str:
    """Tells two keys apart, and nothing about either; for where others may read it."""
    return hmac.new(key, b"perdure: fingerprint of a cluster's key", "sha256").hexdigest()[:16]


class Identity(msgspec.Struct, frozen=True):
    """Who a process is."""

    process: str  # new_id() of each start
    incarnation: int  # as a member; 0 for a process that owns nothing
    name: str  # for people: its machine and pid
    release: str  # of Perdure, for people


class _Hello(msgspec.Struct, frozen=True, array_like=True):
    nonce: str
    version_min: int
    version: int
    identity: Identity


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Hello).decode


class Handshake:
    """One end of it, as a machine that gets bytes and gives bytes.

    It never raises for what it gets: `error` is set instead, and then it takes nothing more. It is
    done when `peer` is set.
    """

    def __init__(
        self,
        identity: Identity,
        key: bytes,
        *,
        versions: tuple[int, int] = (VERSION_MIN, VERSION),
    ) -> None:
        if len(key) < KEY_BYTES_MIN:
            raise ValueError(
                f"the cluster's key has {len(key)} bytes; at least {KEY_BYTES_MIN} random ones"
                " are needed"
            )
        self.peer: Identity | None = None
        self.version = 0  # that both speak, once `peer` is set
        self.rest = b""  # what came behind the last message: frames
        self.error: HandshakeError | None = None
        self._key = key
        self._versions = versions
        self._hello = _encode(_Hello(new_id(), *versions, identity))
        self._held = b""

    def begin(self) -> bytes:
        """What to send as soon as there is a connection."""
        return b""

    def receive(self, data: bytes) -> bytes:
        """Take what came; returns what to send, if anything, even if there is an error."""
        if self.error is not None or self.peer is not None:
            return b""
        self._held += data
        reply = b""
        while self.error is None and self.peer is None:
            message = self._next_message()
            if message is None:
                break
            reply += self._take(message)
        if self.peer is not None:
            self.rest, self._held = self._held, b""
        return reply

    def _next_message(self) -> bytes | None:
        held = self._held
        if len(held) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(held)[0]
        if end > _LENGTH.size + MESSAGE_BYTES_MAX:
            self._refuse("a message that is too long")
            return None
        if len(held) < end:
            return None
        self._held = held[end:]
        return held[_LENGTH.size : end]

    def _take(self, message: bytes) -> bytes:
        raise NotImplementedError

    def _proof(self, role: bytes, *parts: bytes) -> bytes:
        """Each part goes with its length: no two lists of parts have the same transcript."""
        proof = hmac.new(self._key, b"perdure link: " + role, "sha256")
        for part in parts:
            proof.update(_framed(part))
        return proof.digest()

    def _meet(self, hello: bytes) -> None:
        """Take the other's hello, whose proof was checked."""
        try:
            other = _decode(hello)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._refuse("a hello that cannot be read")
            return
        version_min, version = self._versions
        if other.version < version_min or other.version_min > version:
            log.error(
                "link refused: no common version",
                extra={
                    "peer": other.identity.name,
                    "peer_release": other.identity.release,
                    "peer_versions": [other.version_min, other.version],
                    "versions": [version_min, version],
                },
            )
            self._refuse("no version that both speak")
            return
        self.version = min(version, other.version)
        self.peer = other.identity

    def _refuse(self, what: str) -> None:
        self._held = b""
        self.error = HandshakeError(f"handshake of a link: {what}")


class ClientHandshake(Handshake):
    """The end that dialled."""

    _nonce: bytes | None = None  # the server's

    def _take(self, message: bytes) -> bytes:
        if self._nonce is None:
            if len(message) != _NONCE_BYTES:
                self._refuse("a nonce of another length")
                return b""
            self._nonce = message
            return _framed(self._proof(b"client", message, self._hello) + self._hello)
        proof, hello = message[:_PROOF_BYTES], message[_PROOF_BYTES:]
        right = self._proof(b"server", self._nonce, self._hello, hello)
        if hmac.compare_digest(proof, right):
            self._meet(hello)
        else:
            self._refuse("a wrong proof")
        return b""


class ServerHandshake(Handshake):
    """The end that was dialled."""

    _nonce = b""  # its own

    def begin(self) -> bytes:
        self._nonce = new_id().encode()
        return _framed(self._nonce)

    def _take(self, message: bytes) -> bytes:
        proof, hello = message[:_PROOF_BYTES], message[_PROOF_BYTES:]
        if not hmac.compare_digest(proof, self._proof(b"client", self._nonce, hello)):
            self._refuse("a wrong proof")
            return b""
        self._meet(hello)
        # Also when the versions do not fit: the other shall know, and log, which ones met.
        mine = self._hello
        return _framed(self._proof(b"server", self._nonce, hello, mine) + mine)


def _framed(message: bytes) -> bytes:
    return _LENGTH.pack(len(message)) + message
