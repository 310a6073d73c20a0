"""Clusters of a test's own: in its process, or as users start them, by ``ray start`` on free ports, so that others are left alone."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

SCRIPTS = Path(sys.executable).parent
START_TIMEOUT_S = 180


@dataclass(frozen=True)
class Cluster:
    """A head node; its commands run with this environment."""

    dashboard: str
    environment: dict[str, str]
    folder: Path
    temp_dir: Path

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One of the environment's scripts, to its end."""
        command = [str(SCRIPTS / script), *arguments]
        return subprocess.run(command, env=self.environment, cwd=self.folder, capture_output=True, text=True, check=False)

    def get(self, path: str) -> Any:
        """What the dashboard answers. Ray's commands ask it too, but each is a Python that imports all of Ray: too slow to wait with."""
        headers = {"Authorization": f"Bearer {token}"} if (token := self.environment.get("RAY_AUTH_TOKEN")) else {}
        return httpx.get(self.dashboard + path, headers=headers, timeout=30).raise_for_status().json()


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [s.getsockname()[1] for s in sockets]


def unused_port() -> int:
    return free_ports(1)[0]


@contextmanager
def own_cluster(**options: Any) -> Iterator[None]:
    """A local cluster with these options, in the place of the one that tests share (``conftest.ray_cluster``), which is stopped."""
    import ray

    ray.shutdown()
    ray.init(address="local", include_dashboard=False, object_store_memory=128 << 20, **options)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def serving_cluster(port: int, **options: Any) -> Iterator[None]:
    """``own_cluster`` with Serve, which listens on that port of 127.0.0.1."""
    from ray import serve

    with own_cluster(**options):
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        try:
            yield
        finally:
            serve.shutdown()


@contextmanager
def started_cluster(folder: Path, environment: Mapping[str, str], *, num_cpus: int = 4) -> Iterator[Cluster]:
    """``ray start --head --block`` in a session of its own, killed at the end; ``folder`` is where its commands run and its log is."""
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "ray-client-server-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    temp_dir = Path("/tmp") / f"l2d-{os.getpid()}-{ports['port']}"  # short: Ray keeps sockets below it, whose paths must be under 108 bytes
    inherited = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    command = [str(SCRIPTS / "ray"), "start", "--head", "--block", f"--num-cpus={num_cpus}", "--include-dashboard=true"]
    command += ["--disable-usage-stats", f"--temp-dir={temp_dir}", "--node-ip-address=127.0.0.1", "--min-worker-port=0"]
    command += ["--max-worker-port=0", "--object-store-memory=300000000", *(f"--{name}={port}" for name, port in ports.items())]
    dashboard = f"http://127.0.0.1:{ports['dashboard-port']}"
    cluster = Cluster(dashboard, inherited | {"OMP_NUM_THREADS": "1"} | dict(environment), folder, temp_dir)
    log_path = folder / "ray.log"
    with log_path.open("w") as log:
        head = subprocess.Popen(command, env=cluster.environment, stdout=log, stderr=log, start_new_session=True, cwd=folder)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _takes_jobs(cluster):
            assert head.poll() is None, log_path.read_text()
            assert time.monotonic() < deadline, log_path.read_text()
            time.sleep(0.2)
        yield cluster
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(temp_dir, ignore_errors=True)


def _takes_jobs(cluster: Cluster) -> bool:
    try:
        cluster.get("/api/jobs/")
    except httpx.HTTPError:
        return False
    return True
