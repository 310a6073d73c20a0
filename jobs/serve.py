"""The HTTP service over a run: starts Ray Serve on 127.0.0.1 and answers until Ctrl-C or SIGTERM.

    python -m jobs.serve --config jobs/configs/quickstart.yaml
    python -m jobs.serve --config jobs/configs/quickstart.yaml run_dir=runs/other serve.port=8080

Serves RUN_DIR/checkpoint and RUN_DIR/index with the settings that jobs.tune_decoder left in the memory: one encoder replica, one replica
a shard. Documentation of the API is at /docs; ask with `python -m jobs.recommend`. For more replicas, GPUs or a cluster see serve_configs/.
What must outlive the service (users, edits, API keys) is in RUN_DIR/state.db. Requests need a key of jobs.api_keys, unless
serve.access_control=false says that whoever reaches the port may do everything; then only a loopback address is listened on.

A newer index in RUN_DIR/index is served once every shard has loaded it, without a restart. Serve runs in its throughput mode;
serve.haproxy=true about halves a small request's time on top, see l2d_ray/serve/environment.py for what it opens. Variables that are set
win over the ones this job sets; on a cluster that is joined, the cluster's own count.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import ray

from jobs.cli import run
from l2d_ray.client import Client
from l2d_ray.cluster import connect
from l2d_ray.config import RunConfig
from l2d_ray.errors import ConfigError
from l2d_ray.index.layout import open_index, read_manifest
from l2d_ray.serve.access import refuse_open_access
from l2d_ray.serve.environment import set_environment

APP_NAME: Final = "l2d_ray"
CPUS_OF_ALL_SHARDS: Final = 0.5


def main(config: RunConfig) -> dict[str, Any]:
    """Serve until a signal comes; returns where it was and for how long."""
    with serving(config) as url:
        print(f"Serving {config.run_dir} at {url} (documentation at {url}/docs); Ctrl-C stops it.", flush=True)
        start = time.perf_counter()
        wait_for_signal()
    return {"job": "serve", "url": url, "served_s": round(time.perf_counter() - start, 1)}


@contextmanager
def serving(config: RunConfig) -> Iterator[str]:
    """The service, ready, for the length of a ``with`` block; gives its URL. Refuses a damaged run before anything is deployed."""
    url = f"http://{config.serve.host}:{config.serve.port}"
    refuse_open_access(config.serve.host, is_access_controlled=config.serve.access_control)
    if config.serve.haproxy and not config.serve.access_control:
        raise ConfigError("HAProxy opens ports on every interface, so serve.haproxy=true needs serve.access_control=true.")
    refuse_taken_port(config.serve.host, config.serve.port)
    open_index(config.index_dir).verify(with_entries="local" in config.serve.decoders)
    set_environment(haproxy=config.serve.haproxy)
    with connect(config.ray.address, config.ray.num_cpus), deployed(config):
        wait_until_ready(url)
        yield url


@contextmanager
def deployed(config: RunConfig) -> Iterator[None]:
    """The application on the connected cluster, deleted at the end."""
    from ray import serve  # only now: its constants are read from the environment when it is imported

    from l2d_ray.serve.arguments import ServeArguments
    from l2d_ray.serve.on_ray import build_app

    num_shards = read_manifest(config.index_dir).num_shards
    arguments = ServeArguments(
        checkpoint_dir=config.checkpoint_dir,
        index_dir=config.index_dir,
        memory_uri=config.memory_uri,
        state_url=config.state_url,
        access_control=config.serve.access_control,
        device=config.device,
        encoder_replicas=config.serve.encoder_replicas,
        shard_replicas=config.serve.shard_replicas,
        decoders=config.serve.decoders,
        encoder_num_gpus=num_gpus_of_encoder(config.device),
        shard_num_cpus=round(CPUS_OF_ALL_SHARDS / num_shards, 4),
    )
    application = build_app(arguments)
    serve.start(http_options={"host": config.serve.host, "port": config.serve.port})
    try:
        serve.run(application, name=APP_NAME, logging_config={"encoding": "JSON"})  # lines that carry the request's id
        yield
    finally:
        serve.delete(APP_NAME)


def refuse_taken_port(host: str, port: int) -> None:
    """ConfigError where something listens on the port already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"Port {port} of {host} cannot be used ({error}); stop what listens there or set serve.port.") from error


def num_gpus_of_encoder(device: str) -> int:
    """1 where the model is to run on a GPU of the connected cluster."""
    has_gpu = ray.cluster_resources().get("GPU", 0) >= 1
    if device == "cuda" and not has_gpu:
        raise ConfigError("device is cuda, but the Ray cluster has no GPU; use device=cpu or auto.")
    return int(has_gpu and device != "cpu")


def wait_until_ready(url: str, *, timeout_s: float = 60.0) -> None:
    """Return once /readyz says so. Serve has started every replica by now, so this is a matter of the HTTP proxy's routes."""
    deadline = time.monotonic() + timeout_s
    with Client(url) as client:
        while not client.is_ready():
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"{url} is not ready {timeout_s:.0f} s after its start; see the logs in /tmp/ray/session_latest/logs/serve."
                )
            time.sleep(0.2)


def wait_for_signal() -> None:
    """Block until SIGINT or SIGTERM."""
    stop = threading.Event()
    before = {kind: signal.signal(kind, lambda *_: stop.set()) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        stop.wait()
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


if __name__ == "__main__":
    run(main, __doc__)
