"""Connecting to Ray, the same way for every job, test and benchmark.

A cluster that is already connected is used and left as it is (tests hold one for a whole module). Else, in this order: the cluster of
``address``; the one the job was submitted to (``ray job submit`` sets RAY_ADDRESS); a local one, started here and stopped at the end.
Workers import ``l2d_ray`` as the driver does: Ray hands them the driver's sys.path and, for submitted jobs, its working directory.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import ray
from ray.data import DataContext

from l2d_ray.errors import ConfigError

OBJECT_STORE_BYTES: Final = 512 << 20  # of a local cluster: data pass through files, so it holds little
KNOCK_TIMEOUT_S: Final = 10


@contextmanager
def connect(address: str | None, num_cpus: int, *, object_store_bytes: int = OBJECT_STORE_BYTES) -> Iterator[None]:
    """Hold a connection to Ray for the length of a ``with`` block.

    Args:
        address: cluster to join, such as ``auto`` or ``ray://host:10001``; None joins the surrounding one or starts a local one.
        num_cpus: logical CPUs of a local cluster; a cluster that is joined has its own.
        object_store_bytes: shared memory of a local cluster.

    Raises ConfigError where the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    joined = address or os.environ.get("RAY_ADDRESS")
    if joined:
        _join(joined)
    else:
        _keep_ray_data_quiet()
        ray.init(
            address="local",
            num_cpus=num_cpus,
            object_store_memory=object_store_bytes,
            include_dashboard=False,
            log_to_driver=False,  # progress and errors reach the driver by themselves; the rest is in the session's logs
            logging_level=logging.WARNING,
        )
    try:
        yield
    finally:
        ray.shutdown()


def _keep_ray_data_quiet() -> None:
    """Ray Data's plans and bars stay in its log files: here by level, in the workers of the cluster about to start by their environment."""
    os.environ.setdefault("RAY_DATA_LOGGING_CONFIG", str(Path(__file__).with_name("ray_data_logging.yaml")))
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    DataContext.get_current().enable_progress_bars = False


def _join(address: str) -> None:
    try:
        _knock(address)
        ray.init(address=address, logging_level=logging.WARNING)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"The Ray cluster at {address!r} cannot be joined ({error}); start it, or correct ray.address.") from error


def _knock(address: str) -> None:
    """Raise OSError where nothing listens at ``host:port``: Ray itself would try for many minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_TIMEOUT_S).close()
