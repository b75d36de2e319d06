"""HTTPS: versions, ciphers, and a certificate that is exchanged while the server serves."""

import json
import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.web.serving import GOOD, WAIT_S, Running, errors_of, read_all, running

from perdure.web.tls import Certificate

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="makes certificates with openssl"
)


def make(directory: Path, name: str, *, kind: str = "ec") -> tuple[str, str]:
    """A certificate for this name, and its key, in the two files that the server reads."""
    key = ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"] if kind == "ec" else ["rsa:2048"]
    new = [str(directory / "new.pem"), str(directory / "new.key")]
    command = ["openssl", "req", "-x509", "-newkey", *key, "-nodes", "-subj", f"/CN={name}"]
    subprocess.run([*command, "-out", new[0], "-keyout", new[1]], check=True, capture_output=True)
    files = str(directory / "tls.pem"), str(directory / "tls.key")
    for source, target in zip(new, files, strict=True):
        Path(source).rename(target)
    return files


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Certificate(*make(tmp_path, "first"))


@pytest.fixture
def server(certificate: Certificate) -> Iterator[Running]:
    with running(ssl_context=certificate.context) as server:
        yield server


def connected(server: Running, **wanted: Any) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    if "version" in wanted:
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = wanted["version"]
        context.set_ciphers(wanted.get("ciphers", "DEFAULT:@SECLEVEL=0"))
    return context.wrap_socket(server.connect(), server_hostname=wanted.get("name", "a"))


def name_of(connection: ssl.SSLSocket) -> bytes:
    found = connection.getpeercert(binary_form=True)
    assert found is not None
    return next(name for name in (b"first", b"second", b"third") if name in found)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_speak_http_1_1(server: Running, version: ssl.TLSVersion) -> None:
    with connected(server, version=version) as client:
        assert client.version() == version.name.replace("_", ".")
        assert client.selected_alpn_protocol() == "http/1.1"
        client.sendall(GOOD)
        assert read_all(client).startswith(b"HTTP/1.1 200 ")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("version", "ciphers"),
    [
        (ssl.TLSVersion.TLSv1, "ALL:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_2, "AES128-SHA"),
        (ssl.TLSVersion.TLSv1_2, "AES128-GCM-SHA256"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA"),
    ],
)
def test_nothing_older_or_weaker_is_spoken(
    server: Running, version: ssl.TLSVersion, ciphers: str
) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connected(server, version=version, ciphers=ciphers)


def test_a_new_certificate_is_for_new_connections(
    server: Running, certificate: Certificate, tmp_path: Path
) -> None:
    with connected(server) as old:
        assert name_of(old) == b"first"
        assert not server.call(certificate.refresh)
        make(tmp_path, "second", kind="rsa")
        assert server.call(certificate.refresh)
        with connected(server) as new:
            assert name_of(new) == b"second"
        old.sendall(GOOD)
        assert read_all(old).startswith(b"HTTP/1.1 200 ")


def test_a_change_is_noticed_without_being_told(
    server: Running, certificate: Certificate, tmp_path: Path
) -> None:
    watching = server.begin(certificate.watch(0.01))
    make(tmp_path, "third")
    server.wait_until(lambda: certificate._newest is not certificate.context)
    with connected(server) as client:
        assert name_of(client) == b"third"
    watching.cancel()


@pytest.mark.parametrize("damage", ["half a pair", "rubbish", "gone"])
def test_what_does_not_fit_together_is_not_taken_up(
    server: Running, certificate: Certificate, tmp_path: Path, damage: str, caplog: Any
) -> None:
    key = tmp_path / "tls.key"
    if damage == "half a pair":
        old = key.read_bytes()
        make(tmp_path, "second")
        key.write_bytes(old)
    elif damage == "rubbish":
        key.write_text("rubbish")
    else:
        key.unlink()
    assert not server.call(certificate.refresh)
    with connected(server) as client:
        assert name_of(client) == b"first"
    assert errors_of(caplog) == ["certificate not taken up"]
    make(tmp_path, "second")
    assert server.call(certificate.refresh)


def test_a_pair_that_does_not_fit_ends_the_start(tmp_path: Path) -> None:
    files = make(tmp_path, "first")
    Path(files[1]).write_text("rubbish")
    with pytest.raises(OSError):
        Certificate(*files)


def test_plain_http_on_the_port_of_https_is_cut_off(server: Running) -> None:
    assert b"HTTP/1.1 200" not in server.talk(GOOD)


@pytest.mark.skipif(
    "PERDURE_SSLYZE" not in os.environ, reason="set PERDURE_SSLYZE to the program of that name"
)
def test_sslyze_finds_nothing_beside_the_certificate(server: Running, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    command = [os.environ["PERDURE_SSLYZE"], "--json_out", str(found), f"127.0.0.1:{server.port}"]
    subprocess.run(command, capture_output=True, timeout=10 * WAIT_S, check=False)
    (scan,) = json.loads(found.read_text())["server_scan_results"]
    results = {name: found["result"] for name, found in scan["scan_result"].items()}
    for old in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"):
        assert results[f"{old}_cipher_suites"]["accepted_cipher_suites"] == []
    for new in ("tls_1_2", "tls_1_3"):
        assert results[f"{new}_cipher_suites"]["accepted_cipher_suites"]
    assert not results["heartbleed"]["is_vulnerable_to_heartbleed"]
    assert not results["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"]
    assert not results["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"]
    assert not results["tls_compression"]["supports_compression"]
    assert "NOT_VULNERABLE" in results["robot"]["robot_result"]
