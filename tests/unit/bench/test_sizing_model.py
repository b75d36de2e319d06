"""The simulation behind docs/explanation/sizing.md: like what was measured, and like reason."""

import json

import pytest
from bench.sizing import FIGURES, HERE, load_table, server_of
from bench.sizing_model import Server, largest, simulate

# A quiet machine, one node, a local socket: design figures for one commit at a time.
_LOCAL = Server(cores=2, network_s=0.0, flush_s=0.000155, contention=1.0)


@pytest.mark.parametrize(("rows", "measured_ms"), [(1, 0.4), (50, 1.0), (200, 2.4)])
def test_one_node_commits_as_fast_as_was_measured(rows: int, measured_ms: float) -> None:
    rate = rows / (measured_ms / 1000)
    seen = simulate(_LOCAL, nodes=1, calls_per_s=rate, changing=1.0)
    assert seen.rows_per_s == pytest.approx(rate, rel=0.03)
    assert 1 / seen.commits_per_s < 1.5 * measured_ms / 1000


def test_more_calls_make_larger_commits_and_not_more_of_them() -> None:
    some = simulate(Server(), nodes=100, calls_per_s=2_000_000, changing=0.2)
    more = simulate(Server(), nodes=100, calls_per_s=4_000_000, changing=0.2)
    assert more.rows_per_s == pytest.approx(2 * some.rows_per_s, rel=0.02)
    assert more.commits_per_s < some.commits_per_s


def test_few_calls_do_not_count_as_late() -> None:
    seen = simulate(Server(), nodes=100, calls_per_s=10_000, changing=0.2)
    assert seen.latency_s(0.99) < 0.003


def test_a_database_with_a_slower_disk_is_full_sooner() -> None:
    fast = largest(Server(wal_bytes_per_s=1e9), nodes=100, changing=1.0)
    slow = largest(Server(wal_bytes_per_s=1e8), nodes=100, changing=1.0)
    assert slow.calls_per_s < 0.2 * fast.calls_per_s
    assert slow.disk == pytest.approx(0.7, rel=0.1)


def test_the_page_says_what_the_simulation_says() -> None:
    page = (HERE.parent / "docs" / "explanation" / "sizing.md").read_text()
    assert "\n".join(load_table(server_of(json.loads(FIGURES.read_text())))) in page
