"""Builds one shard from one memory version: two streams over the shard's rows, memory bounded by the ids and the item statistics.

The first stream reads ids and finds each row's place in (item_index, sample_id) order; the second writes every vector to its place in
a memory-mapped file and adds up the statistics.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from l2d_ray.errors import ArtefactError
from l2d_ray.index.shard import buckets_of_shard, is_sealed, seal_shard, write_statistics
from l2d_ray.memory.statistics import NO_TIMESTAMP, ItemStatistics
from l2d_ray.memory.table import Memory, vectors_of


def build_shard(memory: Memory, shard: int, num_shards: int, folder: Path, *, on_progress: Callable[[int], None] | None = None) -> int:
    """Build a shard's folder unless it is sealed already; returns its number of entries."""
    buckets = buckets_of_shard(shard, num_shards)
    sample_ids, item_indexes = _ids(memory, buckets)
    order = np.lexsort((sample_ids, item_indexes))
    sample_ids, item_indexes = sample_ids[order], item_indexes[order]
    if is_sealed(folder) and np.array_equal(np.load(folder / "sample_ids.npy"), sample_ids):
        return len(sample_ids)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _check_unique(memory, sample_ids)
    np.save(folder / "sample_ids.npy", sample_ids)
    np.save(folder / "item_indexes.npy", item_indexes)
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    write_statistics(folder, _place_vectors(memory, buckets, folder, places, item_indexes, on_progress))
    seal_shard(folder)
    return len(sample_ids)


def _ids(memory: Memory, buckets: range) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sample ids and item indexes of the shard's rows, in stored order."""
    catalogue_ids = pa.array(memory.catalogue.item_ids, type=pa.string())
    sample_ids, item_indexes = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for batch in memory.scan(["sample_id", "item_id"], buckets=buckets):
        found = pc.index_in(batch["item_id"], value_set=catalogue_ids)
        if found.null_count:
            unknown = batch["item_id"].filter(pc.is_null(found))[0].as_py()
            raise ArtefactError(f"The memory at {memory.uri} holds item {unknown!r}, which its catalogue lacks; build the memory again.")
        sample_ids.append(batch["sample_id"].to_numpy())
        item_indexes.append(found.to_numpy(zero_copy_only=False).astype(np.int64))
    return np.concatenate(sample_ids), np.concatenate(item_indexes)


def _check_unique(memory: Memory, sample_ids: NDArray[np.int64]) -> None:
    if len(np.unique(sample_ids)) != len(sample_ids):
        raise ArtefactError(f"The memory at {memory.uri}, version {memory.version}, holds a sample_id twice; build the memory again.")


def _place_vectors(
    memory: Memory,
    buckets: range,
    folder: Path,
    places: NDArray[np.int64],
    sorted_item_indexes: NDArray[np.int64],
    on_progress: Callable[[int], None] | None,
) -> ItemStatistics:
    """Write vectors.npy and give the statistics of the shard's items."""
    num_entries, dim = len(places), memory.dim
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", mode="w+", dtype=np.float16, shape=(num_entries, dim))
    items, slots, counts = np.unique(sorted_item_indexes, return_inverse=True, return_counts=True)
    sums, scatter = np.zeros((len(items), dim)), np.zeros((dim, dim))
    last = np.full(len(items), NO_TIMESTAMP, dtype=np.int64)
    done = 0
    for batch in memory.scan(["timestamp", "vector"], buckets=buckets):
        rows = places[done : done + len(batch)]
        block = vectors_of(batch)
        vectors[rows] = block
        wide = block.astype(np.float64)
        np.add.at(sums, slots[rows], wide)
        np.maximum.at(last, slots[rows], pc.fill_null(batch["timestamp"], NO_TIMESTAMP).to_numpy())
        scatter += wide.T @ wide
        done += len(batch)
        if on_progress:
            on_progress(len(batch))
    vectors.flush()
    return ItemStatistics(items, counts.astype(np.int64), sums, last, scatter)
