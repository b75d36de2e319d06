"""The header lines that belong to a problem."""

from perdure import MethodNotAllowedError, NotFoundError, OverloadedError
from perdure.web.problems import problem_of


def test_a_refused_method_names_those_that_are_allowed() -> None:
    status, _, lines = problem_of(MethodNotAllowedError("Cart.view", "GET, HEAD, POST"))
    assert (status, lines) == (405, b"allow: GET, HEAD, POST\r\n")


def test_a_problem_that_passes_says_when_to_come_back() -> None:
    assert problem_of(OverloadedError("full"))[2] == b"retry-after: 1\r\n"
    assert problem_of(NotFoundError("nothing"))[2] == b""
