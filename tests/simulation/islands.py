"""The fault `island`: a node and a gateway see each other, and nobody else.

It is where a read could be stale: the others take the node's actors and write, while the gateway,
which has not heard of it, goes on asking the node. So this fault asks for more than others do: just
then somebody reads on the island and somebody writes outside of it, again and again.

What lets the others take the actors is that the lease is over. So before some islands the answers
of the database come late, as late as a lease lasts nearly. On other islands the others find nobody
at the node's address: then the database's session with it is all that speaks for its life.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

_LATE_MAX = 0.8  # of a lease


async def island(cluster: "Cluster") -> None:
    """Cut a node and a gateway off, for about a lease."""
    world, draw = cluster.world, cluster.random
    database, network = world.database, world.network
    node, gateway = cluster.node(), draw.choice(cluster.gateways)
    others = [one for one in cluster.machines.values() if one not in (node, gateway)]
    pairs = [(one.host, other.host) for one in (node, gateway) for other in others]
    is_late, is_refusing = draw.random() < 0.5, draw.random() < 0.4
    if is_late:
        world.trace.fault("late answers of the database", node.host)
        database.late_s[node.host] = draw.uniform(0.1, _LATE_MAX) * cluster.ttl_s
        await cluster.pause(1.5 * cluster.ttl_s)
    world.trace.fault("island", f"{node.host} {gateway.host}")
    for one, other in pairs:
        if is_refusing:
            network.refuse(one, other)
        else:
            network.cut(one, other)
            network.cut(other, one)
    database.cut(gateway.host)
    if not is_refusing or draw.random() < 0.5:
        database.cut(node.host)
    seconds = cluster.ttl_s * draw.uniform(0.8, 3.0)
    inside = gateway.door
    outside = [one.door for one in cluster.gateways if one is not gateway and one.door]
    if inside is not None and outside:
        for probe in world.probes:
            world.clients.spawn(probe(lambda: [inside], lambda: outside, seconds))
    await cluster.pause(seconds)
    database.late_s.pop(node.host, None)
    for one, other in pairs:
        network.admit(one, other)
        network.mend(one, other)
        network.mend(other, one)
    for host in (node.host, gateway.host):
        database.mend(host)
