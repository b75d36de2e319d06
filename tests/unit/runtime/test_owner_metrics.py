"""What an owner among others, and a web process before it, tell of themselves."""

from tests.unit.runtime.several import several

from perdure.base.shards import SHARDS
from perdure.runtime.cluster_node import ClusterNode
from perdure.runtime.gateway import Gateway
from perdure.testing import async_test


def _values(node: ClusterNode | Gateway) -> dict[str, float]:
    return {one.name: one.samples[0][1] for one in node.families() if one.samples}


@async_test
async def test_owners_tell_their_shards_leases_and_calls():
    async with several(2) as cluster:
        web = await cluster.open_gateway()
        for number in range(2):
            [key] = cluster.keys(number)
            await web.Account.at(key).put(1)
        told = [_values(node) for node in cluster.nodes]
        assert sum(one["perdure_shards_owned"] for one in told) == SHARDS
        assert all(0 < one["perdure_lease_left_seconds"] <= 1.0 for one in told)
        assert all(one["perdure_turns"] == 1 for one in told)
        assert all(one["perdure_links"] >= 1 for one in told)
        assert all(one["perdure_ownership_lost"] == 0 for one in told)
        at_web = _values(cluster.gateways[0])
        assert at_web["perdure_forwarded_calls"] == 2
        assert at_web["perdure_forwarded_calls_waiting"] == 0
        assert at_web["perdure_links"] == 2
