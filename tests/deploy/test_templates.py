"""The templates in `deploy/` are what systemd, Compose, Kubernetes and `perdure run` accept."""

import copy
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.templates import (
    DEPLOY,
    KUBERNETES,
    KUBERNETES_VERSIONS,
    compose,
    compose_faults,
    documents,
    kubernetes_faults,
    manifests,
)
from typer.testing import CliRunner

from perdure import Limits
from perdure.cli import run
from perdure.cli.commands import cli
from perdure.cli.layout import check_cluster, layout_of
from perdure.cli.options import ServeOptions
from perdure.cli.run import RunOptions

MANIFESTS = manifests()
_TURNING_AWAY_S = 1  # in which `/-/ready` says no and calls are still taken


def pods() -> dict[str, dict[str, Any]]:
    return {
        name: manifest["spec"]["template"]["spec"]
        for name, manifest in MANIFESTS.items()
        if "template" in manifest.get("spec", {})
    }


# -- schemas -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_accepts(name: str, version: str) -> None:
    assert not kubernetes_faults(MANIFESTS[name], version)


def planted_in_kubernetes() -> Iterator[tuple[str, dict[str, Any]]]:
    state = copy.deepcopy(MANIFESTS["StatefulSet/shop-state"])
    state["spec"]["template"]["spec"]["terminationGracePeriod"] = 45
    yield "a field that is not there", state
    state = copy.deepcopy(MANIFESTS["StatefulSet/shop-state"])
    state["spec"]["replicas"] = "three"
    yield "a text for a number", state
    web = copy.deepcopy(MANIFESTS["Deployment/shop-web"])
    del web["spec"]["template"]["spec"]["containers"][0]["name"]
    yield "a field that must be there", web
    policy = copy.deepcopy(MANIFESTS["NetworkPolicy/shop-state"])
    policy["spec"]["ingress"] = policy["spec"]["ingress"][0]
    yield "an object for a list", policy


@pytest.mark.parametrize(("mistake", "manifest"), list(planted_in_kubernetes()))
def test_a_mistake_in_a_manifest_is_found(mistake: str, manifest: dict[str, Any]) -> None:
    assert all(kubernetes_faults(manifest, version) for version in KUBERNETES_VERSIONS), mistake


def test_the_compose_specification_accepts() -> None:
    assert not compose_faults(compose())


@pytest.mark.parametrize(
    ("service", "field", "value"),
    [
        ("web-1", "health_check", {"disable": True}),
        ("web-1", "stop_grace_period", 75),
        ("postgres", "image", ["postgres:16"]),
        ("state-1", "read_only", {"yes": True}),
    ],
)
def test_a_mistake_in_the_compose_file_is_found(service: str, field: str, value: object) -> None:
    planted = compose()
    planted["services"][service][field] = value
    assert compose_faults(planted)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
@pytest.mark.parametrize(("mistake", "is_found"), [("", False), ("LimitNoFiles=1", True)])
def test_systemd_accepts_the_unit_and_no_mistake(
    mistake: str, is_found: bool, tmp_path: Path
) -> None:
    unit = tmp_path / "shop.service"
    # the program of a reader is not on this machine
    text = (
        (DEPLOY / "perdure.service").read_text().replace("/srv/shop/.venv/bin/perdure", "/bin/true")
    )
    unit.write_text(text.replace("[Service]\n", f"[Service]\n{mistake}\n"))
    said = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert (mistake.partition("=")[0] in said.stderr) if is_found else not said.stderr


# -- what they say to perdure --------------------------------------------------------------------


def command_lines() -> dict[str, list[str]]:
    """What follows `perdure run`, by template and name."""
    found = {}
    for name, pod in pods().items():
        [container] = pod["containers"]
        found[name] = [*entry_point(), *container["args"]]
    for name, service in compose()["services"].items():
        if name != "postgres":
            found[name] = [*entry_point(), *service["command"]]
    unit = (DEPLOY / "perdure.service").read_text()
    found["unit"] = shlex.split(unit.partition("ExecStart=")[2].partition("\n")[0])[2:]
    return found


def entry_point() -> list[str]:
    text = (DEPLOY / "Dockerfile").read_text()
    words = yaml.safe_load(text.partition("ENTRYPOINT ")[2].partition("\n")[0])
    assert words[:2] == ["perdure", "run"]
    return words[2:]


@pytest.mark.parametrize("name", command_lines())
def test_perdure_run_takes_the_command_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def look(options: ServeOptions, how: RunOptions) -> int:
        layout = layout_of(how.web, how.state, options.stores)
        cluster = how.cluster
        if cluster.key_file is not None:
            assert str(cluster.key_file) == f"/run/secrets/{secret_of(name)}"
        check_cluster(cluster, layout)
        assert how.with_supervisor or layout.is_one
        taken.append(layout)
        return 0

    monkeypatch.setattr(run, "run_app", look)
    result = CliRunner().invoke(cli, ["run", *command_lines()[name]])
    assert result.exit_code == 0, result.output
    assert len(taken) == 1


def secret_of(service: str) -> str:
    [secret] = compose()["services"][service]["secrets"]
    return secret["target"]


# -- how they hang together ----------------------------------------------------------------------


def test_every_manifest_is_in_the_kustomization_but_the_example() -> None:
    [kustomization] = documents(KUBERNETES / "kustomization.yaml")
    there = {path.name for path in KUBERNETES.glob("*.yaml")}
    assert set(kustomization["resources"]) == there - {
        "kustomization.yaml",
        "secret.example.yaml",
    }


@pytest.mark.parametrize("name", pods())
def test_a_pod_may_do_nothing_but_its_work(name: str) -> None:
    pod = pods()[name]
    [container] = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("name", pods())
def test_a_pod_has_the_time_that_a_graceful_stop_takes(name: str) -> None:
    pod = pods()[name]
    [container] = pod["containers"]
    before_s = 0
    if "lifecycle" in container:
        before_s = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
    needed_s = before_s + _TURNING_AWAY_S + Limits().drain_s
    assert pod["terminationGracePeriodSeconds"] > needed_s


def test_unit_and_compose_give_the_time_that_a_graceful_stop_takes() -> None:
    # the web processes first, and then those that own actors
    needed_s = _TURNING_AWAY_S + 2 * Limits().drain_s
    unit = (DEPLOY / "perdure.service").read_text()
    [stop_s] = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(stop_s) > needed_s
    for name, service in compose()["services"].items():
        if name != "postgres":
            assert int(service["stop_grace_period"].removesuffix("s")) > needed_s


def test_budgets_services_and_policies_select_the_pods_that_are_there() -> None:
    labels = [
        manifest["spec"]["template"]["metadata"]["labels"]
        for manifest in MANIFESTS.values()
        if "template" in manifest.get("spec", {})
    ]
    for name, manifest in MANIFESTS.items():
        spec = manifest.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector")
        if selector is not None:
            assert selector.get("matchLabels", selector) in labels, name


def test_only_these_pods_reach_the_cluster_port() -> None:
    policy = MANIFESTS["NetworkPolicy/shop-state"]["spec"]
    assert policy["ingress"] == [
        {
            "from": [{"podSelector": {"matchLabels": {"app": "shop"}}}],
            "ports": [{"protocol": "TCP", "port": "cluster"}],
        }
    ]


def test_the_unit_is_the_one_in_the_how_to() -> None:
    page = (DEPLOY.parent / "docs" / "how-to" / "deploy-systemd.md").read_text()
    shown = page.partition('shop.service"\n')[2].partition("```")[0]
    unit = (DEPLOY / "perdure.service").read_text()
    _, _, body = unit.partition("\n")  # its first line says where it belongs
    assert shown == body
