"""Errors that go over the wire keep their class, and say no more than they would without it."""

import json
import sys

import msgspec
import pytest

from perdure import DomainError, NotFoundError, OverloadedError, PerdureError, UniqueError
from perdure.base import errors
from perdure.cluster.frames import Failed
from perdure.runtime.remote_errors import error_from, failed
from perdure.web.problems import problem_of


class SoldOutError(DomainError):
    status = 409
    kind = "sold-out"


class Outer:
    class InnerError(DomainError):
        kind = "inner"


class StrictError(DomainError):
    kind = "strict"

    def __init__(self, sku: str, *, count: int) -> None:
        super().__init__(f"{sku}: {count}")


class OwnError(ValueError):
    """No DomainError: nobody outside is told what it says."""


class BusyError(OverloadedError):
    """Of the application, with the kind of one of ours."""


def over_the_wire(error):
    frame = msgspec.msgpack.decode(msgspec.msgpack.encode(failed(1, error)), type=Failed)
    return error_from(frame)


@pytest.mark.parametrize(
    "error",
    [
        SoldOutError("no tea"),
        Outer.InnerError("x"),
        StrictError("tea", count=2),
        BusyError("later"),
        NotFoundError("nothing"),
        ValueError("wrong"),
        KeyError("tea"),
        ZeroDivisionError("division by zero"),
        OwnError("mine"),
        json.JSONDecodeError("bad", "{", 0),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_other_side_gets_the_same_class_and_text(error):
    got = over_the_wire(error)
    assert type(got) is type(error)
    assert str(got) == str(error)
    if isinstance(error, PerdureError):
        assert (got.kind, got.status) == (error.kind, error.status)
    again = over_the_wire(got)  # it may be raised on by the one who called
    assert (type(again), str(again)) == (type(error), str(error))


@pytest.mark.parametrize(
    "kind",
    [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Exception)],
)
def test_every_error_of_ours_crosses(kind):
    if kind is DomainError:
        return
    got = over_the_wire(kind.__new__(kind, "what it says"))
    assert type(got) is kind
    assert (str(got), got.kind, got.status) == ("what it says", kind.kind, kind.status)


def test_the_field_of_an_error_goes_with_it():
    assert over_the_wire(UniqueError("taken", "email")).field == "email"


def test_a_domain_error_whose_class_is_not_known_here_keeps_kind_and_status():
    frame = failed(1, SoldOutError("no tea"))
    frame.path = "another.app.SoldOut"
    got = error_from(frame)
    assert type(got) is DomainError
    assert (got.kind, got.status, str(got)) == ("sold-out", 409, "no tea")


@pytest.mark.parametrize(
    "path",
    [
        "another.app.Unknown",
        "builtins.print",
        "builtins.SystemExit",
        "builtins",
        "os.system",
        "",
        "x..y",
        "perdure.base.errors.nothing",
    ],
)
def test_what_names_no_known_exception_is_told_to_nobody_outside(path):
    frame = Failed(1, PerdureError.kind, 500, "secret", path)
    got = error_from(frame)
    if path:
        assert type(got) is RuntimeError
        assert b"secret" not in problem_of(got)[1]
    else:
        assert type(got) is PerdureError


def test_no_module_is_imported_for_the_sake_of_a_frame():
    assert "this" not in sys.modules
    error_from(Failed(1, PerdureError.kind, 500, "x", "this.Error"))
    assert "this" not in sys.modules


def test_an_exception_of_the_application_is_told_to_nobody_outside():
    assert b"mine" not in problem_of(over_the_wire(OwnError("mine")))[1]


def test_an_error_that_wants_more_than_a_message_becomes_a_plain_one():
    got = over_the_wire(ExceptionGroup("two", [ValueError("a"), ValueError("b")]))
    assert type(got) is RuntimeError
    assert "two" in str(got)


def test_a_message_without_end_fits_into_a_frame():
    assert len(str(over_the_wire(SoldOutError("x" * 10_000_000)))) <= 4096


def test_an_error_that_cannot_say_what_it_is_crosses_all_the_same():
    class Mute(DomainError):
        def __str__(self) -> str:
            raise ZeroDivisionError

    assert isinstance(error_from(failed(1, Mute())), DomainError)
