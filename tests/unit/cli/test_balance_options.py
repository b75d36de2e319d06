"""`perdure balance`: which options go together, and what it explains."""

from pathlib import Path

import pytest

from perdure.cli.failures import NO_INPUT, USAGE

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
        ["--tls-cert", "cert.pem", A],
        ["--tls-cert", "no.pem", "--tls-key", "no.key", A],
        ["--health", "ready", A],
        ["--trust", "10.0.0.1/8", A],
        ["--mode", "tcp", "--trust", "10.0.0.0/8", A],
        ["https://10.0.0.1:8000"],
        ["--log-level", "loud", A],
        ["--log-format", "xml", A],
        ["explain"],
    ],
)
def test_what_does_not_go_together_is_refused(arguments: list[str]) -> None:
    ended = perdure("balance", *arguments)
    assert ended.exit_code == USAGE, ended.output
    assert ended.errors


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        (["--engine", "haproxy"], ["--via", "edge"]),
        (["--engine", "haproxy"], ["--access-log"]),
        (["--engine", "haproxy"], ["--admin", "127.0.0.1:9"]),
        (["--engine", "haproxy"], ["--grace", "1"]),
        (["--engine", "haproxy"], ["--tls-cert", "a", "--tls-key", "b"]),
        (["--engine", "haproxy"], ["--send-proxy"]),
        (["--engine", "haproxy"], ["--no-supervisor"]),
        (["--engine", "haproxy", "--mode", "tcp"], ["--by-owner", "cart"]),
        (["--engine", "haproxy", "--mode", "tcp"], ["--via", "edge"]),
        (["--mode", "tcp"], ["--via", "edge"]),
        (["--mode", "tcp"], ["--access-log"]),
        (["--mode", "tcp"], ["--by-owner", "cart"]),
        (["--mode", "tcp"], ["--tls-cert", "a", "--tls-key", "b"]),
    ],
)
def test_an_option_without_an_effect_is_refused_by_its_name(
    mode: list[str], options: list[str]
) -> None:
    ended = perdure("balance", *mode, *options, A)
    assert ended.exit_code == USAGE, ended.output
    assert f"{options[0]} has no effect with" in ended.errors
    assert len(ended.errors.splitlines()) == 2  # the line and its hint


def test_a_file_without_a_backend_in_it_is_refused_to_begin_with(tmp_path: Path) -> None:
    path = tmp_path / "backends"
    for text in (None, "", "nonsense"):
        if text is not None:
            path.write_text(text)
        ended = perdure("balance", "--file", str(path))
        assert ended.exit_code == NO_INPUT
        assert str(path) in ended.errors


def test_tls_to_backends_is_said_not_to_be_there() -> None:
    assert "without TLS" in perdure("balance", "https://10.0.0.1:443").errors


def test_it_explains_with_the_options_it_would_run_with(tmp_path: Path) -> None:
    path = tmp_path / "backends"
    path.write_text(f"{A}\n{B} draining\n")
    ended = perdure("balance", "explain", "/cart/alice/view", "--file", str(path))
    assert ended.exit_code == 0, ended.output
    assert f"→ one of: {A}" in ended.output
    assert f"left out: {B}" in ended.output
    ended = perdure("balance", "explain", "/cart/alice", "--policy", "hash", "--hash", "path:2", A)
    assert f"→ {A}" in ended.output
