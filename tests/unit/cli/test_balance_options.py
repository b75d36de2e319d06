"""`perdure balance`: which options go together, and what it explains."""

from pathlib import Path

import pytest

from perdure.cli.failures import USAGE

from .invoking import perdure

A, B = "10.0.0.1:8000", "10.0.0.2:8000"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--file", "x", A],
        ["--dns", "nothing"],
        ["--store", "sqlite:data"],
        ["--by-owner", "cart", A],
        ["--by-owner", "cart", "--engine", "haproxy", A],
        ["--engine", "nginx", A],
        ["--mode", "udp", A],
        ["--mode", "tcp", "--policy", "hash", "--hash", "path:1", A],
        ["--send-proxy", A],
        ["--mode", "tcp", "--accept-proxy", A],
        ["--accept-proxy", "--trust", "10.0.0.0/8", A],
        ["explain"],
    ],
)
def test_what_does_not_go_together_is_refused(arguments: list[str]) -> None:
    ended = perdure("balance", *arguments)
    assert ended.exit_code == USAGE, ended.output
    assert ended.errors


def test_it_explains_with_the_options_it_would_run_with(tmp_path: Path) -> None:
    path = tmp_path / "backends"
    path.write_text(f"{A}\n{B} draining\n")
    ended = perdure("balance", "explain", "/cart/alice/view", "--file", str(path))
    assert ended.exit_code == 0, ended.output
    assert f"→ one of: {A}" in ended.output
    assert f"left out: {B}" in ended.output
    ended = perdure("balance", "explain", "/cart/alice", "--policy", "hash", "--hash", "path:2", A)
    assert f"→ {A}" in ended.output
