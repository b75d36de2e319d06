"""Where processes listen for each other."""

import stat
from pathlib import Path

import pytest

from perdure.cli import places
from perdure.cli.cluster_key import VARIABLE
from perdure.cli.failures import Failure
from perdure.cli.layout import ClusterOptions, Layout, layout_of
from perdure.cli.places import Places
from perdure.cluster import sockets
from perdure.runtime.place import Place

POSTGRESQL = "postgresql://db/shop"
KEY = "k" * 40


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setenv(VARIABLE, KEY)
    return KEY.encode()


def _places(layout: Layout, store: str, cluster: ClusterOptions | None = None) -> Places:
    return Places(layout, cluster or ClusterOptions(), store)


@pytest.mark.parametrize("store", ["memory:", "sqlite:data"])
def test_one_process_on_one_machine_is_alone(store: str) -> None:
    with _places(layout_of(None, None, [store]), store) as given:
        assert given.take("all", 0) == Place()


def test_beside_sqlite_the_socket_lies_in_a_private_directory_of_the_store(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/data"
    with _places(layout_of(2, None, [store]), store) as given:
        owner, web = given.take("state", 1), given.take("web", 2)
    directory = tmp_path / "data" / "links"
    assert owner.listen == web.state_at == f"unix:{directory}/state"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert owner.state_at is web.listen is None
    assert owner.key == web.key
    assert len(owner.key) == 32
    assert (owner.role, web.role) == ("state", "web")
    assert owner.name.endswith("/state-1")
    assert web.name.endswith("/web-2")


def test_who_takes_requests_is_told_where_others_reach_it(key: bytes) -> None:
    with _places(layout_of(1, 1, [POSTGRESQL]), POSTGRESQL) as given:
        given.door = "10.0.0.1:8000"
        assert given.take("web", 1).door == "10.0.0.1:8000"
        assert given.take("state", 1).door is None
        assert given.take("web", 2).key == key


def test_the_key_of_one_machine_is_another_at_each_start() -> None:
    layout = layout_of(1, None, ["memory:"])
    first, second = (_places(layout, "memory:") for _ in range(2))
    with first, second:
        assert first.take("web", 1).key != second.take("web", 1).key


def test_a_directory_that_is_open_to_others_is_closed(tmp_path: Path) -> None:
    directory = tmp_path / "links"
    directory.mkdir(0o777)
    directory.chmod(0o777)
    with _places(layout_of(1, None, ["memory:"]), f"sqlite:{tmp_path}"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_the_next_owner_takes_the_same_socket_where_there_is_only_one() -> None:
    with _places(layout_of(1, None, ["memory:"]), "memory:") as given:
        assert given.take("state", 1).listen == given.take("state", 1).listen


def _directory_of(place: Place) -> Path:
    assert place.listen is not None
    return Path(place.listen.removeprefix("unix:")).parent


@pytest.mark.parametrize("kind", ["memory", "a long path", "a file"])
def test_else_it_is_a_temporary_directory_which_is_removed(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").touch()
    store = {
        "memory": "memory:",
        "a long path": f"sqlite:{tmp_path}/{'d' * 100}",
        "a file": f"sqlite:{tmp_path}/file",
    }[kind]
    with _places(layout_of(1, None, [store]), store) as given:
        directory = _directory_of(given.take("state", 1))
        assert not directory.is_relative_to(tmp_path)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert not directory.exists()


def test_what_is_a_long_path_is_what_links_say() -> None:
    assert places._PATH_BYTES_MAX == sockets._UNIX_PATH_BYTES_MAX


def test_with_a_registry_every_owner_has_a_socket_of_its_own() -> None:
    with _places(layout_of(1, 2, [POSTGRESQL]), POSTGRESQL) as given:
        first, second, again = (given.take("state", number) for number in (1, 2, 1))
        assert len({first.listen, second.listen, again.listen}) == 3
        assert given.take("web", 1).state_at is None
        left = Path(str(first.listen).removeprefix("unix:"))
        left.touch()
        given.give_back(first)
        assert not left.exists(), "what a process that was killed left behind"
        given.give_back(second)  # which removed its own


def test_one_process_that_may_not_stay_alone_can_be_reached_too() -> None:
    layout = layout_of(None, None, [POSTGRESQL])
    with _places(layout, POSTGRESQL) as given:
        place = given.take("all", 0)
    assert place.role == "all"
    assert place.key
    assert str(place.listen).startswith("unix:/")


# -- other machines ------------------------------------------------------------------------------


def test_on_tcp_each_owner_has_a_port_and_one_more_is_for_successors(key: bytes) -> None:
    cluster = ClusterOptions(listen="10.0.0.5:7000")
    with _places(layout_of(1, 2, [POSTGRESQL]), POSTGRESQL, cluster) as given:
        first, second, successor = (given.take("state", number) for number in (1, 2, 1))
        ports = [place.listen for place in (first, second, successor)]
        assert ports == [f"tcp:10.0.0.5:{port}" for port in (7000, 7001, 7002)]
        assert {place.key for place in (first, second)} == {key}
        assert first.advertise is None
        given.give_back(first)
        assert given.take("state", 2).listen == "tcp:10.0.0.5:7000"
        assert given.take("web", 1).listen is None


def test_what_is_advertised_moves_with_the_port(key: bytes) -> None:
    cluster = ClusterOptions(listen="[::]:7000", advertise="shop-1.internal:9000")
    with _places(layout_of(1, 2, [POSTGRESQL]), POSTGRESQL, cluster) as given:
        _, second = given.take("state", 1), given.take("state", 2)
    assert second.listen == "tcp:[::]:7001"
    assert second.advertise == "tcp:shop-1.internal:9001"
    assert second.key == key


def test_any_port_may_be_taken(key: bytes) -> None:
    cluster = ClusterOptions(listen="127.0.0.1:0")
    with _places(layout_of(1, 1, [POSTGRESQL]), POSTGRESQL, cluster) as given:
        assert key
        for _ in range(5):
            place = given.take("state", 1)
            assert place.listen == "tcp:127.0.0.1:0"
            given.give_back(place)


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (ClusterOptions(listen="0.0.0.0:7000"), "no other machine can reach 0.0.0.0"),
        (ClusterOptions(listen="[::]:7000"), "no other machine can reach ::"),
        (ClusterOptions(listen="10.0.0.5"), "is not HOST:PORT"),
        (ClusterOptions(listen="10.0.0.5:65535"), "takes 2 ports from 65535 on"),
        (ClusterOptions(listen="10.0.0.5:7000", advertise="shop-1"), "is not HOST:PORT"),
        (ClusterOptions(listen="10.0.0.5:0", advertise="shop-1:7000"), "needs a fixed port"),
        (ClusterOptions(listen="10.0.0.5:7000", advertise="shop-1:0"), "needs a fixed port"),
    ],
)
def test_addresses_that_cannot_work_are_refused(
    key: bytes, cluster: ClusterOptions, message: str
) -> None:
    assert key
    with pytest.raises(Failure, match=message):
        _places(layout_of(1, 1, [POSTGRESQL]), POSTGRESQL, cluster)


def test_certificates_are_handed_on_with_their_full_paths(key: bytes, tmp_path: Path) -> None:
    cluster = ClusterOptions(
        listen="10.0.0.5:7000",
        certificate=Path("cert.pem"),
        private_key=Path("key.pem"),
        authority=Path("ca.pem"),
    )
    with _places(layout_of(1, 1, [POSTGRESQL]), POSTGRESQL, cluster) as given:
        place = given.take("web", 1)
    assert place.certificate == str(Path.cwd() / "cert.pem")
    assert place.private_key == str(Path.cwd() / "key.pem")
    assert place.authority == str(Path.cwd() / "ca.pem")
    assert place.key == key
