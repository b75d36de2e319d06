"""`/-/metrics`: who may ask, and what an app tells of itself."""

import asyncio
from contextlib import suppress

import httpx
import pytest

from perdure import Actor, App, expose, transaction
from perdure.testing import async_test
from perdure.web.app import Teller
from perdure.web.asgi_exchange import answer_asgi
from perdure.web.process_families import LoopLag

parser = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is missing")


class Gong(Actor):
    hits: int = 0

    @expose
    async def hit(self) -> int:
        self.hits += 1
        return self.hits

    @expose
    async def crack(self) -> None:
        raise RuntimeError("not told")


def _client(app: App, client: str = "127.0.0.1", host: str = "localhost:8000") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, client=(client, 5))
    return httpx.AsyncClient(transport=transport, base_url=f"http://{host}")


async def _samples(http: httpx.AsyncClient) -> dict[tuple[str, ...], float]:
    """By name and the values of the labels."""
    reply = await http.get("/-/metrics")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in parser.text_string_to_metric_families(reply.text)
        for sample in family.samples
    }


@async_test
async def test_calls_in_transactions_are_turns():
    app = App(Gong, store="memory:")
    async with app, _client(app) as http:
        for undone in (False, True):
            with suppress(RuntimeError):
                async with transaction():
                    await Gong.at("a").hit()
                    await Gong.at("b").hit()
                    if undone:
                        await Gong.at("a").crack()
        told = await _samples(http)
    assert told["perdure_turns_total", "Gong", "hit"] == 4  # they began, whatever became of them
    assert told["perdure_turns_failed_total", "Gong", "crack"] == 1
    assert told["perdure_turn_duration_seconds_count", "Gong", "hit"] == 4


@async_test
async def test_calls_turns_and_commits_are_told_and_never_a_key():
    app = App(Gong, store="memory:")
    async with app, _client(app) as http:
        for key in ("very-secret", "another"):
            assert (await http.post(f"/gong/{key}/hit")).status_code == 200
        assert (await http.post("/gong/very-secret/crack")).status_code == 500
        told = await _samples(http)
        text = (await http.get("/-/metrics")).text
    assert told["perdure_turns_total", "Gong", "hit"] == 2
    assert told["perdure_turns_failed_total", "Gong", "crack"] == 1
    assert told["perdure_http_call_duration_seconds_count", "Gong", "hit", "2xx"] == 2
    assert told["perdure_http_call_duration_seconds_count", "Gong", "crack", "5xx"] == 1
    assert told["perdure_commit_turns_sum",] == 2
    assert told["perdure_awake_actors", "Gong"] == 2
    assert told["perdure_loads_total",] == 2
    assert told["perdure_ready",] == 1
    assert told["process_cpu_seconds_total",] > 0
    assert "secret" not in text
    assert "not told" not in text


@async_test
async def test_open_metrics_are_told_to_who_asks_for_them():
    open_metrics = pytest.importorskip("prometheus_client.openmetrics.parser")
    app = App(Gong, store="memory:")
    async with app, _client(app) as http:
        await http.post("/gong/a/hit")
        accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
        reply = await http.get("/-/metrics", headers={"accept": accept})
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    read = {one.name for one in open_metrics.text_string_to_metric_families(reply.text)}
    assert {"perdure_turns", "perdure_commit_duration_seconds", "process_cpu_seconds"} <= read


@pytest.mark.parametrize(
    ("client", "host", "headers", "status"),
    [
        ("127.0.0.1", "127.0.0.1:8000", {}, 200),
        ("::1", "[::1]:8000", {}, 200),
        ("127.0.0.1", "localhost", {}, 200),
        ("10.0.0.9", "localhost", {}, 404),
        ("127.0.0.1", "shop.example", {}, 404),
        ("127.0.0.1", "localhost", {"X-Forwarded-For": "127.0.0.1"}, 404),
        ("127.0.0.1", "localhost", {"Forwarded": "for=127.0.0.1"}, 404),
        ("127.0.0.1", "localhost", {"Via": "1.1 proxy"}, 404),
    ],
)
@async_test
async def test_by_default_only_this_machine_may_ask_and_not_through_a_proxy(
    client, host, headers, status
):
    app = App(Gong, store="memory:")
    async with app, _client(app, client, host) as http:
        assert (await http.get("/-/metrics", headers=headers)).status_code == status


@async_test
async def test_public_metrics_are_for_all_and_those_that_are_off_for_nobody():
    app = App(Gong, store="memory:")
    async with app, _client(app, "10.0.0.9", "shop.example") as http:
        app.metrics.audience = "public"
        assert (await http.get("/-/metrics")).status_code == 200
        app.metrics.audience = "off"
        assert (await http.get("/-/metrics")).status_code == 404
    async with app, _client(app) as http:
        assert (await http.get("/-/metrics")).status_code == 404


@async_test
async def test_an_address_of_its_own_tells_of_an_app_that_starts_or_stops():
    app = App(Gong, store="memory:")
    teller = Teller(app)

    async def tell(scope, receive, send):
        path = scope["raw_path"]
        route = teller.match(b"GET", path)
        await answer_asgi(teller, route, path, scope, receive, send, app.limits)

    transport = httpx.ASGITransport(tell, client=("10.0.0.9", 5))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.example") as http:

        async def states() -> tuple[int, int, float]:
            live, ready = await http.get("/-/live"), await http.get("/-/ready")
            return live.status_code, ready.status_code, (await _samples(http))["perdure_ready",]

        assert await states() == (200, 503, 0)
        async with app:
            assert await states() == (200, 200, 1)
            app.ready = False  # as the server does first when it is told to stop
            assert await states() == (200, 503, 0)
        assert await states() == (200, 503, 0)


@async_test
async def test_an_event_loop_that_was_blocked_shows():
    lag = LoopLag(lambda: None)
    lag.start()
    loop = asyncio.get_running_loop()
    blocked_until_s = loop.time() + 0.4
    while loop.time() < blocked_until_s:
        pass
    while not (histogram := lag.families()[0].samples[0][1]).count:
        await asyncio.sleep(0)
    lag.stop()
    assert histogram.sum > 0.1
