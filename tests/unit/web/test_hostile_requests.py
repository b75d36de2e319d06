"""The table of hostile requests, against a real server; see hostile_requests.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.web.hostile_requests import CASES, LIMITS, Case, markdown
from tests.unit.web.serving import GOOD, Running, length_app, read_all, responses_of, running

from perdure.base.limits import Limits

SHORT = [case for case in CASES if len(case.raw) < 2000]  # to be sent byte by byte
DOCUMENT = Path(__file__).parents[3] / "docs" / "hostile-requests.md"


async def _app(scope, receive, send):
    if scope["type"] == "http":
        await length_app(scope, receive, send)
    else:
        await receive()
        kind = "websocket.close" if scope["path"] == "/refuse" else "websocket.accept"
        await send({"type": kind})


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(_app, Limits(**LIMITS)) as server:
        yield server


def _answer(server: Running, case: Case) -> tuple[int, ...]:
    raw = case.raw + GOOD if case.stays_open else case.raw
    responses = responses_of(server.talk(raw), to_head=case.to_head)
    return tuple(response.status for response in responses)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.group}: {case.name}")
def test_the_answer_is_the_one_in_the_table(server: Running, case: Case) -> None:
    assert _answer(server, case) == case.statuses + (200,) * case.stays_open
    assert [r.status for r in responses_of(server.talk(GOOD))] == [200]


@pytest.mark.parametrize("case", SHORT, ids=lambda case: f"{case.group}: {case.name}")
def test_the_answer_does_not_depend_on_how_the_bytes_arrive(server: Running, case: Case) -> None:
    raw = case.raw + GOOD if case.stays_open else case.raw
    with server.connect() as client:
        for i in range(len(raw)):
            try:
                client.sendall(raw[i : i + 1])
            except (BrokenPipeError, ConnectionResetError):
                break  # the server has closed, as it may behind the last answer
        data = read_all(client)
    statuses = tuple(response.status for response in responses_of(data, to_head=case.to_head))
    assert statuses == case.statuses + (200,) * case.stays_open


def test_there_are_more_than_a_hundred_cases() -> None:
    assert len(CASES) >= 100
    assert len({(case.group, case.name) for case in CASES}) == len(CASES)


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text() == markdown(), "run scripts/hostile_table"
