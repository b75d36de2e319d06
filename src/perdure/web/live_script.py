"""`/-/live.js`: the browser's side of live views, as a module without a build step."""

import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.web.exchange import Exchange

_BODY = files("perdure.web").joinpath("static/live.js").read_bytes()
_TAG = b'"%b"' % hashlib.blake2b(_BODY, digest_size=8).hexdigest().encode()
# An hour without a question, then one that is answered with 304 until the file is another.
_LINES = b"etag: %b\r\ncache-control: public, max-age=3600\r\n" % _TAG


def answer_script(exchange: "Exchange") -> None:
    """Reply with the file, or with 304."""
    if exchange.header(b"if-none-match") == _TAG:
        exchange.reply(304, b"", b"text/javascript", _LINES)
    else:
        exchange.reply(200, _BODY, b"text/javascript; charset=utf-8", _LINES)
