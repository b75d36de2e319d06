"""Bugs on purpose in what several machines rest on; see `planted`."""

from tests.faults.planted import Planted

_FREEZES, _KILLS = "tests/faults/test_cluster_freezes.py", "tests/faults/test_cluster_kills.py"
_FRAMES, _SUSPECTS = "tests/faults/test_cluster_frames.py", "tests/faults/test_cluster_suspects.py"
_DATABASE = "tests/faults/test_cluster_database.py"
_REGISTRY = "store/postgres_registry.py"

PLANTED_IN_CLUSTER = (
    Planted(
        "commits do not ask for their fence",
        "store/postgres_batch.py",
        'made = [f"fence AS ({_NUMBERED.format(block=block) if takes_number else _STANDING})"]',
        'made = ["fence AS (SELECT $1::bigint - $2::bigint AS message_block)"]',
        f"{_FREEZES}::test_what_a_zombie_had_not_committed_stays_so",
    ),
    Planted(
        "reads do not ask for the lease",
        "actor/activation.py",
        "if lease_until_s != math.inf and self._host.now_s() >= lease_until_s:",
        "if False:",
        f"{_SUSPECTS}::test_a_read_at_an_owner_that_was_replaced_without_knowing_is_not_stale",
    ),
    Planted(
        "shards are handed over while turns are under way",
        "runtime/cluster_node.py",
        "        activations = self._catalog.within(closing)\n        while True:",
        "        activations = []\n        while True:",
        "tests/faults/test_cluster_upgrades.py"
        "::test_a_hand_over_waits_for_a_commit_that_is_on_its_way",
    ),
    Planted(
        "a call that comes again is run again",
        "runtime/reception.py",
        "        if call.is_again and not method.read and call.request_id is None:",
        "        if False:",
        f"{_KILLS}::test_owners_die_at_every_point_of_a_commit",
    ),
    Planted(
        "a member that nobody reaches is taken out, though it lives",
        "store/postgres_registry_tables.py",
        "seen_dead AND has_session AND NOT EXISTS (",
        "seen_dead OR EXISTS (",
        f"{_SUSPECTS}::test_an_owner_at_whose_address_nobody_answers_is_not_taken_for_dead",
    ),
    Planted(
        "a frame that comes twice is taken twice",
        "cluster/framing.py",
        "                self.duplicates += 1",
        "                yield _frame_of(data[body:start])",
        f"{_FRAMES}::test_frames_are_lost_doubled_swapped_and_late",
    ),
    Planted(
        "who only reads does not notice that the database was set back",
        _REGISTRY,
        "        if row[4] is not None and row[4] < confirmed:",
        "        if False:",
        f"{_DATABASE}::test_a_replica_that_lags_takes_over_and_what_is_lost_stays_lost[reads]",
    ),
    Planted(
        "reads do not wait for a database that was restarted",
        "store/postgres_reader.py",
        "else await self._server.connect_by(deadline_s)",
        "else await self._server.connect(left_s)",
        f"{_DATABASE}::test_the_database_is_killed_and_starts_again",
    ),
)
