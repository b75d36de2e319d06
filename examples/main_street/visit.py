"""One request's visitor: whose cart it is about, and that the request really is the visitor's own.

A guest's cart becomes the user's here, and not in the log-in handler: whoever is logged in and
still carries a guest's cookie has a merge to finish, however the last attempt ended.
"""

import secrets
from dataclasses import dataclass

from starlette.middleware.base import RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from .cart import Cart, CartView, merge
from .sessions import User, cookie, guest_key, set_cookie, user_of

GUEST_S = 90 * 86_400
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


@dataclass
class Visit:
    """Who is here. A guest becomes somebody with the first thing in the cart, not before."""

    user: User | None
    guest: str | None  # the guest's cookie, as it should be after this request

    @property
    def cart_key(self) -> str:
        if self.user:
            return self.user.id
        self.guest = self.guest or secrets.token_urlsafe(32)
        return guest_key(self.guest)

    async def cart(self) -> CartView:
        return await Cart.at(self.cart_key).view() if self.user or self.guest else CartView()


async def _begin(request: Request) -> Visit:
    """Find out who it is, and finish what a log-in began."""
    user, guest = await user_of(request), cookie(request, "guest")
    if guest:
        key = guest_key(guest)
        if heir := user.id if user else (await Cart.at(key).view()).given_to:
            await merge(key, heir)
            guest = None
    return Visit(user, guest)


def _is_own(request: Request) -> bool:
    """False for what another site's page sent. Every browser says with a POST where it is from."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin", "").partition("://")[2]
    return site == "same-origin" if site else origin == request.headers.get("host")


async def guard(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """The middleware around every page."""
    if request.url.path.startswith("/static/"):
        return await call_next(request)
    if request.method not in {"GET", "HEAD"} and not _is_own(request):
        return PlainTextResponse("A page of another site may not do this.\n", 403)
    visit = request.state.visit = await _begin(request)
    response = await call_next(request)
    if visit.guest != cookie(request, "guest"):
        set_cookie(request, response, "guest", visit.guest or "", GUEST_S if visit.guest else 0)
    response.headers.update(HEADERS)
    return response
