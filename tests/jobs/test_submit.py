"""Jobs on a real cluster, as its users run them: ``ray start``, then ``ray job submit`` with the code as working directory."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from l2d_ray.memory.table import Memory
from l2d_ray.model.loading import load_checkpoint
from tests.toys import SHAPE, TITLES, VOCAB_SIZE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
START_TIMEOUT_S = 180
EXCLUDED = [".venv", ".git", "runs", "docs", "*.egg-info", "**/__pycache__"]


@dataclass(frozen=True)
class Cluster:
    dashboard: str
    environment: dict[str, str]

    def ray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(RAY), "job", arguments[0], "--address", self.dashboard, *arguments[1:]]
        return subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True, check=False)

    def submit(self, name: str, job: str, settings: list[str]) -> tuple[subprocess.CompletedProcess[str], str]:
        """Run a job to its end; returns what the client said, and the job's own output."""
        code = ["--working-dir", str(ROOT), "--runtime-env-json", json.dumps({"excludes": EXCLUDED})]
        done = self.ray("submit", "--submission-id", name, *code, "--", sys.executable, "-m", f"jobs.{job}", *settings)
        return done, self.ray("logs", name).stdout


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [s.getsockname()[1] for s in sockets]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    """``ray start --head --block`` in a session of its own, all ports free ones, so that other clusters are left alone."""
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "ray-client-server-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    temp_dir = Path("/tmp") / f"l2d-{os.getpid()}"  # short: Ray keeps sockets below it, whose paths must be under 108 bytes
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    command = [str(RAY), "start", "--head", "--block", "--num-cpus=4", "--include-dashboard=true", "--disable-usage-stats"]
    command += [f"--temp-dir={temp_dir}", "--node-ip-address=127.0.0.1", "--min-worker-port=0", "--max-worker-port=0"]
    command += ["--object-store-memory=300000000", *(f"--{name}={port}" for name, port in ports.items())]
    log_path = tmp_path_factory.mktemp("cluster") / "ray.log"
    with log_path.open("w") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=log_path.parent)
    cluster = Cluster(f"http://127.0.0.1:{ports['dashboard-port']}", environment)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while cluster.ray("list").returncode != 0:
            assert head.poll() is None, log_path.read_text()
            assert time.monotonic() < deadline, log_path.read_text()
            time.sleep(1)
        yield cluster
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(temp_dir, ignore_errors=True)


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


def run_job(cluster: Cluster, job: str, settings: list[str]) -> dict[str, object]:
    """Run a job that must succeed; returns the JSON line it printed last."""
    done, logs = cluster.submit(job, job, settings)
    assert done.returncode == 0, done.stdout + done.stderr + logs
    status = cluster.ray("status", job)
    assert f"Job '{job}' succeeded" in status.stdout
    lines = [line for line in logs.splitlines() if line.startswith('{"job"')]
    return json.loads(lines[-1])


def test_jobs_run_on_the_cluster_they_are_submitted_to(cluster, tmp_path):
    settings = write_inputs(tmp_path)
    card = run_job(cluster, "prepare_data", settings)
    assert (card["num_users"], card["num_items"]) == (20, 12)
    trained = run_job(cluster, "train", settings)
    assert load_checkpoint(tmp_path / "run" / "checkpoint").fingerprint == trained["fingerprint"]
    assert len(trained["curve"]) == 1
    built = run_job(cluster, "build_memory", settings)
    memory = Memory.open(str(tmp_path / "run" / "memory"), fingerprint=trained["fingerprint"])
    assert len(memory) == built["num_entries"] == card["num_train_samples"] > 100


def test_a_relative_run_directory_is_refused_inside_the_cluster(cluster):
    done, logs = cluster.submit("relative", "prepare_data", ["run_dir=runs/lost"])
    assert done.returncode != 0
    assert "give an absolute path that every node of the cluster sees" in logs
