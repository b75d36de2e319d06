"""Spans of requests over HTTP, on real sockets; and an App below another server."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode
from tests.unit.spans import Seen, seeing

from perdure import Actor, App, expose, live, read
from perdure.base.trail import trail_from_outside
from perdure.testing import async_test
from perdure.web.server import Server
from perdure.web.traced_edge import TracedEdge

TRACE, SPAN = "ab" * 16, "cd" * 8
PARENT = f"00-{TRACE}-{SPAN}-01"


class Cart(Actor):
    lines: dict[str, int] = {}

    @expose
    async def add(self, sku: str) -> dict[str, int]:
        self.lines[sku] = 1
        return self.lines

    @expose
    async def fail(self) -> None:
        raise RuntimeError("secret")

    @expose
    @read
    @live
    async def view(self) -> int:
        return len(self.lines)


@asynccontextmanager
async def serving(app: App, **edge: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The app on Perdure's own server, as `perdure run` has it where traces are made."""
    bound = socket.create_server(("127.0.0.1", 0))
    port = bound.getsockname()[1]
    async with app:
        looks = TracedEdge(template_of=app.template, **edge)
        server = Server(app, app.site, app.limits, edge=looks, drain_grace_s=0)
        await server.start([bound])
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            yield client
        await server.close()


@async_test
async def test_a_request_is_a_server_span_with_its_turn_below_it():
    app = App(Cart, store="memory:")
    with seeing() as seen:
        async with serving(app) as http:
            await http.post("/cart/anna/add?secret=1", json={"sku": "tea"})
        request = seen.named("POST /cart/{key}/add")
        assert request.kind is SpanKind.SERVER
        assert request.parent is None
        assert request.attributes == {
            "http.request.method": "POST",
            "http.route": "/cart/{key}/add",
            "http.response.status_code": 200,
            "network.protocol.version": "1.1",
            "url.scheme": "http",
        }
        turn = seen.named("Cart/add")
        assert seen.below(request) == [turn]
        assert request.start_time <= turn.start_time <= turn.end_time <= request.end_time
        told = str([span.to_json() for span in seen.all()])
        assert not [word for word in ("anna", "secret", "tea", "127.0.0.1") if word in told]


@async_test
async def test_paths_are_named_only_where_keys_are():
    app = App(Cart, store="memory:")
    with seeing(with_keys=True) as seen:
        async with serving(app) as http:
            await http.post("/cart/anna/add?secret=1", json={"sku": "tea"})
        assert seen.named("POST /cart/{key}/add").attributes["url.path"] == "/cart/anna/add"
        assert "secret" not in str([span.to_json() for span in seen.all()])


@async_test
async def test_what_goes_wrong_is_told_by_status_and_kind():
    app = App(Cart, store="memory:")
    with seeing() as seen:
        async with serving(app) as http:
            await http.post("/cart/a/fail")
            await http.post("/cart/a/no-method-of-that-name")
            await http.request("BREW", "/cart/a/add")
        failed, unknown, odd = (one for one in seen.all() if one.kind is SpanKind.SERVER)
        assert failed.status.status_code is StatusCode.ERROR
        assert failed.attributes["error.type"] == "500"
        assert failed.attributes["http.response.status_code"] == 500
        assert (unknown.name, unknown.status.status_code) == ("POST", StatusCode.UNSET)
        assert "http.route" not in unknown.attributes
        assert odd.attributes["http.request.method"] == "_OTHER"
        assert "BREW" not in str([span.to_json() for span in seen.all()])
        assert "secret" not in str([span.to_json() for span in seen.all()])


@async_test
async def test_a_traceparent_is_honoured_and_its_tracestate_passed_on():
    app = App(Cart, store="memory:")
    with seeing() as seen:
        async with serving(app) as http:
            headers = {"traceparent": PARENT, "tracestate": "a=1,b@c=2"}
            await http.post("/cart/a/add", json={"sku": "tea"}, headers=headers)
        request, turn = seen.named("POST /cart/{key}/add"), seen.named("Cart/add")
        assert (request.parent.trace_id, request.parent.span_id) == (int(TRACE, 16), int(SPAN, 16))
        assert turn.context.trace_id == int(TRACE, 16)
        assert dict(turn.context.trace_state) == {"a": "1", "b@c": "2"}


ILL_FORMED = [
    "",
    "x",
    f"00-{TRACE}-{SPAN}",
    f"00-{TRACE}-{SPAN}-1",
    f"00-{TRACE.upper()}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"ff-{TRACE}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-01-more",
    f"00-{TRACE}-{SPAN}-01\t,",
    f"{PARENT}, {PARENT}",
]


@pytest.mark.parametrize("header", ILL_FORMED)
def test_an_ill_formed_traceparent_is_no_trail(header):
    assert trail_from_outside(header) is None


@pytest.mark.parametrize("header", ILL_FORMED)
@async_test
async def test_an_ill_formed_traceparent_is_as_none(header, caplog):
    app = App(Cart, store="memory:")
    with seeing() as seen:
        async with serving(app) as http:
            headers = {"traceparent": header, "tracestate": "a=1"}
            done = await http.post("/cart/a/add", json={"sku": "tea"}, headers=headers)
        assert done.status_code == 200
        request = seen.named("POST /cart/{key}/add")
        assert request.parent is None
        assert request.context.trace_id != int(TRACE, 16)
        assert not request.context.trace_state
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


@async_test
async def test_two_traceparents_are_none():
    app = App(Cart, store="memory:")
    with seeing() as seen:
        async with serving(app) as http:
            twice = [("traceparent", PARENT), ("traceparent", PARENT)]
            await http.post("/cart/a/add", json={"sku": "tea"}, headers=twice)
        assert seen.named("POST /cart/{key}/add").parent is None


@pytest.mark.parametrize(
    "state",
    [
        "a",
        "=1",
        "a=1,,=",
        ",".join(f"{name}={'b' * 200}" for name in "abc"),
        "a=" + "b" * 600,
        "A=1",
        "a=\x7f",
        "ä=1",
    ],
)
def test_an_ill_formed_tracestate_is_dropped_and_nothing_is_said(state, caplog):
    with seeing() as seen:
        trail = trail_from_outside(PARENT, state)
        assert (trail.traceparent, trail.tracestate) == (PARENT, "")
        assert seen.tracing.begin("x", trail).get_span_context().trace_id == int(TRACE, 16)
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


def test_a_traceparent_of_a_later_version_counts_as_far_as_it_is_known():
    trail = trail_from_outside(f"cc-{TRACE}-{SPAN}-01-what-comes-later")
    assert trail is not None
    assert trail.traceparent == PARENT


@given(st.text(max_size=80), st.text(max_size=600))
def test_no_header_breaks_it(parent, state):
    trail = trail_from_outside(parent, state)
    assert trail is None or trail.traceparent[3:52] in parent
    beside = trail_from_outside(PARENT, state)
    assert beside is not None
    with seeing() as seen:
        seen.tracing.begin("x", beside).end()
        assert seen.named("x").parent.span_id == int(SPAN, 16)


@async_test
async def test_who_is_not_sampled_before_is_not_sampled_here():
    app = App(Cart, store="memory:")
    with seeing() as seen:
        async with serving(app) as http:
            headers = {"traceparent": PARENT[:-1] + "0"}
            await http.post("/cart/a/add", json={"sku": "tea"}, headers=headers)
        assert not seen.all()


@pytest.mark.parametrize("sampler", [ALWAYS_OFF, ParentBased(TraceIdRatioBased(0))])
@async_test
async def test_of_what_is_not_sampled_nothing_is_made(sampler):
    app = App(Cart, store="memory:")
    with seeing(sampler) as seen:
        async with serving(app) as http:
            assert (await http.post("/cart/a/add", json={"sku": "tea"})).status_code == 200
        assert not seen.all()


@async_test
async def test_a_sampled_share_is_the_share_that_was_asked_for():
    app = App(Cart, store="memory:")
    with seeing(ParentBased(TraceIdRatioBased(0.25))) as seen:
        async with serving(app) as http:
            for _ in range(400):
                await http.post("/cart/a/add", json={"sku": "tea"})
        requests = [one for one in seen.all() if one.kind is SpanKind.SERVER]
        assert 50 < len(requests) < 160  # six standard deviations
        bound = TraceIdRatioBased(0.25).bound
        assert all(one.context.trace_id & (2**64 - 1) < bound for one in requests)


def fast() -> FastAPI:
    inside = FastAPI()

    @inside.get("/items/{item}")
    async def item(item: str) -> dict[str, Any]:
        span = trace.get_current_span().get_span_context()
        await Cart.at("a").add("tea")
        return {"item": item, "trace": f"{span.trace_id:032x}", "span": f"{span.span_id:016x}"}

    return inside


@async_test
async def test_a_mounted_fastapi_app_is_in_the_same_trace():
    with seeing() as seen:
        inside = fast()
        inside._telemetry["tracer_provider"] = seen.provider
        async with serving(App(Cart, store="memory:", mount=inside)) as http:
            told = (await http.get("/items/7", headers={"traceparent": PARENT})).json()
        outer, inner = (one for one in seen.all() if one.name == "GET /items/{item}")
        assert outer.parent.span_id == int(SPAN, 16)
        assert outer.attributes["http.route"] == "/items/{item}"
        assert inner in seen.below(outer)  # FastAPI's own: it goes by the header
        assert told["trace"] == TRACE
        assert told["span"] == f"{seen.named('fastapi.endpoint').context.span_id:016x}"
        assert seen.named("Cart/add") in seen.below(seen.named("fastapi.endpoint"))


@async_test
async def test_a_mounted_app_that_makes_no_spans_has_that_of_its_request():
    async def plain(scope: Any, receive: Any, send: Any) -> None:
        span = trace.get_current_span().get_span_context()
        header = dict(scope["headers"])[b"traceparent"]
        assert f"{span.trace_id:032x}-{span.span_id:016x}".encode() in header
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%x" % span.span_id})

    with seeing() as seen:
        async with serving(App(Cart, store="memory:", mount=plain)) as http:
            answers = [(await http.get("/x", headers={"traceparent": PARENT})).text for _ in "ab"]
        requests = [one for one in seen.all() if one.name == "GET"]
        assert [f"{one.context.span_id:x}" for one in requests] == answers


@async_test
async def test_pipelined_requests_to_a_mounted_app_have_each_their_own_span():
    async def plain(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.01)
        span = trace.get_current_span().get_span_context()
        body = b"%016x" % span.span_id
        headers = [(b"content-length", b"16")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    with seeing() as seen:
        async with serving(App(Cart, store="memory:", mount=plain)) as http:
            reader, writer = await asyncio.open_connection("127.0.0.1", http.base_url.port)
            last = b"GET /c HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            writer.write(
                b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n" + last
            )
            said = await reader.read()
            writer.close()
        bodies = [part[:16].decode() for part in said.split(b"\r\n\r\n")[1:]]
        assert bodies == [f"{one.context.span_id:016x}" for one in seen.all()]
        assert len(set(bodies)) == 3


@async_test
async def test_questions_about_the_server_are_in_no_trace():
    with seeing() as seen:
        async with serving(App(Cart, store="memory:")) as http:
            assert (await http.get("/-/ready")).status_code == 200
            assert (await http.get("/-/metrics")).status_code == 200
        assert not seen.all()


@async_test
async def test_a_live_view_is_one_span_until_its_client_leaves():
    with seeing() as seen:
        async with serving(App(Cart, store="memory:")) as http:
            async with http.stream("GET", "/cart/a/view/live") as stream:
                await anext(stream.aiter_lines())
                assert "GET /cart/{key}/view/live" not in [one.name for one in seen.all()]
            async with asyncio.timeout(10):
                while "GET /cart/{key}/view/live" not in [one.name for one in seen.all()]:
                    await http.get("/-/live")
        request = seen.named("GET /cart/{key}/view/live")
        assert request.attributes["http.response.status_code"] == 200
        assert "error.type" not in request.attributes


@async_test
async def test_plain_functions_are_routes_of_their_own():
    app = App(Cart, store="memory:")

    @app.get("/quote/{sku}")
    async def quote(sku: str) -> str:
        await Cart.at("a").add(sku)
        return sku

    with seeing() as seen:
        async with serving(app) as http:
            assert (await http.get("/quote/tea")).json() == "tea"
        request = seen.named("GET /quote/{sku}")
        assert seen.named("Cart/add") in seen.below(request)


@async_test
async def test_the_line_of_a_request_names_its_span(caplog):
    caplog.set_level(logging.INFO, "perdure.access")
    with seeing() as seen:
        async with serving(App(Cart, store="memory:"), with_log=True) as http:
            done = await http.post("/cart/a/add", json={"sku": "tea"})
        [line] = [one for one in caplog.records if one.name == "perdure.access"]
        request = seen.named("POST /cart/{key}/add")
        assert line.trace_id == f"{request.context.trace_id:032x}"
        assert line.span_id == f"{request.context.span_id:016x}"
        assert line.request_id == done.headers["x-request-id"]


@async_test
async def test_with_traces_only_an_answer_says_nothing_of_it():
    with seeing() as seen:
        async with serving(App(Cart, store="memory:"), with_ids=False) as http:
            done = await http.post("/cart/a/add", json={"sku": "tea"})
        assert "x-request-id" not in done.headers
        assert seen.below(seen.named("POST /cart/{key}/add")) == [seen.named("Cart/add")]


@pytest.fixture
def below_another_server() -> Any:
    app = App(Cart, store="memory:")
    transport = httpx.ASGITransport(app)
    return app, httpx.AsyncClient(transport=transport, base_url="http://test")


@async_test
async def test_below_another_server_a_turn_hangs_where_that_or_the_header_says(
    below_another_server,
):
    app, client = below_another_server
    with seeing() as seen:
        async with app, client as http:
            with seen.tracer.start_as_current_span("middleware") as span:
                await http.post("/cart/a/add", json={"sku": "tea"})
            assert_below(seen, span.get_span_context().span_id)
            await http.post("/cart/a/add", json={"sku": "x"}, headers={"traceparent": PARENT})
            assert_below(seen, int(SPAN, 16))
            await http.post("/cart/a/add", json={"sku": "y"}, headers={"traceparent": "no"})
            assert_below(seen, None)


def assert_below(seen: Seen, span_id: int | None) -> None:
    parent = seen.named("Cart/add").parent
    assert (None if parent is None else parent.span_id) == span_id
    seen.clear()
