"""Encodes every training sample into the memory, with Ray Data; run again, it does only what is missing.

    python -m jobs.build_memory --config jobs/configs/quickstart.yaml memory.num_workers=2
    ray job submit --working-dir . -- python -m jobs.build_memory --config jobs/configs/quickstart.yaml run_dir=/mnt/runs/one

Needs jobs.prepare_data and jobs.train. A memory that another model made is refused.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from jobs.cli import run
from l2d_ray.cluster import connect
from l2d_ray.config import RunConfig
from l2d_ray.memory.on_ray import build_memory
from l2d_ray.model.loading import resolve_device
from l2d_ray.model.on_ray import EncoderSpec


def main(config: RunConfig) -> dict[str, Any]:
    with connect(config.ray.address, config.ray.num_cpus):
        spec = EncoderSpec(str(config.checkpoint_dir), resolve_device(config.device), config.memory.batch_tokens)
        summary = build_memory(
            config.data_dir, config.memory_uri, spec=spec, num_workers=config.memory.num_workers, data_name=config.data.name
        )
    return {"job": "build_memory", "memory_uri": config.memory_uri, **asdict(summary)}


if __name__ == "__main__":
    run(main, __doc__)
