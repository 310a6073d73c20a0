"""Builds the index of the memory's newest version, one Ray task a shard.

    python -m jobs.build_index --config jobs/configs/quickstart.yaml index.num_shards=4
    ray job submit --working-dir . -- python -m jobs.build_index --config jobs/configs/quickstart.yaml run_dir=/mnt/runs/one

Needs jobs.build_memory. Re-sharding is running this again with another number: the memory is not touched.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from jobs.cli import run
from l2d_ray.cluster import connect
from l2d_ray.config import RunConfig
from l2d_ray.index.on_ray import build_index
from l2d_ray.memory.table import Memory
from l2d_ray.model.loading import read_metadata


def main(config: RunConfig) -> dict[str, Any]:
    started = time.monotonic()
    memory = Memory.open(config.memory_uri, fingerprint=read_metadata(config.checkpoint_dir)["fingerprint"])
    with connect(config.ray.address, config.ray.num_cpus):
        manifest = build_index(memory, config.index.num_shards, config.index_dir)
    return {
        "job": "build_index",
        "index_dir": str(config.index_dir),
        **asdict(manifest),
        "build_s": round(time.monotonic() - started, 2),
    }


if __name__ == "__main__":
    run(main, __doc__)
