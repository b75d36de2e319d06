"""`/-/openapi.json` and `/-/docs`: what an App can be asked, for programs and for people.

Who sees it: everybody, if `docs` is True or says more; nobody, if it is False. By default everybody
while the App has no `identify`, since then everybody may call everything; and else only who sits at
the same machine and asks it by that name. A proxy in front is told by its header or by the Host
that it passes on.

Invariants:
- The page loads nothing from elsewhere, and its policy forbids it: it works without a network.
- The document of a version is made once, when it is first asked for; the routes cannot change after
  the start.
"""

import hashlib
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from importlib.resources import files
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from perdure.base.codec import encode
from perdure.base.errors import NotFoundError
from perdure.web.access import Identify
from perdure.web.openapi import Docs, openapi_of
from perdure.web.operations import Operation

if TYPE_CHECKING:
    from perdure.web.exchange import Exchange

OPENAPI, PAGE = b"/-/openapi.json", b"/-/docs"

_BODY = files("perdure.web").joinpath("static/docs.html").read_bytes()
_LOOPBACK_NAMES = frozenset((b"localhost", b"127.0.0.1", b"[::1]"))
_PROXY_FIELDS = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip")


class DocsPages:
    """The two pages of one App."""

    def __init__(
        self,
        docs: Docs | bool | None,
        identify: Identify | None,
        operations: Callable[[int], Sequence[Operation]],
        versions: Callable[[], int],
    ) -> None:
        self._docs = docs
        self._identify = identify
        self._operations = operations
        self._versions = versions
        self._documents: dict[int, bytes] = {}

    def answer(self, path: bytes, exchange: "Exchange") -> None:
        """Reply with the page, or as if it were not there."""
        if not self._is_shown_to(exchange):
            exchange.reply_problem(NotFoundError("nothing is at this path"))
        elif path == PAGE:
            exchange.reply(200, _BODY, b"text/html; charset=utf-8", _PAGE_LINES)
        elif (document := self._document(_version_in(exchange))) is None:
            exchange.reply_problem(NotFoundError("there is no such version of this API"))
        else:
            exchange.reply(200, document, b"application/json", _NOT_CACHED)

    @property
    def about(self) -> Docs:
        """What is said of the App as a whole."""
        return self._docs if isinstance(self._docs, Docs) else Docs()

    def _document(self, version: int) -> bytes | None:
        if version not in self._documents:
            versions = self._versions()
            if not 1 <= version <= versions:
                return None
            found = openapi_of(self._operations(version), self.about, self._identify)
            if versions > 1:
                found["info"] |= _told(version, versions)
            self._documents[version] = encode(found)
        return self._documents[version]

    def _is_shown_to(self, exchange: "Exchange") -> bool:
        if self._docs is None:
            return self._identify is None or _is_local(exchange)
        return self._docs is not False


def _version_in(exchange: "Exchange") -> int:
    """Which version is asked for in the query; 0: none that could be."""
    asked = dict(parse_qsl(exchange.query.decode("latin-1"))).get("version", "1")
    return int(asked) if re.fullmatch("[1-9][0-9]{0,2}", asked) else 0


def _told(version: int, versions: int) -> dict[str, object]:
    return {"x-api-version": version, "x-api-versions": list(range(1, versions + 1))}


def _is_local(exchange: "Exchange") -> bool:
    if exchange.client is None or any(exchange.header(name) for name in _PROXY_FIELDS):
        return False
    host = re.sub(rb":\d+$", b"", exchange.header(b"host") or b"")
    try:
        return host in _LOOPBACK_NAMES and ip_address(exchange.client[0]).is_loopback
    except ValueError:  # a Unix socket: whoever can open it may be anybody's proxy
        return False


def _hash_of(tag: bytes) -> bytes:
    inside = _BODY.split(b"<%b>" % tag, 1)[1].split(b"</%b>" % tag, 1)[0]
    return b"'sha256-%b'" % b64encode(hashlib.sha256(inside).digest())


_NOT_CACHED = b"cache-control: no-cache\r\n"
_PAGE_LINES = (
    b"content-security-policy: default-src 'none'; connect-src 'self'; img-src data:; "
    b"script-src %b; style-src %b; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
    b"x-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\n"
) % (_hash_of(b"script"), _hash_of(b"style")) + _NOT_CACHED
