"""The Serve configuration files and the arguments of the application builder."""

import inspect
import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from l2d_ray.serve.arguments import ServeArguments
from l2d_ray.serve.on_ray import ENCODER, build_app, shard_name

CONFIGS = sorted((Path(__file__).parents[2] / "serve_configs").glob("*.yaml"))


def test_there_are_configurations():
    assert {"local.yaml", "gpu.yaml", "cluster.yaml"} == {path.name for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_configuration_is_valid_for_serve_and_for_the_builder(path: Path):
    schema = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    assert (schema.http_options.host, schema.http_options.port) == ("127.0.0.1", 8000)
    (application,) = schema.applications
    assert application.import_path == "l2d_ray.serve.on_ray:build_app"
    ServeArguments.model_validate(application.args)
    names = {ENCODER, "Ingress"} | {shard_name(shard) for shard in range(64)}
    assert {deployment.name for deployment in application.deployments} <= names


def arguments_in(path: Path) -> ServeArguments:
    return ServeArguments.model_validate(yaml.safe_load(path.read_text())["applications"][0]["args"])


def test_only_the_laptop_answers_without_a_key_and_stops_a_replica_before_it_starts_the_next():
    assert {path.name for path in CONFIGS if not arguments_in(path).access_control} == {"local.yaml"}
    assert {path.name for path in CONFIGS if not arguments_in(path).max_surge_percent} == {"local.yaml"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_rays_own_ports_ask_for_a_token(path: Path):
    started = [line for line in path.read_text().splitlines() if re.search(r"\b(ray start|serve deploy|serve run)\b", line)]
    assert len(started) >= 2
    assert all("RAY_AUTH_MODE=token" in line for line in started) or "export RAY_AUTH_MODE=token" in path.read_text()


def test_two_shards_fit_on_a_laptop_of_two_cores():
    arguments = ServeArguments(checkpoint_dir=Path("c"), index_dir=Path("i"), access_control=False)
    parts = (arguments.ingress_num_cpus, arguments.encoder_num_cpus, 2 * arguments.shard_num_cpus, arguments.updater_num_cpus)
    assert sum(parts) <= 2


def test_arguments_refuse_unknown_keys():
    with pytest.raises(ValidationError, match="num_replicas"):
        ServeArguments.model_validate({"checkpoint_dir": "c", "index_dir": "i", "access_control": False, "num_replicas": 2})


def test_keys_need_a_place():
    with pytest.raises(ValidationError, match="access_control needs state_url"):
        ServeArguments(checkpoint_dir=Path("c"), index_dir=Path("i"))


def test_serve_can_turn_yaml_into_typed_arguments():
    """It looks at the annotation itself, which must not be a string."""
    (parameter,) = inspect.signature(build_app).parameters.values()
    assert parameter.annotation is ServeArguments
