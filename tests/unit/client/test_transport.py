"""How calls are sent again: what may be, how often, and what callers hear in the end."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from perdure import (
    Actor,
    Client,
    DeadlineError,
    InterruptedCallError,
    OverloadedError,
    PerdureError,
    RequestRunningError,
    UnansweredError,
    UnreachableError,
    expose,
    read,
)
from perdure.base.keys import key_of_path_segment, normalize_key
from perdure.client.transport import ServerCall, Transport, seconds_of
from perdure.testing import async_test

Answer = httpx.Response | Exception


class Till(Actor):
    total: int = 0

    @expose
    async def add(self, cents: int) -> int:
        self.total += cents
        return self.total

    @expose
    @read
    async def view(self) -> int:
        return self.total


class Script:
    """A server that gives these answers, one after the other, and the last for good."""

    def __init__(self, *answers: Answer | Callable[[], Answer]) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
        answer = answer() if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def keys(self) -> list[str | None]:
        return [request.headers.get("idempotency-key") for request in self.requests]

    def client(self, **options: Any) -> Client:
        http = httpx.AsyncClient(transport=httpx.MockTransport(self))
        return Client("http://shop", http=http, **{"attempts_max": 3, **options})


def problem(status: int, kind: str, **headers: str) -> httpx.Response:
    document = {"type": f"urn:perdure:problem:{kind}", "title": "a title", "status": status}
    return httpx.Response(status, json=document, headers=headers)


def ok() -> httpx.Response:
    return httpx.Response(200, json=7)


LOST = httpx.ReadError("cut")
NO_CONNECTION = httpx.ConnectError("refused")


@async_test
async def test_a_call_without_an_answer_is_sent_again_under_its_key() -> None:
    for trouble in (LOST, NO_CONNECTION, problem(503, "stopping"), problem(504, "deadline")):
        script = Script(trouble, httpx.Response(502), ok)
        assert await script.client().at(Till, "a").add(5) == 7
        assert len(script.requests) == 3
        assert len(set(script.keys)) == 1
        assert script.keys[0] is not None
        assert {request.content for request in script.requests} == {b'{"cents":5}'}


@async_test
async def test_each_call_has_a_key_of_its_own_and_reads_have_none() -> None:
    script = Script(ok)
    client = script.client(token="secret", headers={"X-A": "b"})
    for _ in range(2):
        await client.at(Till, "a").add(5)
    assert len(set(script.keys)) == 2
    await client.at(Till, "a").view()
    assert script.keys[2] is None
    await client.at(Till, "a", request_id="order-17").add(5)
    assert script.keys[3] == "order-17"
    sent = script.requests[0].headers
    assert (sent["authorization"], sent["x-a"]) == ("Bearer secret", "b")
    assert "secret" not in repr(client)


@async_test
async def test_a_read_is_sent_again() -> None:
    script = Script(LOST, ok)
    assert await script.client().at(Till, "a").view() == 7
    assert len(script.requests) == 2


@async_test
async def test_what_will_not_pass_is_not_sent_again() -> None:
    for answer, error in (
        (problem(409, "sold-out"), PerdureError),
        (problem(429, "slow-down"), PerdureError),
        (problem(500, "internal"), PerdureError),
        (problem(504, "interrupted"), InterruptedCallError),  # half of it is done
        (httpx.Response(301, headers={"location": "http://elsewhere"}), PerdureError),
        (httpx.Response(418, json={"type": "a", "status": 200}), PerdureError),
    ):
        script = Script(answer)
        with pytest.raises(error) as failure:
            await script.client().at(Till, "a").add(5)
        assert failure.value.status == {301: 500}.get(answer.status_code, answer.status_code)
        assert len(script.requests) == 1


@async_test
async def test_what_passes_is_waited_for_as_long_as_it_says() -> None:
    for answer in (
        problem(409, "request-running", **{"retry-after": "0.2"}),
        problem(429, "rate-limited", **{"retry-after": "0.2"}),
        problem(503, "overloaded", **{"retry-after": "0.2"}),
    ):
        script, begun_s = Script(answer, ok), time.monotonic()
        assert await script.client().at(Till, "a").add(5) == 7
        assert time.monotonic() - begun_s >= 0.2


@async_test
async def test_attempts_are_counted_and_the_last_trouble_is_told() -> None:
    for answer, error in (
        (NO_CONNECTION, UnreachableError),
        (LOST, UnansweredError),
        (problem(503, "overloaded"), OverloadedError),
        (problem(409, "request-running"), RequestRunningError),
    ):
        script = Script(answer)
        with pytest.raises(error) as failure:
            await script.client(attempts_max=2).at(Till, "a").add(5)
        assert len(script.requests) == 2
        assert failure.value.problem is not None
        assert failure.value.problem["status"] == failure.value.status


@async_test
async def test_who_once_got_no_answer_is_not_told_that_nothing_was_done() -> None:
    for last in (NO_CONNECTION, problem(503, "overloaded")):
        with pytest.raises(UnansweredError):
            await Script(LOST, last).client(attempts_max=2).at(Till, "a").add(5)
        with pytest.raises((UnreachableError, OverloadedError)):
            await Script(LOST, last).client(attempts_max=2).at(Till, "a").view()


@async_test
async def test_one_deadline_holds_for_all_attempts() -> None:
    script, begun_s = Script(NO_CONNECTION), time.monotonic()
    with pytest.raises(UnreachableError):
        await script.client(timeout_s=0.5, attempts_max=1000).at(Till, "a").add(5)
    assert 0 < time.monotonic() - begun_s < 3
    assert 1 < len(script.requests) < 20


@async_test
async def test_a_server_that_never_answers_is_given_up_at_the_deadline() -> None:
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass
        writer.close()
        await writer.wait_closed()
        gone.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Client(f"http://127.0.0.1:{port}", timeout_s=0.3) as client:
        with pytest.raises(DeadlineError, match=r"no answer within 0\.3 s"):
            await client.at(Till, "a").add(5)
    await gone.wait()
    server.close()


def _refused(problem: dict[str, Any]) -> Exception:
    return LookupError(problem["type"].rpartition(":")[2])


def _transport(script: Script) -> Transport:
    return Transport(
        "http://shop",
        token=None,
        headers=None,
        timeout_s=5,
        attempts_max=3,
        http=httpx.AsyncClient(transport=httpx.MockTransport(script)),
    )


async def _sent(script: Script, method: str) -> str:
    """What came of a call of a plain function."""
    try:
        body = await _transport(script).call(
            ServerCall(method=method, path="/order", query={}), _refused
        )
    except LookupError as error:
        return str(error)
    return body.decode()


@async_test
async def test_what_a_function_may_have_done_is_not_sent_a_second_time() -> None:
    for method in ("POST", "PATCH"):
        for trouble, told in ((LOST, "unanswered"), (problem(503, "stopping"), "stopping")):
            script = Script(trouble, ok)
            assert await _sent(script, method) == told
            assert len(script.requests) == 1
        script = Script(NO_CONNECTION, ok)
        assert await _sent(script, method) == "7"


@async_test
async def test_what_http_lets_be_repeated_is_sent_again() -> None:
    for method in ("GET", "PUT", "DELETE"):
        script = Script(LOST, problem(503, "stopping"), ok)
        assert await _sent(script, method) == "7"


@given(st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=60))
def test_every_key_arrives_as_it_was(key: str) -> None:
    assume(key not in {".", ".."})
    script = Script(ok)
    asyncio.run(script.client().at(Till, key).view())
    _, route, segment, method = script.requests[0].url.raw_path.split(b"/")
    assert (route, method) == (b"till", b"view")
    assert key_of_path_segment(segment) == normalize_key(key)


def _stream(*events: str) -> httpx.Response:
    return httpx.Response(200, text="retry: 1\n\n" + "".join(f"{one}\n\n" for one in events))


@async_test
async def test_a_view_goes_on_where_it_was_and_an_event_that_was_cut_does_not_count() -> None:
    first = _stream('id: a\nevent: snapshot\ndata: {"n":1,"m":"\u2028"}', ":")
    cut = _stream('id: b\nevent: patch\ndata: {"n":2}').text + 'id: c\nevent: patch\ndata: {"n"'
    last = _stream('id: d\nevent: patch\ndata: {"n":3,"m":null}')
    script = Script(first, httpx.Response(200, text=cut), httpx.Response(503), LOST, last)
    transport = _transport(script)
    seen = []
    async for value in transport.values("/a/live", {"n": 1}, lambda value: value, _refused):
        seen.append(value)
        if len(seen) == 3:
            break
    assert seen == [{"n": 1, "m": "\u2028"}, {"n": 2, "m": "\u2028"}, {"n": 3}]
    held = [request.headers.get("last-event-id") for request in script.requests]
    assert held == [None, "a", "b", "b", "b"]
    assert {str(request.url) for request in script.requests} == {"http://shop/a/live?n=1"}


@async_test
async def test_a_password_in_the_address_is_not_told() -> None:
    http = httpx.AsyncClient(transport=httpx.MockTransport(Script(NO_CONNECTION)))
    client = Client("http://me:secret@shop:81/a", http=http, attempts_max=1)
    with pytest.raises(UnreachableError, match=r"^http://shop:81 cannot be reached"):
        await client.at(Till, "a").view()


def test_retry_after_is_a_number_or_a_date() -> None:
    assert seconds_of("3") == 3
    assert seconds_of("Thu, 01 Jan 1970 00:00:00 GMT") == 0
    assert 3e9 < (seconds_of("Fri, 01 Jan 2150 00:00:00 GMT") or 0) < 5e9
    assert seconds_of("soon") is None
    assert seconds_of("") is None


def test_an_answer_without_a_problem_is_still_told() -> None:
    async def body() -> None:
        with pytest.raises(PerdureError, match="Not Found") as failure:
            await Script(httpx.Response(404, text="<html>")).client().at(Till, "a").add(5)
        assert (failure.value.status, failure.value.kind) == (404, "about:blank")
        assert json.dumps(failure.value.problem)

    asyncio.run(body())
