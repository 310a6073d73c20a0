"""Builds one shard from one memory version: two streams over the shard's rows, memory bounded by keys and item statistics.

The first stream reads keys and finds each row's place in (item, sample_id) order; the second writes every vector to its place in a
memory-mapped file and adds up the statistics.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.errors import ArtefactError
from l2d_ray.index.pairs import pairs_of_memory, write_pairs
from l2d_ray.index.sealed import read_summary, seal
from l2d_ray.index.segment import SUMMARY as SEGMENT_SUMMARY
from l2d_ray.index.segment import Rows, item_indexes_of, read_keys, search_bytes, write_segment
from l2d_ray.index.shard import ARRAY_TO_FIELD, SUMMARY, TOTAL, WITHIN_SCATTER, LiveSegment, buckets_of_shard, verify_shard
from l2d_ray.memory.checksums import digest_of
from l2d_ray.memory.pairs import ItemPairs
from l2d_ray.memory.statistics import Decay, ItemStatistics, StatisticsBuilder
from l2d_ray.memory.table import Memory

IndexKind = Literal["exact", "compressed", "statistics"]
OnProgress = Callable[[int], object]
"""Called with the number of rows done since the last call."""

SEGMENT: Final = "segment-{:05d}"


@dataclass(frozen=True)
class ShardSummary:
    """What a sealed shard says of itself.

    Attributes:
        num_entries: live ones.
        num_items: those with a live entry.
        num_dead: entries in its files that no longer count.
        digest: sum of the live entries' checksums, modulo 2^64.
        statistics_bytes, pairs_bytes, entries_bytes: what serving keeps in memory for its statistics and, on top, for its pairs and its
            entries.
    """

    num_entries: int
    num_items: int
    num_dead: int
    digest: int
    statistics_bytes: int
    pairs_bytes: int
    entries_bytes: int


def build_shard(
    memory: Memory,
    shard: int,
    num_shards: int,
    folder: Path,
    *,
    kind: IndexKind = "exact",
    has_pairs: bool = True,
    on_progress: OnProgress = lambda rows: None,
) -> ShardSummary:
    """Build a shard's folder, unless it is sealed already: a folder belongs to one memory version and one number of shards."""
    sealed = sealed_summary(folder)
    if sealed is not None:
        return sealed
    start_anew(folder)
    buckets = buckets_of_shard(shard, num_shards)
    keys = read_keys(memory.scan(buckets, with_vectors=False), memory.catalogue, source=memory.named)
    keys.check_unique(memory.named)
    items, decay = np.unique(keys.item_indexes).astype(np.int64), Decay(memory.half_life_s, memory.reference_time)
    builder = StatisticsBuilder(items, memory.dim, decay)
    rows = add_up(memory.scan(buckets), builder, memory.catalogue, on_progress)
    live = {}
    if kind == "statistics":
        for _ in rows:
            pass
    elif len(keys):
        name = SEGMENT.format(0)
        segment = write_segment(folder / name, keys, rows, catalogue=memory.catalogue, dim=memory.dim, kind=kind)
        live[name] = LiveSegment(segment, items, np.zeros(0, dtype=np.int64))
    statistics = builder.result()
    pairs = pairs_of_memory(memory, statistics) if has_pairs else None
    return seal_shard(folder, live, statistics, pairs, kind=kind, digest=digest_of(keys.checksums))


def add_up(rows: Iterable[Rows], builder: StatisticsBuilder, catalogue: Catalogue, on_progress: OnProgress) -> Iterator[Rows]:
    """The same rows, each block added to the statistics on its way."""
    for block in rows:
        assert block.vectors is not None
        builder.add(item_indexes_of(block.item_ids, catalogue, "The memory"), block.vectors, block.timestamps)
        yield block
        on_progress(len(block.sample_ids))


def seal_shard(
    folder: Path, segments: Mapping[str, LiveSegment], statistics: ItemStatistics, pairs: ItemPairs | None, *, kind: IndexKind, digest: int
) -> ShardSummary:
    """Write what a shard has beside its segments, which stand in the folder by these names, and its summary."""
    files = []
    for name, live in segments.items():
        arrays = {f"{name}.items.npy": live.item_indexes, f"{name}.dead.npy": live.dead}
        files += [f"{name}/{SEGMENT_SUMMARY}", *_write_arrays(folder, arrays)]
    files += _write_arrays(folder, {f"{name}.npy": getattr(statistics, field) for name, field in ARRAY_TO_FIELD.items()})
    files += _write_arrays(folder, {WITHIN_SCATTER: statistics.within_scatter(), TOTAL: statistics.total()})
    files += [] if pairs is None else write_pairs(folder, pairs)
    content = {
        "kind": kind,
        "num_entries": statistics.num_entries,
        "num_items": len(statistics.counts),
        "num_dead": sum(len(live.dead) for live in segments.values()),
        "digest": f"{digest:016x}",
        "segments": list(segments),
        "statistics_bytes": sum((folder / f"{name}.npy").stat().st_size for name in ARRAY_TO_FIELD),
        "pairs_bytes": 0 if pairs is None else pairs.num_bytes,
        "entries_bytes": sum(search_bytes(folder / name) for name in segments),
    }
    seal(folder / SUMMARY, content, files)
    return _read_summary(folder)


def sealed_summary(folder: Path) -> ShardSummary | None:
    """Of a shard that is whole, every file compared with its hash; None where it is not."""
    try:
        verify_shard(folder)
    except ArtefactError:
        return None
    return _read_summary(folder)


def start_anew(folder: Path) -> None:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _write_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    for name, array in arrays.items():
        np.save(folder / name, array)
    return list(arrays)


def _read_summary(folder: Path) -> ShardSummary:
    content = read_summary(folder / SUMMARY).fields
    values = {field.name: content[field.name] for field in fields(ShardSummary)}
    return ShardSummary(**values | {"digest": int(content["digest"], 16)})
