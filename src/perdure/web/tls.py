"""TLS for the web server, with a certificate that can be exchanged while it serves.

Invariants:
- TLS 1.2 with forward secrecy and authenticated encryption, or TLS 1.3; nothing older.
- A pair of files that does not fit together, or cannot be read, never replaces one that works.
- Connections keep what they began with; each new handshake gets the newest certificate.
"""

import asyncio
import logging
import os
import ssl

logger = logging.getLogger("perdure.web")

_PERIOD_S = 5.0
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class Certificate:
    """A certificate chain and its private key, in two PEM files."""

    def __init__(self, chain: str, private_key: str) -> None:
        """Load it. Raises OSError, of which SSLError is one, when the files are no pair."""
        self._files = (chain, private_key)
        self._seen = self._look()
        self._newest = self.context = _context(*self._files)
        # A whole context for each version: loading into the one in use would leave a certificate
        # of another kind of key beside the new one.
        self.context.sni_callback = self._begin

    def refresh(self) -> bool:
        """Take the files up if they have changed; returns whether a new certificate is in use."""
        try:
            seen = self._look()
            if seen == self._seen:
                return False
            self._seen = seen
            self._newest = _context(*self._files)
        except OSError as error:
            logger.warning("certificate not taken up", extra={"error": str(error)})
            return False
        logger.info("certificate taken up", extra={"file": self._files[0]})
        return True

    async def watch(self, period_s: float = _PERIOD_S) -> None:
        """Refresh it for ever. Looking is simpler than being told, and works on any file system."""
        while True:
            await asyncio.sleep(period_s)
            self.refresh()

    def _look(self) -> list[tuple[int, int, int]]:
        found = map(os.stat, self._files)
        return [(status.st_ino, status.st_mtime_ns, status.st_size) for status in found]

    def _begin(self, handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        handshake.context = self._newest


def _context(chain: str, private_key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    # Never ask for a passphrase: there may be a terminal, and then a reload would wait for it.
    context.load_cert_chain(chain, private_key, _no_passphrase)
    return context


def _no_passphrase() -> str:
    return ""
