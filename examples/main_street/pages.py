"""The pages: plain forms and redirects that work without a script, made pleasant with a little."""

import os
import secrets
import signal
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from perdure import DomainError, PerdureError, Rate, RateLimitError

from . import memory
from .accounts import PASSWORD_LENGTH_MIN, Refused, Tries, normal_email, sign_up
from .cart import QTY_MAX, Cart
from .catalogue import ARTICLES, total_cents
from .gifts import Wallet, cents_of, give
from .orders import Status, orders_of
from .plaza import Crowd
from .sessions import User, log_in, log_out
from .stock import left_of_scarce
from .visit import guard

HERE = Path(__file__).parent
PLACES = ("/", "/cart", "/orders", "/gifts", "/plaza", "/memory")  # where `next` may lead
ORDERS_BY_CART = 3
LOG_INS = Rate(30, by="address", name="log-in")  # Tries counts those for one e-mail address
COLOURS = ("#d9482b", "#1f8a70", "#3867d6", "#b8860b", "#8e44ad", "#c2347c", "#2a7fa8", "#5f7d1c")

templates = Jinja2Templates(HERE / "templates")
templates.env.filters["money"] = lambda cents: f"{cents / 100:.2f} €"


async def street(request: Request) -> Response:
    return await _page(request, "street.html", left=await left_of_scarce())


async def cart(request: Request) -> Response:
    visit = request.state.visit
    watched = visit.cart_key if visit.user or visit.guest else None
    newest = await orders_of(visit.user.id, rows=ORDERS_BY_CART) if visit.user else ()
    context: dict[str, Any] = {"total_cents": total_cents, "watched": watched, "orders": newest}
    return await _page(request, "cart.html", **context)


async def change_cart(request: Request) -> Response:
    """Add one, or set a quantity. Sent twice under one `request_id`, it happens once."""
    form = await request.form()
    actor = Cart.at(request.state.visit.cart_key, request_id=_request_id(form))
    sku, qty = str(form.get("sku")), str(form.get("qty", ""))
    if qty.isascii() and qty.isdigit():
        await actor.put(sku, min(int(qty[:9]), QTY_MAX))
    else:
        await actor.add(sku)
    return _back(form, "/cart")


async def check_out(request: Request) -> Response:
    form, user = await request.form(), request.state.visit.user
    if user is None:
        return RedirectResponse("/login?next=/cart", 303)
    await Cart.at(user.id, request_id=_request_id(form)).check_out()
    return _back(form, "/cart")


async def orders(request: Request) -> Response:
    """All of one's orders, or those of one status, the newest first."""
    user, asked = request.state.visit.user, request.query_params
    if user is None:
        return RedirectResponse("/login?next=/orders", 303)
    status = next((known for known in Status if known.value == asked.get("status")), None)
    found = await orders_of(user.id, status, asked.get("after"))
    context: dict[str, Any] = {"chosen": status, "statuses": list(Status), "orders": found}
    return await _page(request, "orders.html", next=found.next, **context)


async def gifts(request: Request) -> Response:
    """One's balance, and the form to give some of it away."""
    user, form, error, status = request.state.visit.user, await request.form(), "", 200
    if user is None:
        return RedirectResponse("/login?next=/gifts", 303)
    if request.method == "POST":
        try:
            email, cents = normal_email(str(form.get("email"))), cents_of(str(form.get("amount")))
            await give(user.id, email, cents, _request_id(form))
            return RedirectResponse("/gifts", 303)
        except DomainError as refusal:
            error, status = str(refusal), refusal.status
    context = {"balance_cents": await Wallet.at(user.id).balance_cents(), "fields": form}
    return await _page(request, "gifts.html", status, error=error, **context)


async def enter(request: Request) -> Response:
    """The forms to log in and to sign up, and what they send."""
    form = request.query_params if request.method == "GET" else await request.form()
    error, status, path = "", 200, request.url.path
    if request.method == "POST":
        try:
            address = request.client.host if request.client else ""
            await request.app.state.perdure.spend(LOG_INS, address)
            if user := await (_log_in(form) if path == "/login" else _sign_up(form)):
                response = _back(form, "/")
                await log_in(request, response, user)
                return response
            error, status = "Wrong e-mail address or password.", 401
        except (DomainError, RateLimitError) as refusal:
            error, status = str(refusal), refusal.status
    context = {"error": error, "fields": form, "length_min": PASSWORD_LENGTH_MIN}
    return await _page(request, f"{path[1:]}.html", status, **context)


async def _log_in(form: Any) -> User | None:
    tries = Tries.at(normal_email(str(form.get("email", ""))))
    return await tries.log_in(str(form.get("password", "")))


async def _sign_up(form: Any) -> User:
    name = "".join(filter(str.isprintable, " ".join(str(form.get("name", "")).split())))[:24]
    if not name:
        raise Refused("Please give a name; others see it on the plaza.")
    email = normal_email(str(form.get("email", "")))
    user = User(secrets.token_hex(16), name, secrets.choice(COLOURS))
    return await sign_up(email, user, str(form.get("password", "")))


async def leave(request: Request) -> Response:
    response = RedirectResponse("/", 303)
    await log_out(request, response)
    return response


async def plaza(request: Request) -> Response:
    if request.state.visit.user is None:
        return RedirectResponse("/login?next=/plaza", 303)
    return await _page(request, "plaza.html")


async def remembered(request: Request) -> Response:
    """What is remembered where; `?part` gives only what changes."""
    app, user = request.app.state.perdure, request.state.visit.user
    template = "shelves.html" if "part" in request.query_params else "memory.html"
    context = {"statistics": app.statistics(), "may_kill": memory.may_kill(request, bool(user))}
    return await _page(request, template, shelves=await memory.shelves(app), **context)


async def kill(request: Request) -> Response:
    """End this process as a power cut would: nothing is flushed, closed or said goodbye to."""
    form = await request.form()
    if not memory.may_kill(request, bool(request.state.visit.user)):
        return await _page(request, "error.html", 403, error="Only a demo can be killed here.")
    if form.get("boot") == memory.BOOT_ID:  # browsers send again what a dying server left open
        os.kill(os.getpid(), signal.SIGKILL)
    return RedirectResponse("/memory", 303)


async def failed(request: Request, error: Exception) -> Response:
    """No such page, or an actor refused: say so, with the status that the error has."""
    if isinstance(error, HTTPException):
        status, text = error.status_code, "There is no such house on this street."
    else:
        status, text = getattr(error, "status", 500), str(error)
    return await _page(request, "error.html", status, error=text)


async def _page(request: Request, template: str, status: int = 200, **context: Any) -> Response:
    visit, request_id = request.state.visit, secrets.token_urlsafe(12)
    cart, process = await visit.cart(), await memory.process()
    context |= {"user": visit.user, "cart": cart, "process": process, "request_id": request_id}
    context |= {"count": sum(cart.lines.values()), "articles": ARTICLES}
    return templates.TemplateResponse(request, template, context, status)


def _request_id(form: Any) -> str | None:
    return str(form.get("request_id", ""))[:64] or None


def _back(form: Any, default: str) -> Response:
    return RedirectResponse(form.get("next") if form.get("next") in PLACES else default, 303)


site = Starlette(
    routes=[
        Route("/", street),
        Route("/cart", cart),
        Route("/cart/change", change_cart, methods=["POST"]),
        Route("/cart/check-out", check_out, methods=["POST"]),
        Route("/orders", orders),
        Route("/gifts", gifts, methods=["GET", "POST"]),
        Route("/login", enter, methods=["GET", "POST"]),
        Route("/signup", enter, methods=["GET", "POST"]),
        Route("/logout", leave, methods=["POST"]),
        Route("/plaza", plaza),
        WebSocketRoute("/plaza/live", Crowd().welcome),
        Route("/memory", remembered),
        Route("/memory/kill", kill, methods=["POST"]),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ],
    middleware=[Middleware(BaseHTTPMiddleware, dispatch=guard)],
    exception_handlers={HTTPException: failed, PerdureError: failed},
)
