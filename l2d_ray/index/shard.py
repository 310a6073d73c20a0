"""One shard of the index: all entries of the items in a range of buckets, and those items' statistics.

    SHARD/segment-00000/ ...             entries that never change (index.segment), possibly shared with an older index
    SHARD/segment-00000.dead.npy         (m,) int64 ascending: positions in it that no longer count
    SHARD/segment-00000.items.npy        (v,) int64: item_index of each of its slots in this index's catalogue; -1 where it has none
    SHARD/items.npy (v,) · counts.npy (v,) · sums.npy (v, d) float64 · last_timestamps.npy (v,) · decayed_counts.npy (v,) float64
    SHARD/scatter.npy (d, d) float64     all six: the statistics of the live entries
    SHARD/within_scatter.npy, total.npy  (d, d) and (d,) float64, this shard's part of the pooled statistics
    SHARD/pairs.*.npy                    item pairs of those items, see index.pairs
    SHARD/shard.json                     written last

What global and whitened decoding need are the statistics alone; a shard may be loaded, or built, without entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from l2d_ray.errors import ArtefactError
from l2d_ray.index.exact import ExactSearch
from l2d_ray.index.kinds import SegmentSearch
from l2d_ray.index.pairs import PAIRS_FILES, read_pairs
from l2d_ray.index.sealed import Summary, read_summary
from l2d_ray.index.segment import SUMMARY as SEGMENT_SUMMARY
from l2d_ray.index.segment import Segment, open_search, open_segment
from l2d_ray.memory.pairs import ItemPairs
from l2d_ray.memory.statistics import NO_TIMESTAMP, ItemStatistics
from l2d_ray.memory.titles import TitleStates
from l2d_ray.schema import NUM_BUCKETS, bucket_of

SUMMARY: Final = "shard.json"
ARRAY_TO_FIELD: Final = {"items": "item_indexes"} | {
    name: name for name in ("counts", "sums", "last_timestamps", "decayed_counts", "scatter")
}
"""Files of the statistics, and their names in ``ItemStatistics``."""
WITHIN_SCATTER: Final = "within_scatter.npy"
TOTAL: Final = "total.npy"


def buckets_of_shard(shard: int, num_shards: int) -> range:
    """The contiguous buckets of a shard; the shards' ranges are disjoint and cover all buckets."""
    return range(-(-shard * NUM_BUCKETS // num_shards), -(-(shard + 1) * NUM_BUCKETS // num_shards))


def shard_of_item(item_id: str, num_shards: int) -> int:
    """The shard whose buckets hold an item."""
    return bucket_of(item_id) * num_shards // NUM_BUCKETS


@dataclass(frozen=True, eq=False)
class Neighbors:
    """Nearest entries of b queries, ascending by (distance, sample_id), padded with inf and -1.

    Attributes:
        squared_distances: (b, m) float64.
        sample_ids: (b, m) int64.
        positions: (b, m) int64, positions in the shard.
    """

    squared_distances: NDArray[np.float64]
    sample_ids: NDArray[np.int64]
    positions: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LiveSegment:
    """A segment as one index sees it.

    Attributes:
        item_indexes: (v,) int64 of the segment's slots, -1 where the catalogue has no such item.
        dead: (m,) int64 ascending.
        search: None where nothing is to be searched.
    """

    segment: Segment
    item_indexes: NDArray[np.int64]
    dead: NDArray[np.int64]
    search: SegmentSearch | None = None

    @property
    def num_live(self) -> int:
        return len(self.segment) - len(self.dead)

    def live_positions(self) -> NDArray[np.int64]:
        """Positions of the entries that count, ascending."""
        is_live = np.ones(len(self.segment), dtype=np.bool_)
        is_live[self.dead] = False
        return np.flatnonzero(is_live)

    def nearest(self, queries: NDArray[np.float32], num_neighbors: int) -> Neighbors:
        """(b, m) nearest live entries, m the smaller of num_neighbors and the live entries; positions in the segment."""
        assert self.search is not None
        dead = self.dead if len(self.dead) else None
        found = self.search.nearest(queries, min(num_neighbors, self.num_live), dead=dead)
        sample_ids = np.where(found.positions >= 0, self.segment.sample_ids[found.positions], -1)
        return Neighbors(found.keys, sample_ids, found.positions)


@dataclass(frozen=True, eq=False)
class Shard:
    """Statistics of a shard, and its entries in segments; None where it was loaded or built without entries.

    A position counts through the segments, dead entries included. ``titles`` are of all its items, also those without entries; without
    them, or without ``pairs``, there are none.
    """

    statistics: ItemStatistics
    segments: tuple[LiveSegment, ...] | None
    device: str = "cpu"
    titles: TitleStates | None = None
    pairs: ItemPairs | None = None

    def __len__(self) -> int:
        """Live entries, also where they are not loaded."""
        return self.statistics.num_entries

    @property
    def has_entries(self) -> bool:
        return self.segments is not None

    @property
    def live_segments(self) -> tuple[LiveSegment, ...]:
        """The segments; ArtefactError where the shard has no entries."""
        if self.segments is None:
            raise ArtefactError(
                "This index was built or loaded with item statistics alone, so it has no entries to search or explain with; decode with "
                "global or whitened, or build and load it with entries (index.kind other than statistics)."
            )
        return self.segments

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """(s + 1,) position of each segment's first entry, and of the end."""
        return np.cumsum([0, *(len(live.segment) for live in self.live_segments)])

    def nearest(self, queries: NDArray[np.float32], num_neighbors: int) -> Neighbors:
        """The nearest live entries of queries (b, d); m is the smaller of num_neighbors and the shard's entries."""
        parts = [live.nearest(queries, num_neighbors) for live in self.live_segments]
        nothing = np.zeros((len(queries), 0))
        distances = np.concatenate([nothing, *(part.squared_distances for part in parts)], axis=1)
        sample_ids = np.concatenate([nothing.astype(np.int64), *(part.sample_ids for part in parts)], axis=1)
        starts = self._starts.tolist()
        shifted = [np.where(p.positions >= 0, p.positions + start, -1) for p, start in zip(parts, starts, strict=False)]
        positions = np.concatenate([nothing.astype(np.int64), *shifted], axis=1)
        if len(parts) > 1:
            order = np.lexsort((sample_ids, distances), axis=1)[:, :num_neighbors]
            distances, sample_ids, positions = (np.take_along_axis(a, order, axis=1) for a in (distances, sample_ids, positions))
        return Neighbors(distances, sample_ids, positions)

    def items_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Item indexes (m,) of the entries at positions (m,)."""
        found = np.empty(len(positions), dtype=np.int64)
        for live, chosen, places in self._by_segment(positions):
            found[chosen] = live.item_indexes[live.segment.item_slots[places]]
        return found

    def vectors_at(self, positions: NDArray[np.int64]) -> NDArray[np.float16]:
        """Vectors (m, d) of the entries at positions (m,)."""
        found = np.empty((len(positions), self.statistics.sums.shape[1]), dtype=np.float16)
        for live, chosen, places in self._by_segment(positions):
            found[chosen] = live.segment.vectors[places]
        return found

    def sample_ids_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """sample_ids (m,) of the entries at positions (m,)."""
        found = np.empty(len(positions), dtype=np.int64)
        for live, chosen, places in self._by_segment(positions):
            found[chosen] = live.segment.sample_ids[places]
        return found

    def live_positions(self) -> NDArray[np.int64]:
        """Positions (n,) of all live entries, ascending."""
        starts = self._starts.tolist()
        blocks = [live.live_positions() + start for live, start in zip(self.live_segments, starts, strict=False)]
        return np.concatenate([np.zeros(0, dtype=np.int64), *blocks])

    def positions_of_item(self, item_index: int) -> NDArray[np.int64]:
        """Positions (m,) of an item's live entries, ascending; all entries of an item are in one shard."""
        found = [np.zeros(0, dtype=np.int64)]
        for live, start in zip(self.live_segments, self._starts.tolist(), strict=False):
            for slot in np.flatnonzero(live.item_indexes == item_index):
                first, last = np.searchsorted(live.segment.item_slots, [slot, slot + 1])
                found.append(np.setdiff1d(np.arange(first, last), live.dead) + start)
        return np.concatenate(found)

    def _by_segment(self, positions: NDArray[np.int64]) -> list[tuple[LiveSegment, NDArray[np.int64], NDArray[np.int64]]]:
        """For each segment concerned: it, which of the positions are in it, and these as positions in the segment."""
        numbers = np.searchsorted(self._starts, positions, side="right") - 1
        found = []
        for number in np.unique(numbers):
            chosen = np.flatnonzero(numbers == number)
            found.append((self.live_segments[number], chosen, positions[chosen] - self._starts[number]))
        return found


def shard_of_arrays(
    sample_ids: NDArray[np.int64],
    item_indexes: NDArray[np.int64],
    vectors: NDArray[np.float16],
    statistics: ItemStatistics,
    *,
    device: str = "cpu",
) -> Shard:
    """A shard of one segment that is wholly in memory, searched exactly; entries in any order."""
    order = np.lexsort((sample_ids, item_indexes))
    items, slots = np.unique(item_indexes[order], return_inverse=True)
    times, checksums = np.full(len(order), NO_TIMESTAMP), np.zeros(len(order), dtype=np.uint64)
    segment = Segment(vectors[order], sample_ids[order], slots.astype(np.int32), times, checksums)
    search = ExactSearch(segment.vectors, segment.sample_ids, device=device)
    live = LiveSegment(segment, items.astype(np.int64), np.zeros(0, dtype=np.int64), search)
    return Shard(statistics, (live,) if len(order) else (), device)


def load_shard(folder: Path, *, device: str = "cpu", with_entries: bool = True, with_pairs: bool = True) -> Shard:
    """Read a shard, every file that is used compared with its hash; ArtefactError names the file that differs.

    Without entries (or where the index has none) no file of an entry is opened, without pairs none of them.
    """
    summary = read_summary(folder / SUMMARY)
    statistics, pairs = read_statistics(summary), read_pairs(summary) if with_pairs else None
    if not with_entries or summary.fields["kind"] == "statistics":
        return Shard(statistics, None, device, pairs=pairs)
    segments = tuple(load_segment(summary, name, device=device) for name in summary.fields["segments"])
    return Shard(statistics, segments, device, pairs=pairs)


def read_statistics(summary: Summary) -> ItemStatistics:
    """The verified statistics of a shard, sums memory-mapped."""
    return ItemStatistics(**{field: summary.array(f"{name}.npy", in_memory=name != "sums") for name, field in ARRAY_TO_FIELD.items()})


def load_segment(summary: Summary, name: str, *, device: str | None) -> LiveSegment:
    """A verified segment of the shard; without a device it cannot be searched, and its vectors and codes are not verified."""
    folder = summary.verified(f"{name}/{SEGMENT_SUMMARY}").parent
    segment = open_segment(folder, with_vectors_verified=device is not None)
    search = None if device is None else open_search(folder, segment, device=device)
    return LiveSegment(segment, summary.array(f"{name}.items.npy"), summary.array(f"{name}.dead.npy"), search)


def verify_shard(folder: Path, *, with_entries: bool = True) -> None:
    """Compare every file of a shard with its hash, keeping nothing; ArtefactError names the file that differs."""
    summary = read_summary(folder / SUMMARY)
    needed = {f"{name}.npy" for name in ARRAY_TO_FIELD}.union(PAIRS_FILES) & summary.files.keys()
    for name in summary.files if with_entries else needed:
        summary.verified(name)
    for name in summary.fields["segments"] if with_entries else ():
        open_segment(folder / name)


def is_sealed(folder: Path) -> bool:
    return (folder / SUMMARY).is_file()
