"""Members under any series of faults: at no moment has a shard two owners, and when the faults stop
every shard has the owner that it should have.

Who owns what is looked at after each hundredth of a second, and whenever a member gains shards; see
`Cluster.check`.
"""

import asyncio

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from .members import ALL, TTL_S, Cluster

MEMBERS_MAX = 4

WHO = st.integers(0, MEMBERS_MAX - 1)
FAULT = st.one_of(
    st.tuples(
        st.sampled_from(
            [
                "join",
                "join",
                "crash",
                "drain",
                "leave",
                "freeze",
                "thaw",
                "cut off",
                "reconnect",
                "lose session",
                "seen dead",
                "lose hand-over",
                "lose take-over",
                "busy",
                "idle",
                "slow",
                "quick",
            ]
        ),
        WHO,
    ),
    st.tuples(st.just("pass"), st.sampled_from([0.02, 0.3, 1.0, TTL_S + 0.5])),
)


async def strike(cluster, fault, who):
    """Let one thing happen."""
    if fault == "pass":
        return await cluster.pass_s(who)
    here = [one for one in cluster.living if one.members.state != "left"]
    if fault == "join" and len(here) < MEMBERS_MAX:
        return await cluster.begin()
    if here:
        await befall(cluster, fault, here[who % len(here)])
    return None


async def befall(cluster, fault, process):
    if fault == "crash":
        await cluster.crash(process)
    elif process.frozen and fault in ("drain", "leave", "lose session"):
        pass  # what is frozen does nothing
    elif fault in ("drain", "leave"):
        limit_s = cluster.clock.monotonic_s() + (5 if fault == "drain" else 0)
        process.starting = asyncio.create_task(process.members.drain(limit_s))
    elif fault == "freeze":
        process.freeze()
    elif fault == "thaw":
        process.thaw()
    elif fault == "lose session":
        process.lose_session()
    elif fault == "seen dead":  # all of them, and of most it is not true
        for dead in cluster.processes:
            process.members.peer_died(dead.stands_on)
    elif fault in ("busy", "idle"):
        process.busy = set(list(process.open)[::3]) if fault == "busy" else set()
    else:
        disturb(process.registry, fault)


def disturb(registry, fault):
    """Change how a process reaches the registry."""
    if fault in ("cut off", "reconnect"):
        registry.is_down = fault == "cut off"
    elif fault in ("slow", "quick"):
        registry.request_s = registry.answer_s = 0.15 if fault == "slow" else 0.0
    else:
        registry.answers_lost[fault.removeprefix("lose ").replace("-", "_")] += 1


async def heal(cluster):
    """No more faults from here on: everything comes to rest within a bounded time."""
    for process in cluster.living:
        process.registry.is_down = False
        process.registry.request_s = process.registry.answer_s = 0.0
        process.busy.clear()
        process.thaw()
    await cluster.begin()
    await cluster.settled(limit_s=6 * TTL_S)
    assert set().union(*(one.open for one in cluster.living)) == ALL


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.lists(FAULT, min_size=4, max_size=14))
def test_whatever_happens_no_shard_has_two_owners_and_each_has_one_in_the_end(faults):
    async def run():
        cluster = Cluster()
        try:
            await cluster.start(2)
            for fault, who in faults:
                await strike(cluster, fault, who)
            await heal(cluster)
        finally:
            for process in cluster.processes:
                process.thaw()
                process.starting.cancel()
                await process.members.stop()

    asyncio.run(run())
