"""The Kubernetes manifests are what KubeRay, Kubernetes and our own builder take, and keep what they promise; so does the image."""

import copy
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from l2d_ray.config import load_config
from l2d_ray.serve.arguments import ServeArguments
from l2d_ray.serve.environment import HAPROXY, THROUGHPUT
from tests.serve.manifests import manifest_faults

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "serve_configs" / "kuberay"
FILES = sorted(FOLDER.glob("*.yaml"))
MANIFESTS = [(path.name, manifest) for path in FILES for manifest in yaml.safe_load_all(path.read_text())]


def manifest(kind: str) -> dict[str, Any]:
    (found,) = (copy.deepcopy(made) for _, made in MANIFESTS if made["kind"] == kind)
    return found


def cluster_spec(kind: str) -> dict[str, Any]:
    return manifest(kind)["spec"][{"RayService": "rayClusterConfig", "RayJob": "rayClusterSpec"}[kind]]


def pods_of(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_every_kind_is_there():
    assert {made["kind"] for _, made in MANIFESTS} == {
        "RayService",
        "RayJob",
        "PersistentVolumeClaim",
        "Ingress",
        "NetworkPolicy",
        "PodDisruptionBudget",
    }


@pytest.mark.parametrize(("name", "made"), MANIFESTS, ids=lambda value: value if isinstance(value, str) else value["kind"])
def test_a_manifest_has_no_fault(name: str, made: dict[str, Any]):
    assert manifest_faults(made) == []


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (("spec", "serveConfigV3"), "x", "serveConfigV3"),
        (("spec", "upgradeStrategy", "type"), "Rolling", "Rolling"),
        (("spec", "rayClusterConfig", "authOptions", "mode"), "none", "none"),
        (("spec", "rayClusterConfig", "workerGroupSpecs", 0, "minReplicas"), "2", "'2'"),
        (("spec", "rayClusterConfig", "headGroupSpec", "rayStartParams", "num-cpus"), 0, "0 is not of type 'string'"),
        (("spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "containers", 0, "image"), 5, "5 is no str"),
        (("spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "containers", 0, "imagee"), "x", "imagee"),
        (("spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "containers"), None, "containers"),
    ],
)
def test_a_fault_is_found_with_its_path(path: tuple[str | int, ...], value: Any, fault: str):
    made = manifest("RayService")
    holder: Any = made
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value
    (found,) = manifest_faults(made)[:1]
    assert fault in found


def test_the_service_in_the_manifest_is_one_that_serve_and_the_builder_take():
    schema = ServeDeploySchema.model_validate(yaml.safe_load(manifest("RayService")["spec"]["serveConfigV2"]))
    (application,) = schema.applications
    assert application.import_path == "l2d_ray.serve.on_ray:build_app"
    arguments = ServeArguments.model_validate(application.args)
    assert arguments.access_control
    assert arguments.max_surge_percent > 0
    assert {deployment.name for deployment in application.deployments} <= {"Encoder", "Ingress"}


def test_serve_runs_in_its_fast_mode_with_haproxy_on_every_pod():
    pods = pods_of(cluster_spec("RayService"))
    wanted = HAPROXY | {"RAY_SERVE_THROUGHPUT_OPTIMIZED": THROUGHPUT["RAY_SERVE_THROUGHPUT_OPTIMIZED"]}
    for pod in pods:
        given = {variable["name"]: variable.get("value") for variable in pod["containers"][0]["env"]}
        assert wanted.items() <= given.items()
        assert "PGPASSWORD" in given


def test_the_job_in_the_manifest_is_one_that_the_jobs_take(tmp_path: Path):
    words = manifest("RayJob")["spec"]["entrypoint"].split()
    assert words[:3] == ["python", "-m", "jobs.build_memory"]
    (tmp_path / "run.yaml").write_text("{}")
    config = load_config([word.replace("/data/production/run.yaml", str(tmp_path / "run.yaml")) for word in words[3:]])
    assert config.run_dir == Path("/data/production")


@pytest.mark.parametrize("kind", ["RayService", "RayJob"])
def test_clusters_ask_for_a_token_run_without_rights_and_have_our_ray(kind: str):
    cluster = cluster_spec(kind)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == version("ray")
    pods = pods_of(cluster)
    assert len(pods) >= 2
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            assert container["resources"]["requests"].keys() == container["resources"]["limits"].keys() >= {"cpu", "memory"}
            assert container["image"].endswith(f"l2d_ray:{version('l2d_ray')}")


def test_dockerfile_has_no_fault_and_the_manifests_user():
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([hadolint, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
    users = {pod["securityContext"]["runAsUser"] for pod in pods_of(cluster_spec("RayService"))}
    assert {f"USER {user}" for user in users} <= set((ROOT / "Dockerfile").read_text().splitlines())
