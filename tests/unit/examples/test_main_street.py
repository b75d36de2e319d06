"""Main Street over plain HTTP: who gets in, who does not, and where the cart goes."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

import httpx
import pytest
from examples.main_street.app import app
from examples.main_street.cart import Cart, CartView, merge
from examples.main_street.orders import SHIPPED_AFTER, Order, Status
from examples.main_street.plaza import Plaza, Visitor, Wish
from examples.main_street.sessions import IDLE_MAX, Session, User, guest_key
from examples.main_street.stock import HELD_FOR, SoldOut, Stock

from perdure.testing import VirtualClock, async_test, running

HTTP, HTTPS = "http://street.test", "https://street.test"
OWN = {"origin": HTTP}
ADA = {"name": "Ada", "email": "Ada@Example.org ", "password": "correct horse battery"}

Test = Callable[[], Coroutine[Any, Any, None]]


def on_the_street(test: Test) -> Callable[[], None]:
    """Run the test with the app on a store in memory."""

    @wraps(test)
    def run() -> None:
        async def with_app() -> None:
            await app.start("memory:")
            try:
                await test()
            finally:
                await app.stop()

        asyncio.run(with_app())

    return run


@asynccontextmanager
async def browser(base: str = HTTP) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"origin": base, "sec-fetch-site": "same-origin"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=base, headers=headers) as client:
        yield client


async def sign_up(client: httpx.AsyncClient, **changes: str) -> httpx.Response:
    return await client.post("/signup", data=ADA | changes)


async def log_in(client: httpx.AsyncClient, **changes: str) -> httpx.Response:
    return await client.post("/login", data=ADA | changes)


async def add(client: httpx.AsyncClient, sku: str, request_id: str = "") -> httpx.Response:
    return await client.post("/cart/change", data={"sku": sku, "request_id": request_id})


async def count(client: httpx.AsyncClient) -> int:
    page = await client.get("/cart")
    found = re.search('data-count="([0-9]+)"', page.text)
    assert found
    return int(found[1])


@on_the_street
async def test_a_form_of_another_site_is_refused() -> None:
    async with browser() as client:
        await sign_up(client)
        for headers in (
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
            {"sec-fetch-site": "", "origin": "https://evil.test"},
            {"sec-fetch-site": "", "origin": "null"},
            {"sec-fetch-site": "", "origin": ""},
        ):
            for path in ("/cart/change", "/logout", "/login", "/memory/kill"):
                answer = await client.post(path, data={"sku": "tea"}, headers=headers)
                assert answer.status_code == 403, (headers, path)
        assert await count(client) == 0
        assert "Log out" in (await client.get("/")).text


@on_the_street
async def test_an_old_browser_that_only_says_its_origin_is_served() -> None:
    async with browser() as client:
        headers = {"sec-fetch-site": "", "origin": HTTP}
        answer = await client.post("/cart/change", data={"sku": "tea"}, headers=headers)
        assert answer.status_code == 303
        assert await count(client) == 1


@on_the_street
async def test_cookies_are_out_of_reach_for_scripts_and_other_sites() -> None:
    async with browser(HTTPS) as client:
        cookies = [
            (await add(client, "tea")).headers["set-cookie"],
            (await sign_up(client)).headers["set-cookie"],
        ]
        for name, cookie in zip(("__Host-guest=", "__Host-session="), cookies, strict=True):
            assert cookie.startswith(name)
            flags = set(cookie.lower().split("; ")[1:])
            assert {"httponly", "samesite=lax", "secure", "path=/"} <= flags
            assert not [flag for flag in flags if flag.startswith("domain")]
    async with browser(HTTP) as client:
        await app_has_ada()
        cookie = (await log_in(client)).headers["set-cookie"]
        assert cookie.startswith("session=")
        assert "secure" not in cookie.lower()


async def app_has_ada() -> None:
    async with browser() as client:
        await sign_up(client)


@on_the_street
async def test_a_wrong_password_and_an_unknown_address_look_alike() -> None:
    await app_has_ada()
    async with browser() as client:
        wrong = await log_in(client, password="a wrong password")
        unknown = await log_in(client, email="nobody@example.org", password="a wrong password")
        assert wrong.status_code == unknown.status_code == 401
        assert _without_ids(wrong.text) == _without_ids(
            unknown.text.replace("nobody@example.org", ADA["email"])
        )
        assert set(wrong.headers) == set(unknown.headers)
        assert not client.cookies


@on_the_street
async def test_one_address_cannot_try_one_account_after_the_other() -> None:
    async with browser() as client:
        answers = [await log_in(client, email=f"no address {n}") for n in range(31)]
        assert [one.status_code for one in answers] == [422] * 30 + [429]
        assert "try again in 2 s" in answers[-1].text
        assert (await client.get("/login")).status_code == 200


def _without_ids(page: str) -> str:
    return re.sub('value="[^"]*"', "", page)


@on_the_street
async def test_guessing_is_slowed_down_whether_or_not_the_account_exists() -> None:
    await app_has_ada()
    async with browser() as client:
        for email in (ADA["email"], "nobody@example.org"):
            for _ in range(5):
                answer = await log_in(client, email=email, password="a wrong password")
                assert answer.status_code == 401
            answer = await log_in(client, email=email)
            assert answer.status_code == 429
            assert "Wait" in answer.text


@on_the_street
async def test_the_right_password_clears_earlier_failures() -> None:
    await app_has_ada()
    async with browser() as client:
        for _ in range(3):
            for _ in range(4):
                await log_in(client, password="a wrong password")
            assert (await log_in(client)).status_code == 303


@on_the_street
async def test_an_address_is_one_account_however_it_is_typed() -> None:
    await app_has_ada()
    async with browser() as client:
        assert (await log_in(client, email="ADA@example.ORG")).status_code == 303
        assert (await sign_up(client, email="aDa@example.org")).status_code == 422


@on_the_street
async def test_of_two_who_want_one_address_at_once_one_gets_it() -> None:
    async with browser() as ada, browser() as eve:
        answers = await asyncio.gather(sign_up(ada), sign_up(eve, name="Eve"))
        assert sorted(answer.status_code for answer in answers) == [303, 422]
        refused = max(answers, key=lambda answer: answer.status_code)
        assert "This address has an account already" in refused.text
        stored = await app.store.actor_types()
        assert (stored["account"], stored["session"]) == (1, 1)


@on_the_street
async def test_what_is_not_needed_any_more_is_forgotten() -> None:
    async with browser() as client:
        await sign_up(client)
        await log_in(client, password="a wrong password")
        await client.post("/logout")
        assert {"tries"} == {"tries", "session"} & set(await app.store.actor_types())
        await log_in(client)
        assert {"session"} == {"tries", "session"} & set(await app.store.actor_types())


@async_test
async def test_a_session_ends_when_nobody_comes_back() -> None:
    clock = VirtualClock()
    async with running(Session, clock=clock):
        session, user = Session.at("s"), User("a", "Ada", "#d9482b")
        await session.begin(user)
        for _ in range(2):
            await clock.advance(IDLE_MAX.total_seconds() * 0.9)
            assert await session.who() == user
        await clock.advance(IDLE_MAX.total_seconds() * 1.1)
        assert await session.who() is None


@on_the_street
async def test_a_log_in_gives_a_new_token_and_ends_the_one_before() -> None:
    await app_has_ada()
    async with browser() as client:
        await log_in(client)
        before = client.cookies["session"]
        await log_in(client)
        assert client.cookies["session"] != before
        async with browser() as thief:
            thief.cookies.set("session", before)
            assert "Log out" not in (await thief.get("/")).text


@on_the_street
async def test_a_planted_token_is_never_adopted() -> None:
    await app_has_ada()
    async with browser() as client:
        client.cookies.set("session", "planted", domain="street.test")
        await log_in(client)
        async with browser() as thief:
            thief.cookies.set("session", "planted")
            assert "Log out" not in (await thief.get("/")).text


@on_the_street
async def test_logging_out_ends_the_session_at_the_server() -> None:
    async with browser() as client:
        await sign_up(client)
        token = client.cookies["session"]
        await client.post("/logout")
        async with browser() as thief:
            thief.cookies.set("session", token)
            assert "Log out" not in (await thief.get("/")).text
            assert (await thief.get("/plaza")).headers["location"] == "/login?next=/plaza"


@on_the_street
async def test_a_guests_cart_becomes_the_users_at_log_in() -> None:
    async with browser() as client:
        await add(client, "tea")
        await sign_up(client)
        await client.post("/logout")
        for sku in ("tea", "kite", "kite"):
            await add(client, sku)
        assert client.cookies["guest"]
        await log_in(client)
        assert await count(client) == 4
        assert "guest" not in client.cookies
        assert await count(client) == 4


@on_the_street
async def test_merging_twice_is_merging_once() -> None:
    await Cart.at("guest-1").add("tea")
    await Cart.at("user").add("tea")
    await merge("guest-1", "user")
    await merge("guest-1", "user")
    assert (await Cart.at("user").view()).lines == {"tea": 2}
    assert (await Cart.at("guest-1").view()).lines == {}


@on_the_street
async def test_a_merge_that_died_at_any_point_is_finished_by_the_next() -> None:
    for steps in range(4):
        guest, user = f"guest-{steps}", f"user-{steps}"
        await Cart.at(guest).add("tea")
        if steps > 0:
            lines = await Cart.at(guest).give_to(user)
        if steps > 1:
            await Cart.at(user).absorb(guest, lines)
        if steps > 2:
            await Cart.at(guest).empty()
        await merge(guest, user)
        assert (await Cart.at(user).view()).lines == {"tea": 1}
        assert (await Cart.at(guest).view()).lines == {}


@on_the_street
async def test_a_guests_cart_goes_to_its_first_taker_only() -> None:
    await Cart.at("guest-1").add("tea")
    await Cart.at("guest-1").give_to("first")
    await merge("guest-1", "second")
    assert (await Cart.at("second").view()).lines == {}
    await merge("guest-1", "first")
    assert (await Cart.at("first").view()).lines == {"tea": 1}


@on_the_street
async def test_a_click_sent_twice_counts_once() -> None:
    async with browser() as client:
        await sign_up(client)
        for _ in range(2):
            await add(client, "tea", "one-click")
        assert await count(client) == 1
        for _ in range(2):
            await client.post("/cart/check-out", data={"request_id": "one-order"})
        assert (await client.get("/cart")).text.count("1 × Harbour tea") == 1


@on_the_street
async def test_orders_are_listed_by_status_and_page_by_page() -> None:
    async with browser() as ada, browser() as bob:
        await sign_up(ada)
        await sign_up(bob, email="bob@example.org")
        for number in range(1, 13):
            await ada.post("/cart/change", data={"sku": "tea", "qty": str(number)})
            await ada.post("/cart/check-out", data={"request_id": f"order-{number}"})
        found = [row async for row in Order.where(status=Status.OPEN).order_by("placed_at")]
        await found[0].reference.ship()
        first = await ada.get("/orders")
        assert ordered(first) == list(range(12, 2, -1))
        older = re.search(r'href="(/orders\?after=[^"]+)"', first.text)
        assert older
        assert ordered(await ada.get(older[1])) == [2, 1]
        assert ordered(await ada.get("/orders?status=shipped")) == [1]
        first = await ada.get("/orders?status=open")
        more = re.search(r'href="(/orders\?status=open&amp;after=[^"]+)"', first.text)
        assert more
        assert ordered(await ada.get(more[1].replace("&amp;", "&"))) == [2]
        assert ordered(await bob.get("/orders")) == []
        assert (await ada.get("/orders?after=nonsense")).status_code == 422
    async with browser() as guest:
        assert (await guest.get("/orders")).headers["location"] == "/login?next=/orders"


def ordered(page: httpx.Response) -> list[int]:
    assert page.status_code == 200
    return [int(qty) for qty in re.findall("([0-9]+) × Harbour tea", page.text)]


@async_test
async def test_an_order_is_shipped_in_time() -> None:
    clock = VirtualClock()
    async with running(Order, clock=clock):
        await Order.at("1").place("ada", {"tea": 1}, 640)
        await clock.advance(SHIPPED_AFTER.total_seconds() - 1)
        assert len(await Order.where(status=Status.OPEN)) == 1
        await clock.advance(1)
        assert [row.key for row in await Order.where(status=Status.SHIPPED)] == ["1"]


@async_test
async def test_what_is_scarce_is_held_for_ten_minutes_and_then_given_back() -> None:
    clock = VirtualClock()
    async with running(Cart, Stock, Order, clock=clock):
        ada, bob, shelf = Cart.at("ada"), Cart.at("bob"), Stock.at("plant")
        await ada.put("plant", 3)
        assert await shelf.left() == 0
        with pytest.raises(SoldOut):
            await bob.add("plant")
        assert (await bob.view()).lines == {}
        await clock.advance(HELD_FOR.total_seconds() - 1)
        assert (await ada.view()).lines == {"plant": 3}
        await clock.advance(1)
        assert await ada.view() == CartView()
        await bob.add("plant")
        assert (await bob.view()).held["plant"].qty == 1
        assert await shelf.left() == 2


@async_test
async def test_what_is_bought_does_not_come_back() -> None:
    clock = VirtualClock()
    async with running(Cart, Stock, Order, clock=clock):
        await Cart.at("ada").put("plant", 2)
        await Cart.at("ada").put("plant", 1)
        assert await Stock.at("plant").left() == 2
        await Cart.at("ada").check_out()
        await Cart.at("bob").add("plant")
        await Cart.at("bob").put("plant", 0)
        await clock.advance(HELD_FOR.total_seconds())
        assert await Stock.at("plant").left() == 2


@async_test
async def test_an_order_of_what_is_held_no_more_leaves_nothing_behind() -> None:
    async with running(Cart, Stock, Order):
        cart = Cart.at("ada")
        await cart.put("tea", 1)
        await cart.put("plant", 1)
        await Stock.at("plant").hold("ada", 0)  # as if the timer had rung, before the cart hears
        with pytest.raises(SoldOut):
            await cart.check_out()
        assert (await cart.view()).lines == {"tea": 1, "plant": 1}
        assert len(await Order.where(customer="ada")) == 0


@async_test
async def test_news_of_an_old_hold_does_not_take_a_new_one_away() -> None:
    async with running(Cart, Stock, Order):
        cart = Cart.at("ada")
        await cart.put("plant", 1)
        old = (await cart.view()).held["plant"]
        await cart.put("plant", 2)
        await cart.lose("plant", old)
        assert (await cart.view()).lines == {"plant": 2}


@async_test
async def test_what_a_guest_holds_is_held_for_the_user_once() -> None:
    clock = VirtualClock()
    async with running(Cart, Stock, Order, clock=clock):
        await Cart.at("guest").add("plant")
        await Cart.at("user").add("plant")
        lines = await Cart.at("guest").give_to("user")
        await Stock.at("plant").hand_over("guest", "user")  # and dies before `absorb` commits
        await merge("guest", "user")
        await Cart.at("user").absorb("guest", lines)
        assert (await Cart.at("user").view()).lines == {"plant": 2}
        assert await Stock.at("plant").left() == 1
        await clock.advance(HELD_FOR.total_seconds())
        assert (await Cart.at("user").view()).lines == {}
        assert await Stock.at("plant").left() == 3


@on_the_street
async def test_the_shop_says_what_is_left_and_for_whom_it_is_held() -> None:
    async with browser() as ada, browser() as bob:
        assert "3 left" in (await bob.get("/")).text
        await ada.post("/cart/change", data={"sku": "plant", "qty": "3"})
        assert "Held for you until" in (await ada.get("/cart")).text
        assert "None left" in (await bob.get("/")).text
        refused = await add(bob, "plant")
        assert refused.status_code == 409
        assert "Somebody was faster" in refused.text
        assert await count(bob) == 0


async def give_to(client: httpx.AsyncClient, **fields: str) -> httpx.Response:
    return await client.post("/gifts", data={"email": "bob@example.org"} | fields)


async def balance(client: httpx.AsyncClient) -> str:
    found = re.search(r'balance <b class="price">([0-9.]+)', (await client.get("/gifts")).text)
    assert found
    return found[1]


@on_the_street
async def test_a_gift_moves_once_and_wholly() -> None:
    async with browser() as ada, browser() as bob:
        await sign_up(ada)
        await sign_up(bob, email="bob@example.org")
        for _ in range(2):
            answer = await give_to(ada, amount="2,5", request_id="one-gift")
            assert answer.status_code == 303
        assert (await balance(ada), await balance(bob)) == ("7.50", "12.50")
        for fields in (
            {"amount": "7.51"},
            {"amount": "0"},
            {"amount": "-1"},
            {"amount": "1.005"},
            {"amount": "1", "email": "nobody@example.org"},
            {"amount": "1", "email": ADA["email"]},
        ):
            assert (await give_to(ada, **fields)).status_code == 422, fields
        assert (await balance(ada), await balance(bob)) == ("7.50", "12.50")
    async with browser() as guest:
        answer = await give_to(guest, amount="1")
        assert answer.headers["location"] == "/login?next=/gifts"


@on_the_street
async def test_two_who_give_to_each_other_at_once_both_do() -> None:
    async with browser() as ada, browser() as bob:
        await sign_up(ada)
        await sign_up(bob, email="bob@example.org")
        answers = await asyncio.gather(
            *(give_to(ada, amount="0.50") for _ in range(10)),
            *(give_to(bob, amount="0.30", email=ADA["email"]) for _ in range(10)),
        )
        assert {answer.status_code for answer in answers} == {303}
        assert (await balance(ada), await balance(bob)) == ("8.00", "12.00")


@on_the_street
async def test_only_the_owner_reaches_a_cart_over_http() -> None:
    async with browser() as ada, browser() as guest:
        await sign_up(ada)
        await add(ada, "tea")
        plaza = await Plaza.at("main").tick(1.0, [])
        assert plaza == {}
        rows = await app.store.scan("cart", "", 10)
        assert len(rows) == 1
        path = f"/cart/{rows[0].key}/view"
        assert (await ada.get(path)).json()["lines"] == {"tea": 1}
        assert (await guest.get(path)).status_code == 401
        await add(guest, "mug")
        assert (await guest.get(path)).status_code == 403
        own = f"/cart/{guest_key(guest.cookies['guest'])}/view"
        assert (await guest.get(own)).json()["lines"] == {"mug": 1}
        assert (await ada.get(own)).status_code == 403
        await sign_up(guest, email="eve@example.org")
        assert (await guest.get(path)).status_code == 403


@on_the_street
async def test_next_leads_nowhere_else() -> None:
    await app_has_ada()
    async with browser() as client:
        for place in ("//evil.test", "https://evil.test", "/\\evil.test", "/logout"):
            assert (await log_in(client, next=place)).headers["location"] == "/"
        assert (await log_in(client, next="/plaza")).headers["location"] == "/plaza"


@on_the_street
async def test_scripts_come_from_the_shop_alone() -> None:
    async with browser() as client:
        for path in ("/", "/cart", "/login", "/signup", "/memory", "/nothing"):
            page = await client.get(path)
            policy = page.headers["content-security-policy"]
            assert "script-src 'self';" in policy
            assert "unsafe" not in policy
            assert not re.search(r"<script(?![^>]* src=)| on\w+=| style=|https?://", page.text)


@on_the_street
async def test_nobody_can_kill_the_server_unless_it_is_a_demo() -> None:
    async with browser() as client:
        await sign_up(client)
        assert (await client.post("/memory/kill")).status_code == 403
        assert "expires_at_s" not in (await client.get("/memory")).text


@on_the_street
async def test_people_walk_at_one_speed_and_stay_on_the_map() -> None:
    plaza, ada = Plaza.at("main"), User("a", "Ada", "#d9482b")
    start = (await plaza.tick(0.0, [Visitor(ada)]))["a"]
    moved = (await plaza.tick(0.1, [Visitor(ada, Wish(dx=9.0))]))["a"]
    assert (round(moved.x - start.x, 1), moved.y) == (26.0, start.y)
    for tick in range(100):
        player = (await plaza.tick(0.3 + tick * 0.2, [Visitor(ada, Wish(dx=1.0, dy=1.0))]))["a"]
    assert (player.x, player.y) == (1560.0, 960.0)
    there = (await plaza.tick(20.2, [Visitor(ada, Wish(to=(1550.0, 960.0)))]))["a"]
    assert (there.x, there.y) == (1550.0, 960.0)
    assert await plaza.tick(60.0, []) == {}  # away, but not forgotten
    back = (await plaza.tick(60.1, [Visitor(ada)]))["a"]
    assert (back.x, back.y) == (1550.0, 960.0)
