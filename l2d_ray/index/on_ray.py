"""Builds the shards of an index as parallel Ray tasks, one a shard; sealed shards of an interrupted build are kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import ray
from tqdm import tqdm

from l2d_ray.index.build import build_shard
from l2d_ray.index.layout import IndexManifest, shard_dir, write_manifest
from l2d_ray.index.shard import load_statistics
from l2d_ray.memory.statistics import within_covariance
from l2d_ray.memory.table import Memory


def build_index(memory: Memory, num_shards: int, index_dir: Path) -> IndexManifest:
    """Build the index of the memory's open version, replacing the one that is there.

    Shards are built beside it, in a folder named after version and number of shards, so that a build killed half-way goes on with the
    shards it had sealed and an index is never half old, half new.
    """
    work_dir = index_dir.with_name(f"{index_dir.name}.partial-{memory.fingerprint}-v{memory.version}-{num_shards}")
    task = ray.remote(_build_shard)
    pending = {task.remote(memory.uri, memory.version, shard, num_shards, shard_dir(work_dir, shard)): shard for shard in range(num_shards)}
    num_entries = [0] * num_shards
    with tqdm(total=num_shards, desc="index shards", unit="shard") as progress:
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            num_entries[pending.pop(done)] = ray.get(done)
            progress.update()
    covariance = within_covariance([load_statistics(shard_dir(work_dir, shard)) for shard in range(num_shards)])
    manifest = IndexManifest(memory.version, memory.fingerprint, memory.dim, num_shards, tuple(num_entries))
    write_manifest(work_dir, manifest, catalogue=memory.catalogue, within_covariance=covariance)
    shutil.rmtree(index_dir, ignore_errors=True)
    work_dir.rename(index_dir)
    for left_over in index_dir.parent.glob(f"{index_dir.name}.partial-*"):
        shutil.rmtree(left_over)
    return manifest


def _build_shard(uri: str, version: int, shard: int, num_shards: int, folder: Path) -> int:
    return build_shard(Memory.open(uri, version=version), shard, num_shards, folder)
