"""Which processes the options of `perdure run` mean, and which cannot work."""

from pathlib import Path

import pytest
from tests.unit.cli.invoking import perdure

from perdure.cli import failures
from perdure.cli.failures import Failure
from perdure.cli.layout import ClusterOptions, Layout, check_cluster, layout_of

SQLITE, POSTGRESQL = "sqlite:data", "postgresql://db/shop"


def test_without_numbers_one_process_does_all() -> None:
    layout = layout_of(None, None, [SQLITE])
    assert layout.is_one
    assert layout.roles() == [("all", 0)]
    assert str(layout) == ""


@pytest.mark.parametrize("store", [SQLITE, "memory:", POSTGRESQL])
def test_web_alone_adds_one_owner_and_owners_start_first(store: str) -> None:
    layout = layout_of(2, None, [store])
    assert layout.roles() == [("state", 1), ("web", 1), ("web", 2)]
    assert str(layout) == "2 web, 1 state"
    assert layout.has_registry == (store == POSTGRESQL)


@pytest.mark.parametrize(
    ("web", "state", "told"),
    [(2, 3, "2 web, 3 state"), (2, 0, "2 web"), (0, 2, "2 state"), (1, 1, "1 web, 1 state")],
)
def test_with_postgresql_any_numbers_will_do(web: int, state: int, told: str) -> None:
    layout = layout_of(web, state, [POSTGRESQL])
    assert len(layout.roles()) == web + state
    assert str(layout) == told


@pytest.mark.parametrize("store", [SQLITE, "memory:"])
@pytest.mark.parametrize(("web", "state"), [(1, 2), (2, 0), (0, 1), (0, 3)])
def test_other_stores_have_one_owner_beside_the_web_processes(
    store: str, web: int, state: int
) -> None:
    with pytest.raises(Failure, match="this needs PostgreSQL") as raised:
        layout_of(web, state, [store])
    assert raised.value.hint is not None
    assert "--store postgresql://" in raised.value.hint


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(Failure, match="leaves nothing to run"):
        layout_of(0, 0, [POSTGRESQL])


def test_state_without_web_is_asked_about() -> None:
    with pytest.raises(Failure, match="leaves open how many processes serve requests") as raised:
        layout_of(None, 2, [POSTGRESQL])
    assert "--web 0 for a machine without HTTP" in str(raised.value.hint)


LISTENING = ClusterOptions(listen="10.0.0.5:7000")


@pytest.mark.parametrize("layout", [Layout(), layout_of(2, None, [SQLITE])])
def test_a_cluster_needs_postgresql(layout: Layout) -> None:
    check_cluster(ClusterOptions(), layout)
    with pytest.raises(Failure, match="a cluster needs PostgreSQL"):
        check_cluster(LISTENING, layout)


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (ClusterOptions(advertise="shop-1:7000"), "which is not there"),
        (
            ClusterOptions(certificate=Path("a.pem")),
            "needs --cluster-cert-key and --cluster-ca too",
        ),
        (
            ClusterOptions(certificate=Path("a.pem"), private_key=Path("b"), authority=Path("c")),
            "--cluster-cert: there is no file a.pem",
        ),
    ],
)
def test_cluster_options_that_cannot_work_are_refused(
    cluster: ClusterOptions, message: str
) -> None:
    with pytest.raises(Failure, match=message):
        check_cluster(cluster, layout_of(1, 1, [POSTGRESQL]))


def test_who_owns_no_actors_has_nothing_to_listen_for() -> None:
    check_cluster(LISTENING, layout_of(1, 1, [POSTGRESQL]))
    with pytest.raises(Failure, match="--state 0 says there are none"):
        check_cluster(LISTENING, layout_of(1, 0, [POSTGRESQL]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--web", "2", "--state", "2"], "this needs PostgreSQL"),
        (["--state", "2"], "leaves open how many"),
        (["--web", "2", "--no-supervisor"], "several processes need their supervisor"),
        (["--cluster-listen", "10.0.0.5:7000"], "a cluster needs PostgreSQL"),
        (
            ["--store", POSTGRESQL, "--cluster-listen", "10.0.0.5:7000"],
            "--cluster-listen needs the key that all processes of the cluster share",
        ),
        (
            ["--store", POSTGRESQL, "--web", "1", "--state", "0"],
            "a machine that only serves requests needs the key",
        ),
    ],
)
def test_perdure_run_says_so_before_anything_starts(options: list[str], message: str) -> None:
    done = perdure("run", "not-there.py", *options)
    assert done.exit_code == failures.USAGE
    assert message in done.errors
    assert "hint: " in done.errors


def test_numbers_are_bounded() -> None:
    assert perdure("run", "app.py", "--web", "100000").exit_code == failures.USAGE
    assert perdure("run", "app.py", "--web", "-1").exit_code == failures.USAGE
