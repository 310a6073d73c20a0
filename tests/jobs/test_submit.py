"""Jobs on a real cluster, as its users run them: ``ray start``, then ``ray job submit`` with the code as working directory."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from l2d_ray.memory.table import Memory
from l2d_ray.model.loading import load_checkpoint
from tests.clusters import Cluster, started_cluster
from tests.toys import SHAPE, TITLES, VOCAB_SIZE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
EXCLUDED = [".venv", ".git", "runs", "docs", "*.egg-info", "**/__pycache__"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    with started_cluster(tmp_path_factory.mktemp("cluster"), {"RAY_AUTH_MODE": "disabled"}) as cluster:
        yield cluster


def write_inputs(folder: Path) -> list[str]:
    """Twelve items, twenty users; returns the settings of a tiny run, as they stand on a command line."""
    (folder / "items.csv").write_text("item_id,title\n" + "".join(f"i{n},{TITLES[n]}\n" for n in range(12)))
    rows = [f"u{user},i{(user + n) % 12},{1000 * n + user}\n" for user in range(20) for n in range(8)]
    (folder / "interactions.csv").write_text("user_id,item_id,timestamp\n" + "".join(rows))
    mini = {f"model.mini.{name}": value for name, value in (SHAPE | {"vocab_size": VOCAB_SIZE}).items()}
    settings = {
        "run_dir": folder / "run",
        "device": "cpu",
        "data.source": "table",
        "data.name": "submitted",
        "data.interactions": folder / "interactions.csv",
        "data.items": folder / "items.csv",
        "data.min_rating": "null",
        "data.k_core": 2,
        "model.name": "mini",
        "train.num_epochs": 1,
        "train.batch_tokens": 256,
        **mini,
    }
    return [f"{key}={value}" for key, value in settings.items()]


def command_of(job: str, settings: list[str]) -> str:
    return shlex.join([sys.executable, "-m", f"jobs.{job}", *settings])


def submit(cluster: Cluster, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script of jobs to its end; its output is in what the client says."""
    code = ["--working-dir", str(ROOT), "--runtime-env-json", json.dumps({"excludes": EXCLUDED})]
    return cluster.run("ray", "job", "submit", "--address", cluster.dashboard, *code, "--", "bash", "-c", script)


def test_jobs_run_on_the_cluster_they_are_submitted_to(cluster, tmp_path):
    """One job after the other in one submission; before them one that would leave its results where no other node sees them."""
    settings = write_inputs(tmp_path)
    refused = command_of("prepare_data", ["run_dir=runs/lost"])
    jobs = [command_of(job, settings) for job in ("prepare_data", "train", "build_memory")]
    done = submit(cluster, " && ".join([f"! {refused}", *jobs]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "give an absolute path that every node of the cluster sees" in done.stdout
    card, trained, built = (json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"job"'))
    assert (card["num_users"], card["num_items"]) == (20, 12)
    assert load_checkpoint(tmp_path / "run" / "checkpoint").fingerprint == trained["fingerprint"]
    assert len(trained["curve"]) == 1
    memory = Memory.open(str(tmp_path / "run" / "memory"), fingerprint=trained["fingerprint"])
    assert len(memory) == built["num_entries"] == card["num_train_samples"] > 100
