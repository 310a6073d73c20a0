"""A service over two raylets on one machine; the second is killed with all that it runs. Part ``node`` of benchmarks.serve_faults."""

from __future__ import annotations

import os
import time
from typing import Any, Final

import psutil

from benchmarks.faults import pids_of, under_load
from benchmarks.serve_load import bodies_of
from benchmarks.serving import ServedRun, application

BEFORE_S, AFTER_S = 3.0, 45.0
DEPLOYMENTS: Final = ("Encoder", "Shard-0", "Shard-1", "Ingress")


def node(run: ServedRun, *, port: int, rate: float) -> dict[str, Any]:
    """Two replicas of each part, one on each node where Serve spreads them so; requests around the death of one node."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # both raylets are this process's children, on this machine alone
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 6, "object_store_memory": 128 << 20}
    nodes = Cluster(initialize_head=True, connect=False, head_node_args=small)
    second = nodes.add_node(**small)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        replicas = {"encoder_replicas": 2, "shard_replicas": 2, "ingress_replicas": 2}
        with application(f"http://127.0.0.1:{port}", run.arguments(2, cached_states=0, **replicas), "node") as route:
            pids = [pid for deployment in DEPLOYMENTS for pid in pids_of(deployment, "node")]
            with under_load(route, bodies_of(run, 500, seed=9, timeout_ms=30_000), rate) as watched:
                time.sleep(BEFORE_S)
                nodes.remove_node(second, allow_graceful=False)
                time.sleep(AFTER_S)
        return watched.summary() | {"replicas": len(pids), "replicas_killed": sum(not psutil.pid_exists(pid) for pid in pids)}
    finally:
        serve.shutdown()
        ray.shutdown()
        nodes.shutdown()
