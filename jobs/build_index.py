"""Brings the index to the memory's newest version, one Ray task a shard: extended where an older version's is there, else built.

    python -m jobs.build_index --config jobs/configs/quickstart.yaml index.num_shards=4
    ray job submit --working-dir . -- python -m jobs.build_index --config jobs/configs/quickstart.yaml run_dir=/mnt/runs/one

Needs jobs.build_memory. Re-sharding is running this again with another number: the memory is not touched. index.kind=statistics makes an
index without entries, for all decoders but local; index.pairs=false one without item pairs, for all but paired. Titles are encoded too, so
that items without entries have a representation (memory.titles); an index that is extended encodes new titles alone. After users
were forgotten, index.extend=false index.keep_previous=0 also takes their entries from the index's files; until then they
are marked as dead.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from jobs.cli import run
from l2d_ray.cluster import connect
from l2d_ray.config import RunConfig
from l2d_ray.index.on_ray import build_index
from l2d_ray.index.plan import IndexOptions
from l2d_ray.memory.table import Memory
from l2d_ray.model.loading import read_metadata, resolve_device
from l2d_ray.model.on_ray import EncoderSpec, title_encoder


def main(config: RunConfig) -> dict[str, Any]:
    started, settings = time.monotonic(), config.index
    memory = Memory.open(config.memory_uri, fingerprint=read_metadata(config.checkpoint_dir)["fingerprint"])
    spec = EncoderSpec(str(config.checkpoint_dir), resolve_device(config.device), config.memory.batch_tokens)
    options = IndexOptions(
        kind=settings.kind,
        device=resolve_device(settings.device),
        is_extended=settings.extend,
        rebuild_fraction=settings.rebuild_fraction,
        num_previous=settings.keep_previous,
        has_pairs=settings.pairs,
    )
    with connect(config.ray.address, config.ray.num_cpus):
        built = build_index(memory, settings.num_shards, config.index_dir, options=options, encode_titles=title_encoder(spec))
    return {
        "job": "build_index",
        "index_dir": str(config.index_dir),
        "action": built.action,
        "reason": built.reason,
        **asdict(built.manifest),
        "largest_share": round(built.manifest.largest_share, 4),
        "disk_bytes": sum(path.stat().st_size for path in (config.index_dir / built.manifest.generation).rglob("*") if path.is_file()),
        "build_s": round(time.monotonic() - started, 2),
    }


if __name__ == "__main__":
    run(main, __doc__)
