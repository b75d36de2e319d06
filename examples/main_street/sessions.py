"""Sessions: who is behind a request. The cookie holds a token, the server holds everything else.

A session's key is a hash of its token, so whoever reads the database cannot be anybody. The actor
is asked on every request, so a session that was ended is ended everywhere at once.
"""

import hashlib
import secrets
import time
from datetime import timedelta

import msgspec
from starlette.requests import HTTPConnection
from starlette.responses import Response

from perdure import Actor, Caller, read

SESSION_S = 14 * 86_400  # then even a token that is used every day ends
IDLE_MAX = timedelta(days=3)


class User(msgspec.Struct, frozen=True):
    """What the rest of the street knows of somebody: no address, no password."""

    id: str
    name: str
    colour: str


class Session(Actor, ttl=IDLE_MAX):
    """One browser that is logged in, until it logs out or stays away."""

    user: User | None = None
    expires_at_s: float = 0.0

    async def begin(self, user: User) -> None:
        self.user, self.expires_at_s = user, time.time() + SESSION_S

    @read
    async def who(self) -> User | None:
        return self.user if time.time() < self.expires_at_s else None

    async def end(self) -> None:
        self.forget()


def key_of(token: str) -> str:
    """The key under which the server knows what a cookie holds."""
    return hashlib.sha256(token.encode()).hexdigest()[:32]


def guest_key(token: str) -> str:
    """The key of the cart of somebody who is not logged in."""
    return f"guest-{key_of(token)}"


async def log_in(request: HTTPConnection, response: Response, user: User) -> None:
    """Begin a session under a token that nobody has seen before; the one before it ends."""
    await log_out(request, response)
    token = secrets.token_urlsafe(32)
    await Session.at(key_of(token)).begin(user)
    set_cookie(request, response, "session", token, SESSION_S)


async def log_out(request: HTTPConnection, response: Response) -> None:
    """End the session at the server; that the cookie goes too is mere tidiness."""
    if token := cookie(request, "session"):
        await Session.at(key_of(token)).end()
        set_cookie(request, response, "session", "", 0)


async def user_of(connection: HTTPConnection) -> User | None:
    """The user who is logged in, for pages and WebSockets."""
    token = cookie(connection, "session")
    return await Session.at(key_of(token)).who() if token else None


async def identify(connection: HTTPConnection) -> Caller | None:
    """The same for the actors' own HTTP routes; an actor's `owner` is the caller with its key.

    A guest is the owner of the guest's cart, and of nothing else.
    """
    if user := await user_of(connection):
        return Caller(user.id)
    guest = cookie(connection, "guest")
    return Caller(guest_key(guest)) if guest else None


# for /-/openapi.json, which cannot know what `identify` looks at
identify.security_scheme = {  # type: ignore[attr-defined]
    "type": "apiKey",
    "in": "cookie",
    "name": "session",
}


def cookie(connection: HTTPConnection, name: str) -> str | None:
    """The value of one of our cookies."""
    return connection.cookies.get(_prefix(connection) + name)


def set_cookie(
    connection: HTTPConnection, response: Response, name: str, value: str, age_s: int
) -> None:
    """Set a cookie that no script can read, and no other site can plant or send."""
    prefix = _prefix(connection)
    response.set_cookie(
        prefix + name, value, max_age=age_s, secure=bool(prefix), httponly=True, samesite="lax"
    )


def _prefix(connection: HTTPConnection) -> str:
    # browsers take __Host- cookies over TLS only, and then from this very host only
    return "__Host-" if connection.url.scheme in {"https", "wss"} else ""
