"""Problem documents."""

import json

import pytest

from perdure.base.errors import (
    BadArgumentsError,
    DomainError,
    MethodNotAllowedError,
    OverloadedError,
    PerdureError,
    UniqueError,
)
from perdure.web.problems import problem, problem_of
from perdure.web.replies import InvalidReplyError, checked_headers
from perdure.web.request_head import RefusedError, check_host, split_target


class SoldOut(DomainError):
    status = 409


def test_a_problem_has_the_members_of_rfc_9457():
    assert json.loads(problem(409, "sold-out", "Sold out", "none left", left=0)) == {
        "type": "urn:perdure:problem:sold-out",
        "title": "Sold out",
        "status": 409,
        "detail": "none left",
        "left": 0,
    }


@pytest.mark.parametrize(
    ("error", "status", "kind", "members", "extra"),
    [
        (SoldOut("none left"), 409, "sold-out", {"detail": "none left"}, b""),
        (BadArgumentsError("not an int", "qty"), 422, "bad-arguments", {"field": "qty"}, b""),
        (UniqueError("taken", "email"), 409, "not-unique", {"field": "email"}, b""),
        (BadArgumentsError("not JSON"), 422, "bad-arguments", {"detail": "not JSON"}, b""),
        (OverloadedError("full"), 503, "overloaded", {"detail": "full"}, b"retry-after: 1\r\n"),
        (
            MethodNotAllowedError("no", "GET, HEAD"),
            405,
            "method-not-allowed",
            {},
            b"allow: GET, HEAD\r\n",
        ),
        (PerdureError(), 500, "internal", {}, b""),
    ],
)
def test_an_error_of_ours_says_its_kind(error, status, kind, members, extra):
    answered, body, lines = problem_of(error)
    document = json.loads(body)
    assert (answered, document["status"], lines) == (status, status, extra)
    assert document["type"] == f"urn:perdure:problem:{kind}"
    assert members.items() <= document.items()
    assert ("field" in document) == ("field" in members)


def test_any_other_error_says_nothing():
    status, body, extra = problem_of(ValueError("the password is x"))
    assert (status, extra) == (500, b"")
    assert json.loads(body).keys() == {"type", "title", "status"}


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\r\nb", b"\xc3\xa4", b"a\x00"])
def test_a_header_name_that_is_not_a_token_is_refused(name):
    with pytest.raises(InvalidReplyError):
        checked_headers([(name, b"x")])


@pytest.mark.parametrize("value", [b"a\r", b"\na", b"a\r\nb: c", b"\x00"])
def test_a_header_value_with_a_line_end_is_refused_and_not_shown(value):
    with pytest.raises(InvalidReplyError) as refused:
        checked_headers([(b"set-cookie", value)])
    assert value.decode() not in str(refused.value)


@pytest.mark.parametrize(
    ("method", "target", "parts"),
    [
        (b"GET", b"/a?b?c", (b"/a", b"b?c")),
        (b"GET", b"/?", (b"/", b"")),
        (b"GET", b"http://a?b", (b"/", b"b")),
        (b"OPTIONS", b"*", (b"*", b"")),
    ],
)
def test_a_target_is_split_into_path_and_query(method, target, parts):
    assert split_target(method, target, b"a") == parts


@pytest.mark.parametrize(
    "host", [b"a", b"A-b.example:80", b"127.0.0.1", b"[::1]:8000", b"a_b", b"a:"]
)
def test_hosts_of_all_forms_are_accepted(host):
    assert check_host(host, "1.1") is None


@pytest.mark.parametrize(
    "host", [None, b"", b"a b", b"a, b", b"a/", b"a@b", b"[::1", b"a:b", b"\xff"]
)
def test_hosts_of_no_form_are_refused(host):
    with pytest.raises(RefusedError):
        check_host(host, "1.1")
