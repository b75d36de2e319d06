"""Which address of the HTTP socket others are told."""

import socket

import pytest

from perdure.cli.door import door_address
from perdure.cli.layout import ClusterOptions

STORE = "postgresql://user@127.0.0.1/shop"


def told(host: str, cluster: ClusterOptions, store: str = STORE) -> str:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as bound:
        bound.bind((host, 0))
        address = door_address(bound, cluster, store)
        assert address.endswith(f":{bound.getsockname()[1]}")
        return address.rpartition(":")[0]


def test_an_address_that_others_can_reach_is_told_as_it_is() -> None:
    cluster = ClusterOptions(listen="0.0.0.0:7000", advertise="shop-1.internal:7000")
    assert told("127.0.0.1", cluster) == "127.0.0.1"
    assert told("::1", cluster) == "[::1]"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_for_a_wildcard_it_is_the_host_that_is_advertised(host: str) -> None:
    cluster = ClusterOptions(listen="0.0.0.0:7000", advertise="shop-1.internal:7000")
    assert told(host, cluster) == "shop-1.internal"


def test_without_one_it_is_the_address_on_the_way_to_the_database() -> None:
    assert told("0.0.0.0", ClusterOptions()) == "127.0.0.1"
    assert told("::", ClusterOptions(), "postgresql://[::1]:5432/shop") == "[::1]"


def test_where_there_is_no_such_way_it_is_the_name_of_the_machine() -> None:
    for store in ("postgresql://[::1]/shop", "postgresql://no.such.name.invalid/shop"):
        assert told("0.0.0.0", ClusterOptions(), store) == socket.gethostname()
