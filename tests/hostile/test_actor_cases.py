"""The raw cases against an actor's methods, through `perdure`'s own server."""

import asyncio
from collections.abc import Iterator

import pytest
from tests.hostile.actor_cases import Counter, as_read, for_actor, make_app
from tests.hostile.table import CASES
from tests.hostile.talk import outcomes
from tests.hostile.test_raw_cases import KNOWN_WRONG
from tests.unit.web.serving import Running, running

from perdure import App


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[App, Running]]:
    app = make_app()
    with running(endpoint=app) as server:
        server.run(app.start())
        yield app, server
        server.run(app.stop())


# What came before with the same headers is not parsed again; what differs from it has to be.
KNOWN = (
    b"GET /counter/w/view HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /counter/w/add HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n{} ",
    b"POST /counter/w/add HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n{} ",
)


@pytest.mark.parametrize("before", [(), KNOWN], ids=["first", "behind known ones"])
def test_an_actor_is_reached_by_what_must_be_accepted_and_nothing_else(
    served: tuple[App, Running], before: tuple[bytes, ...]
) -> None:
    _, server = served
    cases = [for_actor(case, b"a") for case in CASES]
    found = [as_read(outcome) for outcome in asyncio.run(outcomes(server.port, cases, *before))]
    wrong = {outcome.case.id: str(outcome) for outcome in found if not outcome.is_right}
    assert wrong.keys() == KNOWN_WRONG, wrong


def test_what_must_be_refused_changes_no_actor(served: tuple[App, Running]) -> None:
    _, server = served
    refused = [
        for_actor(case, b"b") for case in CASES if case.verdict == "refuse" and not case.answers
    ]
    found = asyncio.run(outcomes(server.port, refused))
    assert len(found) > 150

    async def added() -> int:
        return await Counter.at("b").view()

    assert server.run(added()) == 0


def test_good_requests_of_the_same_form_do_change_it(served: tuple[App, Running]) -> None:
    _, server = served
    good = [
        for_actor(case, b"c")
        for case in CASES
        if case.verdict == "accept" and b"POST / " in case.raw
    ]
    found = asyncio.run(outcomes(server.port, good))
    answered = sum(outcome.statuses.count(200) for outcome in found)

    async def added() -> int:
        return await Counter.at("c").view()

    assert len(good) // 2 < server.run(added()) <= answered
