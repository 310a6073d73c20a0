"""Makes a shard of a newer memory version from one of an older version and the difference of the two.

    segments that keep most of their entries   hard links to the old files, with more dead positions
    rows that are new                          one more segment, searched exactly unless it is large
    statistics                                 old + new - gone; sums of float16 are exact, so they equal a rebuild's bit for bit.
                                               An index of statistics alone takes the vectors of both from the memory
    item pairs                                 counted anew

A new segment takes in the live entries of the segments before it that are no larger (never those of the first), so that n extensions
leave about log n segments. Where too much is new or dead the shard is built anew.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.errors import ArtefactError
from l2d_ray.index.build import (
    SEGMENT,
    IndexKind,
    OnProgress,
    ShardSummary,
    add_up,
    build_shard,
    seal_shard,
    sealed_summary,
    start_anew,
)
from l2d_ray.index.kinds import choose_kind
from l2d_ray.index.pairs import pairs_of_memory
from l2d_ray.index.sealed import REMEDY, Summary, read_summary
from l2d_ray.index.segment import RowKeys, Rows, item_indexes_of, read_item_ids, read_keys, write_segment
from l2d_ray.index.shard import SUMMARY, LiveSegment, buckets_of_shard, load_segment, read_statistics
from l2d_ray.memory.checksums import digest_of
from l2d_ray.memory.entries import EntryBatch
from l2d_ray.memory.statistics import (
    Decay,
    ItemStatistics,
    StatisticsBuilder,
    merge_statistics,
    statistics_of,
    subtract_statistics,
    with_times,
)
from l2d_ray.memory.table import Memory

REBUILD_FRACTION: Final = 0.25


@dataclass(frozen=True)
class Versions:
    """Two versions of one memory, and the shard that is brought from the older to the newer."""

    memory: Memory
    older: Memory
    shard: int
    num_shards: int

    @property
    def buckets(self) -> range:
        return buckets_of_shard(self.shard, self.num_shards)


@dataclass(frozen=True, eq=False)
class OldSegment:
    """A segment of the older shard, seen from the newer version.

    Attributes:
        live: with the newer catalogue's item indexes, and with what is gone among the dead.
        gone: (m,) positions that died between the two versions.
    """

    name: str
    folder: Path
    item_ids: pa.StringArray
    live: LiveSegment
    gone: NDArray[np.int64]

    def keys(self) -> RowKeys:
        """Of the live entries."""
        segment, positions = self.live.segment, self.live.live_positions()
        items = self.live.item_indexes[segment.item_slots[positions]].astype(np.int32)
        times = segment.timestamps[positions].astype(np.int64)
        return RowKeys(segment.sample_ids[positions], items, times, segment.checksums[positions])

    def rows(self, positions: NDArray[np.int64]) -> Iterator[Rows]:
        yield from self.live.segment.rows(positions, self.item_ids, where=self.folder)


def extend_shard(
    versions: Versions,
    old_folder: Path,
    folder: Path,
    *,
    rebuild_fraction: float = REBUILD_FRACTION,
    has_pairs: bool = True,
    on_progress: OnProgress = lambda rows: None,
) -> ShardSummary:
    """Make the shard's folder from that of the older version, unless it is sealed already.

    Args:
        rebuild_fraction: the shard is built anew where more than this share of its entries would be dead, or new since it was built.
    """
    sealed = sealed_summary(folder)
    if sealed is not None:
        return sealed
    memory, old_summary = versions.memory, read_summary(old_folder / SUMMARY)
    kind: IndexKind = old_summary.fields["kind"]
    if kind == "statistics":
        start_anew(folder)
        return _extend_statistics(versions, old_summary, folder, has_pairs, on_progress)
    difference = memory.difference(versions.older, versions.buckets)
    old = _old_segments(old_summary, memory.catalogue, difference.removed)
    added = read_keys(difference.added, memory.catalogue, source=memory.named)
    if _changed_share(old, added) > rebuild_fraction:
        return build_shard(memory, versions.shard, versions.num_shards, folder, kind=kind, has_pairs=has_pairs, on_progress=on_progress)
    _check_rows(old, added, difference.removed, memory.named)
    start_anew(folder)
    builder = StatisticsBuilder(np.unique(added.item_indexes).astype(np.int64), memory.dim)
    new_rows = add_up(memory.difference(versions.older, versions.buckets).added, builder, memory.catalogue, on_progress)
    segments = _segments_of(memory, old, added, new_rows, folder, kind)
    before = _with_item_indexes(read_statistics(old_summary), versions.older.catalogue, memory.catalogue)
    statistics = subtract_statistics(merge_statistics([before, builder.result()]), _statistics_of_gone(old, memory))
    statistics = with_times(statistics, _live_times(segments.values()), decay=Decay(memory.half_life_s, memory.reference_time))
    digest = sum(digest_of(live.segment.checksums[live.live_positions()]) for live in segments.values()) % 2**64
    pairs = pairs_of_memory(memory, statistics) if has_pairs else None
    return seal_shard(folder, segments, statistics, pairs, kind=kind, digest=digest)


def _extend_statistics(versions: Versions, old_summary: Summary, folder: Path, has_pairs: bool, on_progress: OnProgress) -> ShardSummary:
    """A shard without entries: the vectors of what is new and gone come from the memory, the times from its keys."""
    memory, source = versions.memory, versions.memory.named
    difference = memory.difference(versions.older, versions.buckets)
    added, gone = (_statistics_of_rows(rows, memory, on_progress) for rows in (difference.added, difference.gone))
    before = _with_item_indexes(read_statistics(old_summary), versions.older.catalogue, memory.catalogue)
    keys = read_keys(memory.scan(versions.buckets, with_vectors=False), memory.catalogue, source=source)
    keys.check_unique(source)
    times = [(keys.item_indexes.astype(np.int64), keys.timestamps)]
    decay = Decay(memory.half_life_s, memory.reference_time)
    statistics = with_times(subtract_statistics(merge_statistics([before, added]), gone), times, decay=decay)
    if statistics.num_entries != len(keys):
        raise ArtefactError(f"The index at {old_summary.path.parent} does not hold the memory version that it was made from; {REMEDY}.")
    pairs = pairs_of_memory(memory, statistics) if has_pairs else None
    return seal_shard(folder, {}, statistics, pairs, kind="statistics", digest=digest_of(keys.checksums))


def _statistics_of_rows(rows: Iterable[EntryBatch], memory: Memory, on_progress: OnProgress) -> ItemStatistics:
    total = StatisticsBuilder(np.zeros(0, dtype=np.int64), memory.dim).result()
    for batch in rows:
        assert batch.vectors is not None
        items = item_indexes_of(batch.item_ids, memory.catalogue, memory.named).astype(np.int64)
        total = merge_statistics([total, statistics_of(items, batch.vectors, batch.timestamps)])
        on_progress(len(batch))
    return total


def _old_segments(summary: Summary, catalogue: Catalogue, removed: NDArray[np.int64]) -> list[OldSegment]:
    """The old shard's segments, verified but for their vectors, with what ``removed`` (r,) takes from them."""
    found = []
    for name in summary.fields["segments"]:
        live, folder = load_segment(summary, name, device=None), summary.path.parent / name
        positions = live.live_positions()
        gone = positions[np.isin(live.segment.sample_ids[positions], removed)]
        item_ids = read_item_ids(folder)
        items = [catalogue.item_id_to_index.get(item_id, -1) for item_id in item_ids.to_pylist()]
        seen = replace(live, item_indexes=np.array(items, dtype=np.int64), dead=np.union1d(live.dead, gone))
        found.append(OldSegment(name, folder, item_ids, seen, gone))
    return found


def _changed_share(old: list[OldSegment], added: RowKeys) -> float:
    """Which share of the entries would be dead or outside the first segment; infinite where there is no first segment."""
    if not old:
        return np.inf
    later = sum(segment.live.num_live for segment in old[1:]) + len(added)
    num_live = old[0].live.num_live + later
    return (later + sum(len(segment.live.dead) for segment in old)) / max(num_live, 1)


def _check_rows(old: list[OldSegment], added: RowKeys, removed: NDArray[np.int64], source: str) -> None:
    """ArtefactError unless what is removed was there, what is added was not, and the catalogue has every live item."""
    added.check_unique(source)
    if sum(len(segment.gone) for segment in old) != len(removed):
        raise ArtefactError(f"The index at {old[0].folder.parent} lacks entries of the memory version that it was made from; {REMEDY}.")
    for segment in old:
        positions = segment.live.live_positions()
        if np.isin(segment.live.segment.sample_ids[positions], added.sample_ids).any():
            raise ArtefactError(f"{source} holds a sample_id twice; build the memory again.")
        unknown = np.flatnonzero(segment.live.item_indexes < 0)
        lost = np.intersect1d(segment.live.segment.item_slots[positions], unknown)
        if len(lost):
            raise ArtefactError(f"{source} holds item {segment.item_ids[int(lost[0])].as_py()!r}, which its catalogue lacks; {REMEDY}.")


def _segments_of(
    memory: Memory, old: list[OldSegment], added: RowKeys, new_rows: Iterator[Rows], folder: Path, kind: IndexKind
) -> dict[str, LiveSegment]:
    """Write the new shard's segments: the old ones that stay, and one of what is new. Uses up ``new_rows``."""
    kept, size = list(old), len(added)
    absorbed: list[OldSegment] = []
    while size and len(kept) > 1 and kept[-1].live.num_live <= size:
        absorbed.append(kept.pop())
        size += absorbed[-1].live.num_live
    for segment in kept:
        _link(segment.folder, folder / segment.name)
    segments = {segment.name: segment.live for segment in kept}
    if size:
        name = SEGMENT.format(1 + int(old[-1].name.rpartition("-")[2]))
        keys = RowKeys.joined([added, *(segment.keys() for segment in absorbed)])
        rows = chain(new_rows, *(segment.rows(segment.live.live_positions()) for segment in absorbed))
        new_kind = "exact" if kind == "exact" else choose_kind(size, memory.dim)
        new = write_segment(folder / name, keys, rows, catalogue=memory.catalogue, dim=memory.dim, kind=new_kind)
        segments[name] = LiveSegment(new, np.unique(keys.item_indexes).astype(np.int64), np.zeros(0, dtype=np.int64))
    return segments


def _link(source: Path, target: Path) -> None:
    """The files of a folder a second time: hard links, copies where the file system has none."""
    target.mkdir()
    for path in source.iterdir():
        try:
            os.link(path, target / path.name)
        except OSError:
            shutil.copy2(path, target / path.name)


def _with_item_indexes(statistics: ItemStatistics, before: Catalogue, after: Catalogue) -> ItemStatistics:
    """The same statistics with item indexes of another catalogue, -1 for what it lacks; both are ascending by item_id."""
    if before.item_ids == after.item_ids:
        return statistics
    indexes = [after.item_id_to_index.get(before.item_ids[index], -1) for index in statistics.item_indexes.tolist()]
    return replace(statistics, item_indexes=np.array(indexes, dtype=np.int64))


def _statistics_of_gone(old: list[OldSegment], memory: Memory) -> ItemStatistics:
    """Counts, sums and scatter of the entries that died, their vectors compared with their checksums."""
    items = np.unique(np.concatenate([s.live.item_indexes[s.live.segment.item_slots[s.gone]] for s in old]))
    builder = StatisticsBuilder(items, memory.dim)
    for segment in old:
        indexes = segment.live.item_indexes[segment.live.segment.item_slots[segment.gone]]
        done = 0
        for block in segment.rows(segment.gone):
            assert block.vectors is not None
            builder.add(indexes[done : done + len(block.vectors)], block.vectors, block.timestamps)
            done += len(block.vectors)
    return builder.result()


def _live_times(segments: Iterable[LiveSegment]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.integer]]]:
    """item_indexes and timestamps of all live entries."""
    for live in segments:
        positions = live.live_positions()
        yield live.item_indexes[live.segment.item_slots[positions]], live.segment.timestamps[positions]
