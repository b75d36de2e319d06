"""The key of a cluster: where it may stand, and what is no key."""

import os
from pathlib import Path

import pytest

from perdure.cli import failures
from perdure.cli.cluster_key import CHARACTERS_MIN, VARIABLE, is_read_by_others, read_key
from perdure.cli.failures import Failure

KEY = "k" * CHARACTERS_MIN


def test_a_file_is_read_without_its_line_end(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    assert read_key(file) == KEY.encode()


def test_without_a_file_the_environment_has_it_and_forgets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    assert read_key(None) == KEY.encode()
    assert VARIABLE not in os.environ
    assert read_key(None) == b""


def test_a_file_goes_before_the_environment_which_forgets_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "e" * CHARACTERS_MIN)
    file = tmp_path / "key"
    file.write_text(KEY)
    assert read_key(file) == KEY.encode()
    assert VARIABLE not in os.environ


@pytest.mark.parametrize("text", ["", "\n", KEY[1:], f"  {KEY[1:]}  "])
def test_a_short_key_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    file = tmp_path / "key"
    file.write_text(text)
    with pytest.raises(Failure, match="at least 32 are needed") as raised:
        read_key(file)
    assert str(file) in str(raised.value)
    assert "kkk" not in raised.value.text()
    assert "openssl rand" in raised.value.text()


def test_a_short_key_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY[1:])
    with pytest.raises(Failure, match=f"the key in {VARIABLE} has 31 characters"):
        read_key(None)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"cannot read .*nothing: No such file") as raised:
        read_key(tmp_path / "nothing")
    assert raised.value.exit_code == failures.NO_INPUT
    (tmp_path / "binary").write_bytes(b"\xff" * 64)
    with pytest.raises(Failure, match="is no text"):
        read_key(tmp_path / "binary")


@pytest.mark.parametrize(
    ("mode", "is_open"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)]
)
def test_whether_others_can_read_it(tmp_path: Path, mode: int, is_open: bool) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    file.chmod(mode)
    assert is_read_by_others(file) == is_open
