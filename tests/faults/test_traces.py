"""Traces of real processes: one trace from the web to the commit, and collectors that are away."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.faults.collector import Collector, Span
from tests.faults.database import Database
from tests.faults.supervised import Supervised, free_port, until

pytestmark = pytest.mark.faults

APP = """
from perdure import Actor, App, expose, transaction


class Stock(Actor):
    count: int = 0

    async def take(self) -> int:
        self.count += 1
        return self.count


class Cart(Actor):
    count: int = 0

    @expose
    async def add(self, stock: str = "") -> int:
        self.count += 1
        if stock:
            await Stock.at(stock).take()
        return self.count

    @expose
    async def tell_stock(self, stock: str) -> None:
        await Stock.at(stock).tell.take()


app = App(Cart, Stock)


@app.post("/both")
async def both() -> None:
    async with transaction():
        await Cart.at("a").add()
        await Stock.at("b").take()
"""
STOP_S = 15.0  # of an idle server, with what it may wait for a collector; the SDK alone waits 30


def parent(number: int, flags: str = "01") -> tuple[str, dict[str, str]]:
    """A trace that comes in, and the headers that say so."""
    trace = f"{number:032x}"
    return trace, {"traceparent": f"00-{trace}-00000000000000aa-{flags}"}


def by_name(spans: list[Span], name: str, kind: str) -> Span:
    [found] = [one for one in spans if (one.name, one.kind) == (name, kind)]
    return found


def supervised(folder: Path, environment: Mapping[str, str], *options: str) -> Supervised:
    return Supervised(folder, APP, environment, options)


def _cross(run: Supervised, collector: Collector) -> list[Span]:
    """The spans of a call whose cart and stock have different owners."""
    for number in range(1, 50):
        trace, headers = parent(number)
        assert run.ask("POST", "/cart/anna/add", {"stock": f"s{number}"}, headers)[0] == 200
        until(lambda trace=trace: _is_whole(collector.of(trace)), f"the spans of {trace}")
        spans = collector.of(trace)
        if len({one.process for one in spans}) == 3:
            return spans
    raise AssertionError("all stocks are where the cart is")


def test_one_trace_goes_through_web_wire_turn_and_commit(
    tmp_path: Path, database: Database
) -> None:
    with Collector() as collector:
        options = ("--store", database.url, "--web", "1", "--state", "2")
        with supervised(tmp_path, collector.environment, *options) as run:
            run.wait_ready()
            spans = _cross(run, collector)
            run.process.terminate()
            assert run.wait() == 0
        request = by_name(spans, "POST /cart/{key}/add", "SERVER")
        out, came = (by_name(spans, "Cart/add", kind) for kind in ("CLIENT", "SERVER"))
        further, there = (by_name(spans, "Stock/take", kind) for kind in ("CLIENT", "SERVER"))
        assert request.parent == "00000000000000aa"
        for outer, inner in ((request, out), (out, came), (came, further), (further, there)):
            assert inner.parent == outer.id
        assert (request.process, out.process) == ("web-1", "web-1")
        assert {came.process, there.process} == {"state-1", "state-2"}
        for turn in (came, there):
            below = {one.name: one for one in spans if one.parent == turn.id}
            assert below["commit"].links == [below["group commit"].id]
            assert below["group commit"].process == turn.process
        assert {one.resource["service.name"] for one in spans} == {"counter"}
        assert len({one.resource["service.instance.id"] for one in spans}) == 3
        assert "anna" not in str(spans)


def _is_whole(spans: list[Span]) -> bool:
    """Whether all have come: of two processes eight, of three one more, since the call leaves."""
    own = "INTERNAL" in [one.kind for one in spans if one.name == "Stock/take"]
    return len([one for one in spans if one.name != "mailbox"]) == (8 if own else 9)


def test_a_transaction_of_a_web_process_has_its_calls_below_it(
    tmp_path: Path, database: Database
) -> None:
    with Collector() as collector:
        options = ("--store", database.url, "--web", "1", "--state", "1")
        with supervised(tmp_path, collector.environment, *options) as run:
            run.wait_ready()
            trace, headers = parent(9)
            assert run.ask("POST", "/both", {}, headers)[0] == 200
            until(lambda: len(collector.of(trace)) == 5, "the spans")
        spans = collector.of(trace)
        whole = by_name(spans, "transaction", "INTERNAL")
        assert whole.parent == by_name(spans, "POST /both", "SERVER").id
        below = [one for one in spans if one.parent == whole.id]
        assert [(one.name, one.process) for one in below] == [
            ("Cart/add", "state-1"),
            ("Stock/take", "state-1"),
            ("commit", "web-1"),
        ]


def test_what_asks_for_a_rate_is_in_the_trace_of_its_request(
    tmp_path: Path, database: Database
) -> None:
    app = APP.replace("App(Cart, Stock)", "App(Cart, Stock, rate=Rate(100, per_s=60))")
    app = app.replace("transaction\n", "transaction, Rate\n", 1)
    with Collector() as collector:
        options = ("--store", database.url, "--web", "1", "--state", "1")
        with Supervised(tmp_path, app, collector.environment, options) as run:
            run.wait_ready()
            trace, headers = parent(11)
            assert run.ask("POST", "/cart/a/add", {}, headers)[0] == 200
            until(lambda: "group commit" in [one.name for one in collector.of(trace)], "the turn")
            until(
                lambda: "POST /cart/{key}/add" in [one.name for one in collector.of(trace)], "all"
            )
            run.process.terminate()
            assert run.wait() == 0
        spans = collector.of(trace)
        request = by_name(spans, "POST /cart/{key}/add", "SERVER")
        asked = by_name(spans, "RateBucket/take", "CLIENT")
        assert asked.parent == by_name(spans, "Cart/add", "CLIENT").parent == request.id
        assert by_name(spans, "RateBucket/take", "SERVER").parent == asked.id


def test_a_message_to_an_actor_elsewhere_goes_on_with_its_trace(
    tmp_path: Path, database: Database
) -> None:
    with Collector() as collector:
        options = ("--store", database.url, "--web", "1", "--state", "2")
        with supervised(tmp_path, collector.environment, *options) as run:
            run.wait_ready()

            def sent(number: int) -> tuple[Span, Span]:
                trace, headers = parent(number)
                body = {"stock": f"s{number}"}
                assert run.ask("POST", "/cart/anna/tell_stock", body, headers)[0] == 200
                wanted = {"send Stock/take", "process Stock/take"}
                until(lambda: wanted <= {one.name for one in collector.of(trace)}, "both ends")
                spans = collector.of(trace)
                return (
                    by_name(spans, "send Stock/take", "PRODUCER"),
                    by_name(spans, "process Stock/take", "CONSUMER"),
                )

            pairs = [sent(number) for number in range(1, 11)]
        assert all(came.parent == out.id for out, came in pairs)
        assert all(came.links == [out.id] for out, came in pairs)
        assert len({came.process for _, came in pairs}) == 2  # of one owner, and of the other


def test_a_balancer_hands_the_trace_on_as_it_came(tmp_path: Path) -> None:
    with Collector() as collector:
        with supervised(tmp_path, collector.environment) as run:
            run.wait_ready()
            balancer = tmp_path / "balancer"
            balancer.mkdir()
            port = free_port()
            with Balancer(balancer, port, f"127.0.0.1:{run.port}") as front:
                until(front.is_ready, f"the balancer; its log:\n{front.log()}")
                trace, headers = parent(7)
                headers["tracestate"] = "vendor=1"
                assert front.ask("POST", "/cart/a/add", {}, headers)[0] == 200
                until(lambda: len(collector.of(trace)) == 4, "the spans")
        request = by_name(collector.of(trace), "POST /cart/{key}/add", "SERVER")
        assert request.parent == "00000000000000aa"


class Balancer(Supervised):
    """`perdure balance` in front of one server."""

    def __init__(self, folder: Path, port: int, backend: str) -> None:
        self.folder, self.host, self.port = folder, "127.0.0.1", port
        self._log = folder / "log.txt"
        command = [sys.executable, "-c", "from perdure.cli import main; main()", "balance"]
        command += ["--listen", f"127.0.0.1:{port}", backend]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        self._servers = set()


@pytest.mark.parametrize("arguments", [("parentbased_traceidratio", "0"), ("always_off", "")])
def test_the_sampler_is_what_the_environment_says(
    tmp_path: Path, arguments: tuple[str, str]
) -> None:
    sampler, argument = arguments
    with Collector() as collector:
        sampling = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}
        with supervised(tmp_path, collector.environment | sampling) as run:
            run.wait_ready()
            assert run.ask("POST", "/cart/a/add", {})[0] == 200
            if sampler.startswith("parentbased"):
                trace, headers = parent(3)
                assert run.ask("POST", "/cart/a/add", {}, headers)[0] == 200
                until(lambda: len(collector.of(trace)) == 4, "the spans of one who is sampled")
            run.process.terminate()
            assert run.wait() == 0
        assert {one.trace for one in collector.spans()} <= {f"{3:032x}"}


def test_the_last_spans_leave_with_the_process(tmp_path: Path) -> None:
    with Collector() as collector:
        late = {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}
        with supervised(tmp_path, collector.environment | late) as run:
            run.wait_ready()
            assert run.ask("POST", "/cart/a/add", {})[0] == 200
            assert not collector.spans()
            run.process.terminate()
            assert run.wait() == 0
        assert "POST /cart/{key}/add" in [one.name for one in collector.spans()]


@pytest.mark.parametrize("what", ["hangs", "is away"])
def test_a_collector_that_does_not_answer_holds_up_neither_calls_nor_the_stop(
    tmp_path: Path, what: str
) -> None:
    with Collector(hangs=True) as collector:
        environment = collector.environment
        if what == "is away":
            environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{free_port()}"
        environment |= {"OTEL_BSP_MAX_QUEUE_SIZE": "64", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "32"}
        with supervised(tmp_path, environment) as run:
            run.wait_ready()
            slowest_s = 0.0
            for _ in range(200):  # many times what the queue holds
                began_s = time.monotonic()
                assert run.ask("POST", "/cart/a/add", {})[0] == 200
                slowest_s = max(slowest_s, time.monotonic() - began_s)
            assert slowest_s < 8.0  # an export takes ten seconds to fail
            began_s = time.monotonic()
            run.process.terminate()
            assert run.wait() == 0
            assert time.monotonic() - began_s < STOP_S
            assert run.log().count("Queue full") <= 3  # not one for each span


def test_kill_9_loses_spans_and_nothing_else(tmp_path: Path) -> None:
    with Collector() as collector:
        late = {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}
        with supervised(tmp_path, collector.environment | late) as run:
            first = run.wait_ready()
            assert run.ask("POST", "/cart/a/add", {}) == (200, 1)
            os.kill(first, signal.SIGKILL)
            run.server(other_than=first)
            until(run.is_ready, "an answer of the next process")
            assert run.ask("POST", "/cart/a/add", {}) == (200, 2)
        assert not collector.spans()


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"OTEL_TRACES_EXPORTER": "pigeon"}, "no exporter 'pigeon' is installed; there are:"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4318"}, "use http://HOST:PORT"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"},
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'smoke'; use one of: http/protobuf, grpc",
        ),
    ],
)
def test_a_wrong_setting_is_told_in_one_line_and_the_server_serves(
    tmp_path: Path, environment: dict[str, str], told: str
) -> None:
    with supervised(tmp_path, environment) as run:
        run.wait_ready()
        assert run.ask("POST", "/cart/a/add", {}) == (200, 1)
        [line] = [one for one in run.log().splitlines() if "no traces" in one]
        assert told in line


def test_without_the_extra_it_says_which_to_install(tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("raise ImportError('not here')")
    with supervised(tmp_path, {"OTEL_TRACES_EXPORTER": "console"}) as run:
        run.wait_ready()
        assert run.ask("POST", "/cart/a/add", {}) == (200, 1)
        [line] = [one for one in run.log().splitlines() if "no traces" in one]
        assert 'pip install \\"perdure[otel]\\"' in line


@pytest.mark.parametrize(
    "environment",
    [{}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_SDK_DISABLED": "true"}],
)
def test_without_being_asked_nothing_is_imported(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    app = APP + (
        "\nimport sys\n"
        "@app.get('/loaded')\n"
        "async def loaded() -> list[str]:\n"
        "    return [name for name in sys.modules if 'opentelemetry' in name]\n"
    )
    if environment:
        environment = {**environment, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    with Supervised(tmp_path, app, environment) as run:
        run.wait_ready()
        assert run.ask("GET", "/loaded") == (200, [])
