"""Processes of several machines whose links are TLS: `perdure run` with --cluster-cert."""

import http.client
import json
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.faults.supervised import Supervised, free_port, until

from perdure.testing.postgres import fresh_database

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two authorities, `ours` and `theirs`, each with one certificate for a machine."""
    place = tmp_path_factory.mktemp("tls")
    for name in ("ours", "theirs"):
        fresh = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout"]
        sign = ["-CA", f"{name}.pem", "-CAkey", f"{name}.key", "-CAcreateserial", "-days", "2"]
        for command in (
            [
                "req",
                "-x509",
                "-days",
                "2",
                *fresh,
                f"{name}.key",
                "-out",
                f"{name}.pem",
                "-subj",
                "/CN=ca",
            ],
            ["req", *fresh, f"{name}-one.key", "-out", f"{name}-one.csr", "-subj", "/CN=one"],
            ["x509", "-req", "-in", f"{name}-one.csr", "-out", f"{name}-one.pem", *sign],
        ):
            subprocess.run(["openssl", *command], cwd=place, check=True, capture_output=True)
    return place


def machine(folder: Path, store: str, tls: list[str], *more: str) -> Supervised:
    folder.mkdir()
    options = ["--store", store, "--log-level", "info", *tls, *more]
    return Supervised(folder, environment={"PERDURE_CLUSTER_KEY": KEY}, options=options)


def tls(place: Path, name: str) -> list[str]:
    return [
        *("--cluster-cert", str(place / f"{name}-one.pem")),
        *("--cluster-cert-key", str(place / f"{name}-one.key")),
        *("--cluster-ca", str(place / f"{name}.pem")),
    ]


def add(port: int, name: str, timeout_s: float = 40) -> tuple[int, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)) as connection:
        headers = {"Idempotency-Key": name, "Content-Type": "application/json"}
        connection.request("POST", "/counter/a/add", json.dumps({"name": name}), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.fixture
def owner(tmp_path: Path, certificates: Path) -> Iterator[tuple[Supervised, str]]:
    """A machine that owns all actors and takes no requests, and its database."""
    store = fresh_database()
    listen = ["--web", "0", "--state", "1", "--cluster-listen", f"127.0.0.1:{free_port()}"]
    with machine(tmp_path / "owner", store, tls(certificates, "ours"), *listen) as owner:
        yield owner, store


def ready(of: Supervised) -> bool:
    try:
        return add(of.port, "first")[0] == 200
    except OSError:
        return False


def test_a_call_goes_over_tls_from_one_machine_to_another(
    tmp_path: Path, certificates: Path, owner: tuple[Supervised, str]
) -> None:
    _, store = owner
    ours = tls(certificates, "ours")
    with machine(tmp_path / "web", store, ours, "--web", "1", "--state", "0") as web:
        until(lambda: ready(web), web.log())
        assert add(web.port, "second") == (200, 2)


@pytest.mark.parametrize(
    ("stranger", "said"),
    [
        ("of another authority", "warning perdure.cluster peer failed TLS address="),
        ("without TLS", 'warning perdure.cluster link closed peer=null error="no handshake within'),
    ],
)
def test_a_machine_without_a_certificate_of_ours_reaches_nobody(
    tmp_path: Path,
    certificates: Path,
    owner: tuple[Supervised, str],
    stranger: str,
    said: str,
) -> None:
    _, store = owner
    ours = tls(certificates, "ours")
    theirs = tls(certificates, "theirs") if stranger == "of another authority" else []
    with (
        machine(tmp_path / "web", store, ours, "--web", "1", "--state", "0") as web,
        machine(tmp_path / "stranger", store, theirs, "--web", "1", "--state", "0") as other,
    ):
        until(lambda: ready(web), web.log())
        other.wait_for_log("http://")
        status, problem = add(other.port, "strange")
        assert (status, problem["type"].rpartition(":")[2]) == (503, "unreachable")
        other.wait_for_log(said)
        assert add(web.port, "second") == (200, 2)
