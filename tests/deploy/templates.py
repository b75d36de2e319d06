"""The templates in `deploy/`, read, and what validators have to say of them."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
# The oldest and the newest release that are looked at; the schemas are in the validator's package.
KUBERNETES_VERSIONS = ("1.31", "1.37")


def documents(path: Path) -> list[dict[str, Any]]:
    """Every YAML document of a file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def manifests() -> dict[str, dict[str, Any]]:
    """Every resource for Kubernetes as KIND/NAME, but for the kustomization."""
    return {
        f"{document['kind']}/{document['metadata']['name']}": document
        for path in sorted(KUBERNETES.glob("*.yaml"))
        for document in documents(path)
        if document["kind"] != "Kustomization"
    }


def kubernetes_faults(manifest: dict[str, Any], version: str) -> str:
    """What the Kubernetes API would not take; empty: it takes it."""
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error.message)
    return ""


def compose_faults(compose: dict[str, Any]) -> list[str]:
    """What does not fit the Compose specification."""
    vendored = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(vendored.read_text())
    # By the draft that the schema names: an older one would pass over what it does not know.
    validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(schema)
    return [error.message for error in validator.iter_errors(compose)]


def compose() -> dict[str, Any]:
    """The compose file."""
    [document] = documents(DEPLOY / "compose.yaml")
    return document
