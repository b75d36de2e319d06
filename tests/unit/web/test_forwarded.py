"""Who a request comes from, as functions."""

import pytest

from perdure.web.forwarded import Origin, origin_of

PEER = Origin(("10.0.0.1", 40000), "http")


def found(**lines: str) -> tuple[str, int, str]:
    headers = {name.replace("_", "-").encode(): line.encode() for name, line in lines.items()}
    origin = origin_of(PEER, headers.get, lambda host: host.startswith("10."))
    return (*origin.client, origin.scheme)


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("1.2.3.4", ("1.2.3.4", 0)),
        ("1.2.3.4:567", ("1.2.3.4", 567)),
        ("2001:db8::1", ("2001:db8::1", 0)),
        ("[2001:db8::1]:80", ("2001:db8::1", 80)),
        ("6.6.6.6, 1.2.3.4", ("1.2.3.4", 0)),
        ("6.6.6.6, 1.2.3.4, 10.0.0.9", ("1.2.3.4", 0)),
        ("10.0.0.8, 10.0.0.9", ("10.0.0.8", 0)),
        ("1.2.3.4, rubbish, 10.0.0.9", ("10.0.0.9", 0)),
        ("1.2.3.4, unknown", PEER.client),
        ("", PEER.client),
        ("1.2.3.4,", PEER.client),
        ("1.2.3.4:99999999", ("1.2.3.4", 0)),
        ("6.6.6.6," + ",".join(["10.0.0.9"] * 40), ("10.0.0.9", 0)),
    ],
)
def test_the_nearest_hop_that_is_not_trusted_is_the_client(
    value: str, client: tuple[str, int]
) -> None:
    assert found(x_forwarded_for=value)[:2] == client


@pytest.mark.parametrize(
    ("value", "scheme"),
    [
        ("https", "https"),
        ("HTTPS", "https"),
        ("http, https", "https"),
        ("ftp", "http"),
        ("", "http"),
    ],
)
def test_the_scheme_is_what_the_proxy_says(value: str, scheme: str) -> None:
    assert found(x_forwarded_for="1.2.3.4", x_forwarded_proto=value)[2] == scheme
    assert found(x_forwarded_proto=value)[2] == scheme


@pytest.mark.parametrize(
    ("value", "origin"),
    [
        ("for=1.2.3.4", ("1.2.3.4", 0, "http")),
        ("for=1.2.3.4;proto=https;by=10.0.0.1", ("1.2.3.4", 0, "https")),
        ('For="[2001:db8::1]:80"; Proto=https', ("2001:db8::1", 80, "https")),
        ("for=6.6.6.6, for=1.2.3.4;proto=https, for=10.0.0.9", ("1.2.3.4", 0, "https")),
        ('for=1.2.3.4, host="a,b;c=d"', (*PEER.client, "http")),
        ("for=_hidden", (*PEER.client, "http")),
        ("for=unknown", (*PEER.client, "http")),
        ('for="1.2.3.4', (*PEER.client, "http")),
        ("rubbish", (*PEER.client, "http")),
    ],
)
def test_forwarded_is_read_as_its_rfc_says(value: str, origin: tuple[str, int, str]) -> None:
    assert found(forwarded=value) == origin


def test_two_fields_that_disagree_are_both_disbelieved() -> None:
    assert found(forwarded="for=6.6.6.6", x_forwarded_for="1.2.3.4")[:2] == PEER.client
    assert found(forwarded="for=1.2.3.4", x_forwarded_for="1.2.3.4")[0] == "1.2.3.4"


def test_without_any_field_it_is_the_peer() -> None:
    assert found() == (*PEER.client, "http")
