"""One shard of the index: all entries of the items in a range of buckets, and those items' statistics.

Files of a shard's folder (plain arrays, memory-mapped where large, never pickled), entries sorted by (item_index, sample_id):

    vectors.npy (n, d) float16 · sample_ids.npy (n,) int64 · item_indexes.npy (n,) int64
    items.npy (v,) · counts.npy (v,) · sums.npy (v, d) float64 · last_timestamps.npy (v,) · scatter.npy (d, d) float64
    shard.json   counts, the size and hash of every file; written last
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from l2d_ray.errors import ArtefactError
from l2d_ray.index.search import RowBlocks, smallest, squared_distances
from l2d_ray.memory.statistics import ItemStatistics
from l2d_ray.schema import NUM_BUCKETS

SUMMARY = "shard.json"
STATISTICS_FILES = ("items", "counts", "sums", "last_timestamps", "scatter")
ENTRY_FILES = ("vectors", "sample_ids", "item_indexes")


def buckets_of_shard(shard: int, num_shards: int) -> range:
    """The contiguous buckets of a shard; the shards' ranges are disjoint and cover all buckets."""
    return range(-(-shard * NUM_BUCKETS // num_shards), -(-(shard + 1) * NUM_BUCKETS // num_shards))


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
class Shard:
    """Entries and statistics of a shard; arrays as in the module's list."""

    sample_ids: NDArray[np.int64]
    item_indexes: NDArray[np.int64]
    vectors: NDArray[np.float16]
    statistics: ItemStatistics
    device: str = "cpu"

    def __len__(self) -> int:
        return len(self.sample_ids)

    @cached_property
    def _blocks(self) -> RowBlocks:
        return RowBlocks(self.vectors, device=self.device)

    def nearest(self, queries: NDArray[np.float32], num_neighbors: int) -> Neighbors:
        """The nearest entries of queries (b, d), exactly; m is the smaller of num_neighbors and the shard's entries."""
        found = smallest(
            queries,
            self._blocks,
            min(num_neighbors, len(self)),
            ids=self.sample_ids,
            exact_keys=lambda query, positions: squared_distances(queries[query], self.vectors[positions]),
            query_offsets=np.square(queries.astype(np.float64)).sum(axis=1),
        )
        is_real = found.positions >= 0
        ids = np.where(is_real, self.sample_ids[found.positions], -1) if len(self) else found.positions
        return Neighbors(found.keys, ids, found.positions)

    def items_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Item indexes (m,) of the entries at positions (m,)."""
        return self.item_indexes[positions]

    def vectors_at(self, positions: NDArray[np.int64]) -> NDArray[np.float16]:
        """Vectors (m, d) of the entries at positions (m,)."""
        return self.vectors[positions]


def write_shard(folder: Path, shard: Shard) -> None:
    """Write a shard that is wholly in memory; ``index.build`` streams large ones from a memory."""
    folder.mkdir(parents=True)
    for name in ENTRY_FILES:
        np.save(folder / f"{name}.npy", getattr(shard, name))
    write_statistics(folder, shard.statistics)
    seal_shard(folder)


def write_statistics(folder: Path, statistics: ItemStatistics) -> None:
    arrays = (statistics.item_indexes, statistics.counts, statistics.sums, statistics.last_timestamps, statistics.scatter)
    for name, array in zip(STATISTICS_FILES, arrays, strict=True):
        np.save(folder / f"{name}.npy", array)


def seal_shard(folder: Path) -> None:
    """Write ``shard.json`` with every file's size and hash: from then on the shard counts as whole."""
    files = {path.name: _identity(path) for path in sorted(folder.glob("*.npy"))}
    partial = folder / f"{SUMMARY}.partial"
    partial.write_text(json.dumps({"files": files}, indent=2) + "\n")
    partial.rename(folder / SUMMARY)


def is_sealed(folder: Path) -> bool:
    return (folder / SUMMARY).is_file()


def load_shard(folder: Path, *, device: str = "cpu") -> Shard:
    """Read a shard, every file checked against its hash; ArtefactError names the file that differs."""
    check_files(folder)
    statistics = load_statistics(folder)
    vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
    sample_ids, item_indexes = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("sample_ids", "item_indexes"))
    return Shard(sample_ids, item_indexes, vectors, statistics, device)


def load_statistics(folder: Path) -> ItemStatistics:
    return ItemStatistics(*(np.load(folder / f"{name}.npy", allow_pickle=False) for name in STATISTICS_FILES))


def check_files(folder: Path) -> None:
    """Raise ArtefactError unless every file of a sealed shard is there and unchanged."""
    try:
        files: dict[str, list[object]] = json.loads((folder / SUMMARY).read_text())["files"]
    except (OSError, ValueError, KeyError):
        raise ArtefactError(f"{folder / SUMMARY} is missing or damaged: the shard is not whole; run jobs.build_index again.") from None
    for name in (f"{stem}.npy" for stem in ENTRY_FILES + STATISTICS_FILES):
        path = folder / name
        if not path.is_file() or _identity(path) != files.get(name):
            raise ArtefactError(f"{path} is missing, truncated or changed since it was built; delete the index and run jobs.build_index.")


def _identity(path: Path) -> list[object]:
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            digest.update(chunk)
    return [path.stat().st_size, digest.hexdigest()]
