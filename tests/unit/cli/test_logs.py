"""Logs: one line an event, with its fields, for people and for machines."""

import json
import logging
from collections.abc import Iterator
from datetime import datetime

import pytest

from perdure.base.trail import Trail, current_trail
from perdure.cli.logs import set_up_logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    names = ("perdure", "perdure.server", "perdure.supervisor")
    root, levels = logging.getLogger(), {name: logging.getLogger(name).level for name in names}
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def lines_of(capsys: pytest.CaptureFixture[str], log_format: str, level: str = "info") -> list[str]:
    set_up_logs(level, log_format)
    log = logging.getLogger("perdure.test")
    log.info("cart %s", "opened", extra={"key": 'a "b"\nc', "count": 3, "where": object})
    log.debug("hidden")
    logging.getLogger("somebody.else").info("hidden")
    logging.getLogger("somebody.else").warning("shown")
    return capsys.readouterr().err.splitlines()


def test_text_is_one_line_an_event_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = lines_of(capsys, "text")
    time, rest = first.split(" ", 1)
    assert datetime.fromisoformat(time).tzinfo is not None
    assert rest.startswith("info perdure.test cart opened key=")
    assert '"a \\"b\\"\\nc"' in rest
    assert " count=3 " in rest
    assert second.endswith("warning somebody.else shown")


def test_json_is_one_object_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = map(json.loads, lines_of(capsys, "json"))
    assert datetime.fromisoformat(first.pop("time")).tzinfo is not None
    assert first.pop("where").startswith("<class")
    assert first == {
        "level": "info",
        "logger": "perdure.test",
        "event": "cart opened",
        "key": 'a "b"\nc',
        "count": 3,
    }
    assert second["event"] == "shown"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_exception_is_part_of_its_event(
    capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    set_up_logs("warning", log_format)
    try:
        raise ValueError("the reason")
    except ValueError:
        logging.getLogger("perdure.test").exception("failed")
    output = capsys.readouterr().err
    assert "Traceback" in output
    assert "ValueError: the reason" in output
    if log_format == "json":
        assert json.loads(output)["traceback"].startswith("Traceback")


def test_a_level_hides_what_is_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(lines_of(capsys, "text", "debug")) == 3
    assert len(lines_of(capsys, "text", "error")) == 1  # of somebody else: warnings are shown
    set_up_logs("warning", "text")
    logging.getLogger("perdure.server").info("stopping")
    logging.getLogger("perdure.commit").info("hidden")
    assert "stopping" in capsys.readouterr().err


def test_a_line_says_which_request_it_belongs_to(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("info", "json")
    token = current_trail.set(Trail("r-7"))
    try:
        logging.getLogger("perdure.test").info("asked")
        logging.getLogger("perdure.test").info("told", extra={"request_id": "r-8"})
    finally:
        current_trail.reset(token)
    logging.getLogger("perdure.test").info("alone")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line.get("request_id") for line in lines] == ["r-7", "r-8", None]
