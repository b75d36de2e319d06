"""The peers, in the order in which they are measured and reported."""

from bench.peers.base import Peer
from bench.peers.fastapi_postgresql import FastApiPostgresql
from bench.peers.fastapi_redis import FastApiRedis
from bench.peers.nginx import Nginx
from bench.peers.perdure import Perdure, PerdureApart, PerdurePostgresql
from bench.peers.restate import Restate
from bench.peers.workerd import Workerd

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Perdure(), PerdureApart(), PerdurePostgresql(), FastApiRedis(), FastApiPostgresql(),
        Workerd(), Restate(), Nginx(),
    )
}  # fmt: skip
