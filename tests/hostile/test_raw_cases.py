"""The raw cases, against our server; `scripts/hostile_table` sets them beside other servers."""

import asyncio
from collections.abc import Iterator

import pytest
from tests.hostile.app import app
from tests.hostile.cases import GET, HOST, Case
from tests.hostile.table import CASES, document
from tests.hostile.talk import Outcome, outcomes
from tests.unit.web.serving import Running, running

# llhttp reads `GET / RTSP/1.0` as HTTP/1.0 and does not say so. Nothing can be smuggled with it.
KNOWN_WRONG = {"Version: RTSP"}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(app) as server:
        yield server


def test_our_server_does_with_every_case_what_the_rfc_demands(server: Running) -> None:
    found = asyncio.run(outcomes(server.port, CASES))
    wrong = {outcome.case.id: str(outcome) for outcome in found if not outcome.is_right}
    assert wrong.keys() == KNOWN_WRONG, wrong


def test_where_the_rfc_leaves_it_open_no_more_is_answered_than_was_asked(server: Running) -> None:
    open_cases = [case for case in CASES if case.verdict == "either"]
    found = asyncio.run(outcomes(server.port, open_cases))
    assert [outcome.case.id for outcome in found if len(outcome.statuses) > 1] == []


def test_there_are_enough_cases_and_each_has_a_name_of_its_own() -> None:
    assert len(CASES) > 300
    assert len({case.id for case in CASES}) == len(CASES)
    assert all(case.section.startswith(("9110-", "9112-", "9113-")) for case in CASES)


@pytest.mark.parametrize(
    ("verdict", "statuses", "closed", "is_right"),
    [
        ("refuse", (400,), True, True),
        ("refuse", (), True, True),
        ("refuse", (), False, False),
        ("refuse", (200, 400), True, False),
        ("refuse", (200,), True, False),
        ("accept", (200,), True, True),
        ("accept", (200,), False, False),
        ("accept", (200, 200), True, False),
        ("accept", (400,), True, False),
        ("accept", (), True, False),
    ],
)
def test_the_judge_tells_right_from_wrong(
    verdict: str, statuses: tuple[int, ...], closed: bool, is_right: bool
) -> None:
    case = Case("g", "9112-3", "n", b"", verdict, 1 if verdict == "accept" else 0)  # type: ignore[arg-type]
    assert Outcome(case, statuses, closed).is_right is is_right


def test_an_answer_that_cannot_be_read_is_not_right() -> None:
    case = Case("g", "9112-3", "n", GET + HOST, "accept", 1)
    assert not Outcome(case, (200,), True, False).is_right


def test_the_table_counts_what_each_server_gets_right() -> None:
    right = [Outcome(case, (200,) * case.answers, True) for case in CASES]
    text = document({"Us": right}, {"us": "1"})
    accepted = sum(case.verdict == "accept" for case in CASES)
    refused = sum(case.verdict == "refuse" for case in CASES)
    told = sum(case.verdict == "refuse" and case.answers == 0 for case in CASES)
    assert f"{accepted} of {accepted}" in text
    assert f"{refused} of {refused}" in text
    assert told > 150
