"""Listening addresses: what they may look like, and what is said of those that cannot be had."""

import socket

import pytest

from perdure.cli.address import bind, is_loopback, url_of
from perdure.cli.failures import Failure


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize(
    ("listen", "host"),
    [
        ("127.0.0.1:0", "127.0.0.1"),
        ("localhost:0", None),
        (":0", "127.0.0.1"),
        ("0.0.0.0:0", "0.0.0.0"),
        pytest.param("[::1]:0", "::1", marks=needs_ipv6),
        pytest.param("::1:0", "::1", marks=needs_ipv6),
        pytest.param("[::]:0", "::", marks=needs_ipv6),
    ],
)
def test_an_address_is_bound(listen: str, host: str | None) -> None:
    with bind(listen) as bound:
        assert host in {None, bound.getsockname()[0]}
        assert is_loopback(bound) == (host not in {"0.0.0.0", "::"})
        port = bound.getsockname()[1]
        assert url_of(bound).startswith("http://")
        assert url_of(bound).endswith(f":{port}")
        family = bound.family
        target = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        with socket.create_connection((target, port), timeout=10):
            pass


@needs_ipv6
def test_the_url_of_an_ipv6_address_is_bracketed() -> None:
    with bind("[::1]:0") as bound:
        assert url_of(bound) == f"http://[::1]:{bound.getsockname()[1]}"


@pytest.mark.parametrize(
    "listen",
    ["", "8000", "localhost", "localhost:", "a:b", "127.0.0.1:65536", "h:-1", "h:²", "h:٣"],
)
def test_what_is_no_address_is_told(listen: str) -> None:
    with pytest.raises(Failure, match="is not HOST:PORT") as caught:
        bind(listen)
    assert caught.value.exit_code == 2
    assert "--listen 127.0.0.1:8000" in caught.value.text()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 300, "a..b"])
def test_what_is_no_host_is_told(host: str) -> None:
    with pytest.raises(Failure, match="is not an address of this machine"):
        bind(f"{host}:0").close()


def test_an_address_of_another_machine_is_told() -> None:
    with pytest.raises(Failure, match=r"cannot listen on 192\.0\.2\.1 port 0: ") as caught:
        bind("192.0.2.1:0")
    assert caught.value.exit_code == 69


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("[::1]", marks=needs_ipv6)])
def test_a_port_in_use_is_told_with_another_one(host: str) -> None:
    with bind(f"{host}:0") as bound:
        port = bound.getsockname()[1]
        with pytest.raises(Failure, match=f"port {port} on .* is in use") as caught:
            bind(f"{host}:{port}")
    assert caught.value.exit_code == 69
    assert caught.value.hint is not None
    _, _, other = caught.value.hint.partition("--listen ")
    bind(other).close()  # it can be taken as it is
