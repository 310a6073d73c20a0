"""Faults of Kubernetes manifests: KubeRay's kinds by ``kuberay_crds.yaml``, Kubernetes' own by the models of its official client."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend
from kubernetes.client import models

SCALARS = {"str": str, "int": int, "float": (int, float), "bool": bool}
CRDS = yaml.safe_load((Path(__file__).parent / "kuberay_crds.yaml").read_text())


def manifest_faults(manifest: dict[str, Any]) -> list[str]:
    """What is wrong, each with its path; empty where nothing is."""
    if manifest["apiVersion"].startswith("ray.io/"):
        errors = sorted(VALIDATOR(CRDS).iter_errors(manifest), key=lambda error: error.json_path)
        return [f"{error.json_path}: {error.message}" for error in errors]
    return list(value_faults(manifest, model_of(manifest), "$"))


def value_faults(value: Any, kind: str, path: str) -> Iterator[str]:
    """Faults of a value that should be of a type as the client's models name it."""
    if match := re.fullmatch(r"[Ll]ist\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{path}: {value!r} is no list"
            return
        for index, entry in enumerate(value):
            yield from value_faults(entry, match[1], f"{path}[{index}]")
    elif match := re.fullmatch(r"[Dd]ict[\[(]str, ?(.+)[\])]", kind):
        for name, entry in value.items():
            yield from value_faults(entry, match[1], f"{path}.{name}")
    elif kind in SCALARS:
        if not isinstance(value, SCALARS[kind]) or (kind == "int" and isinstance(value, bool)):
            yield f"{path}: {value!r} is no {kind}"
    elif hasattr(models, kind):
        yield from _object_faults(value, getattr(models, kind), path)


def model_of(manifest: dict[str, Any]) -> str:
    """Name of the client's model of a manifest's kind."""
    version = manifest["apiVersion"].split("/")[-1]
    return f"{version.capitalize()}{manifest['kind']}"


def _object_faults(value: Any, model: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: {value!r} is no {model.__name__}"
        return
    field_to_name = {field: name for name, field in model.attribute_map.items()}
    for field, content in value.items():
        if field in field_to_name:
            yield from value_faults(content, model.openapi_types[field_to_name[field]], f"{path}.{field}")
        else:
            yield f"{path}: {model.__name__} has no field {field!r}"
    try:
        model(**{field_to_name[field]: content for field, content in value.items() if field in field_to_name})
    except ValueError as error:
        yield f"{path}: {error}"


def _kubernetes(_validator: Any, kind: str, value: Any, _schema: Any) -> Iterator[ValidationError]:
    for fault in value_faults(value, kind, ""):
        yield ValidationError(fault)


VALIDATOR = extend(Draft202012Validator, {"kubernetes": _kubernetes})
