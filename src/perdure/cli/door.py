"""Under which address others reach the HTTP socket of this machine; balancers read it in the store.

`--listen` says it, unless that is a wildcard. Then it is the host of `--advertise`; and without
one, the address with which this machine reaches its database, where balancers come to look as well.
"""

import socket
from urllib.parse import urlsplit

from perdure.cli.address import is_any_address, joined, split
from perdure.cli.layout import ClusterOptions

_POSTGRESQL_PORT = 5432


def door_address(bound: socket.socket, cluster: ClusterOptions, store: str) -> str:
    """`HOST:PORT` for the listening socket; `store` is the URL of a PostgreSQL database."""
    host, port = bound.getsockname()[:2]
    if is_any_address(host):
        if cluster.advertise is not None:
            host, _ = split(cluster.advertise, "--advertise shop-1.internal:7000")
        else:
            host = _address_towards(store, bound.family)
    return joined(host, port)


def _address_towards(store: str, family: socket.AddressFamily) -> str:
    """The address of this machine on the way to the database. Nothing is sent."""
    try:
        parts = urlsplit(store)
        host, port = parts.hostname or "localhost", parts.port or _POSTGRESQL_PORT
        found = socket.getaddrinfo(host, port, family, socket.SOCK_DGRAM)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(found[0][4])
            return str(probe.getsockname()[0])
    except (OSError, ValueError):  # no such name just now, or no such URL; the store will say so
        return socket.gethostname()
