"""The outlets that come with Perdure: webhooks over HTTP, and e-mail over SMTP.

    app = App(Order, outlets={"webhook": Webhooks(), "mail": Mail("smtp://localhost:25", "shop@…")})

    self.outbox.send("webhook", url="https://example.com/hook", json={"order": 7})     # in a turn
    self.outbox.send("mail", to="ann@example.com", subject="Your order", text="…")

Whatever the outside does not take is tried again, later and later; so both say who they are: a
receiver that sees the same id twice has had it before.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import smtplib
from email.message import EmailMessage
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from perdure.base.clock import Clock, SystemClock
from perdure.base.errors import BadArgumentsError
from perdure.runtime.outlets import Delivery

_TIMEOUT_S = 20.0


class _Hook(msgspec.Struct, forbid_unknown_fields=True):
    url: str
    json: Any = None
    headers: dict[str, str] = {}


class Webhooks:
    """POSTs JSON. Any answer but a 2xx, and a redirect too, is a failure.

    Each delivery carries `Idempotency-Key` and `webhook-id` with its id. With a `secret`, it is
    signed as the Standard Webhooks specification says: `webhook-timestamp`, and `webhook-signature`
    with an HMAC-SHA256 over `id.timestamp.body`.

    The url is whatever the turn gives: where users choose it, check it there, since this process
    may reach addresses that they cannot.
    """

    def __init__(
        self,
        *,
        secret: str | None = None,
        timeout_s: float = _TIMEOUT_S,
        clock: Clock | None = None,
    ) -> None:
        self._secret = secret
        self._timeout_s = timeout_s
        self._clock = clock or SystemClock()

    async def __call__(self, delivery: Delivery) -> None:
        """Send it; raises what went wrong."""
        import httpx  # only who sends webhooks pays for it

        hook = _values(delivery, _Hook)
        if urlsplit(hook.url).scheme not in {"http", "https"}:
            raise BadArgumentsError(f"a webhook goes to http:// or https://, not {hook.url}", "url")
        body = json.dumps(hook.json, separators=(",", ":"), ensure_ascii=False).encode()
        headers = {**hook.headers, "content-type": "application/json"}
        headers |= {"idempotency-key": delivery.id, "webhook-id": delivery.id}
        if delivery.traceparent:
            headers["traceparent"] = delivery.traceparent
        if delivery.tracestate:
            headers["tracestate"] = delivery.tracestate
        if self._secret is not None:
            headers |= self._signature(delivery.id, body)
        async with httpx.AsyncClient(timeout=self._timeout_s) as client:
            answer = await client.post(hook.url, content=body, headers=headers)
        if not answer.is_success:
            raise OSError(f"{urlsplit(hook.url).netloc} answered {answer.status_code}")

    def _signature(self, delivery_id: str, body: bytes) -> dict[str, str]:
        assert self._secret is not None
        stamp = str(self._clock.wall_ms() // 1000)
        signed = f"{delivery_id}.{stamp}.".encode() + body
        digest = hmac.digest(self._secret.encode(), signed, hashlib.sha256)
        signature = "v1," + base64.b64encode(digest).decode()
        return {"webhook-timestamp": stamp, "webhook-signature": signature}


class _Letter(msgspec.Struct, forbid_unknown_fields=True):
    to: str
    subject: str
    text: str


class Mail:
    """Sends plain text e-mail through an SMTP server.

    Args:
        server: `smtp://[USER:PASSWORD@]HOST[:PORT]` (STARTTLS where the server offers it, and
            required when there is a password) or `smtps://…` (TLS from the first byte).
        sender: the address it comes from. The Message-ID is made of the delivery's id.
    """

    def __init__(self, server: str, sender: str, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._server = urlsplit(server)
        if self._server.scheme not in {"smtp", "smtps"} or not self._server.hostname:
            raise BadArgumentsError("a mail server is smtp://HOST:PORT or smtps://HOST:PORT")
        self._sender = sender
        self._timeout_s = timeout_s

    async def __call__(self, delivery: Delivery) -> None:
        """Send it; raises what went wrong."""
        letter = _values(delivery, _Letter)
        message = EmailMessage()  # refuses line ends in headers
        message["From"], message["To"], message["Subject"] = (
            self._sender,
            letter.to,
            letter.subject,
        )
        message["Message-ID"] = f"<{delivery.id}@{self._sender.partition('@')[2]}>"
        message.set_content(letter.text)
        await asyncio.to_thread(self._send, message)

    def _send(self, message: EmailMessage) -> None:
        server = self._server
        assert server.hostname is not None
        is_tls = server.scheme == "smtps"
        connect = smtplib.SMTP_SSL if is_tls else smtplib.SMTP
        port = server.port or (465 if is_tls else 25)
        with connect(server.hostname, port, timeout=self._timeout_s) as connection:
            connection.ehlo()
            if not is_tls and (server.password or connection.has_extn("starttls")):
                connection.starttls()
            if server.username:
                connection.login(unquote(server.username), unquote(server.password or ""))
            connection.send_message(message)


def _values(delivery: Delivery, wanted: Any) -> Any:
    try:
        return msgspec.convert(delivery.values, wanted)
    except msgspec.ValidationError as error:
        told = f"{delivery.sender} sent what this outlet cannot take: {error}"
        raise BadArgumentsError(told) from None
