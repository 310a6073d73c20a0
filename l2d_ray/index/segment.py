"""A segment: some entries of a shard in a folder that never changes, so that indexes of many memory versions can share it.

Files, entries sorted by (item, sample_id), arrays memory-mapped when they are read:

    vectors.npy (n, d) float16 · sample_ids.npy (n,) int64 · item_slots.npy (n,) int32 · timestamps.npy (n,) int32 or int64
    checksums.npy (n,) uint64 · items.parquet (v rows: item_id, ascending) · codes.faiss where the kind is compressed
    segment.json   written last

An item slot is a position in the segment's own items, not in a catalogue: a catalogue may grow without the segment being touched.
Written by two passes over a stream of rows: the first reads keys and finds each row's place, the second writes vectors to their places.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.errors import ArtefactError
from l2d_ray.index.compressed import CODES, CompressedSearch
from l2d_ray.index.exact import ExactSearch
from l2d_ray.index.kinds import Kind, SegmentSearch
from l2d_ray.index.sealed import load_array, read_summary, seal
from l2d_ray.memory.checksums import KEY_BITS, vector_halves

SUMMARY: Final = "segment.json"
ARRAYS: Final = ("vectors", "sample_ids", "item_slots", "timestamps", "checksums")
ITEMS: Final = "items.parquet"
BLOCK_ROWS: Final = 8192


class Rows(Protocol):
    """A block of rows to be written; ``EntryBatch`` of the memory is one."""

    @property
    def sample_ids(self) -> NDArray[np.int64]: ...
    @property
    def item_ids(self) -> pa.StringArray: ...
    @property
    def timestamps(self) -> NDArray[np.int64]: ...
    @property
    def checksums(self) -> NDArray[np.uint64]: ...
    @property
    def vectors(self) -> NDArray[np.float16] | None: ...


@dataclass(frozen=True, eq=False)
class SegmentRows:
    """Rows read back from a segment."""

    sample_ids: NDArray[np.int64]
    item_ids: pa.StringArray
    timestamps: NDArray[np.int64]
    checksums: NDArray[np.uint64]
    vectors: NDArray[np.float16]


@dataclass(frozen=True, eq=False)
class RowKeys:
    """What the first pass found: keys of n rows, in the order of their stream; item_indexes refer to a catalogue."""

    sample_ids: NDArray[np.int64]
    item_indexes: NDArray[np.int32]
    timestamps: NDArray[np.int64]
    checksums: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.sample_ids)

    @classmethod
    def joined(cls, parts: Sequence[RowKeys]) -> RowKeys:
        """The keys of one stream after the other; at least one."""
        names = ("sample_ids", "item_indexes", "timestamps", "checksums")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def check_unique(self, source: str) -> None:
        """ArtefactError, beginning with ``source``, where a sample_id stands twice."""
        if len(np.unique(self.sample_ids)) != len(self):
            raise ArtefactError(f"{source} holds a sample_id twice; build the memory again.")


@dataclass(frozen=True, eq=False)
class Segment:
    """n entries, dead ones included; arrays as in the module's list."""

    vectors: NDArray[np.float16]
    sample_ids: NDArray[np.int64]
    item_slots: NDArray[np.int32]
    timestamps: NDArray[np.integer]
    checksums: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.sample_ids)

    def rows(self, positions: NDArray[np.int64], item_ids: pa.StringArray, *, where: Path) -> Iterator[SegmentRows]:
        """The rows at positions (m,) in blocks, vectors compared with their checksums; ArtefactError names the file that differs."""
        for start in range(0, len(positions), BLOCK_ROWS):
            chosen = positions[start : start + BLOCK_ROWS]
            vectors, checksums = self.vectors[chosen], self.checksums[chosen]
            if not np.array_equal(vector_halves(vectors), checksums & np.uint64(2 ** int(KEY_BITS) - 1)):
                raise ArtefactError(
                    f"{where / 'vectors.npy'} was changed since it was built; delete the index and run jobs.build_index again."
                )
            items = item_ids.take(pa.array(self.item_slots[chosen]))
            yield SegmentRows(self.sample_ids[chosen], items, self.timestamps[chosen].astype(np.int64), checksums, vectors)


def read_keys(rows: Iterable[Rows], catalogue: Catalogue, *, source: str) -> RowKeys:
    """First pass. ArtefactError, beginning with ``source``, where the catalogue lacks an item."""
    nothing = RowKeys(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.uint64))
    blocks = (RowKeys(b.sample_ids, item_indexes_of(b.item_ids, catalogue, source), b.timestamps, b.checksums) for b in rows)
    return RowKeys.joined([nothing, *blocks])


def item_indexes_of(item_ids: pa.StringArray, catalogue: Catalogue, source: str) -> NDArray[np.int32]:
    """(n,) positions in the catalogue, looked up once for each distinct item; ArtefactError names an item that it lacks."""
    encoded = item_ids.dictionary_encode()
    distinct = [catalogue.item_id_to_index.get(item_id, -1) for item_id in encoded.dictionary.to_pylist()]
    if -1 in distinct:
        unknown = encoded.dictionary[distinct.index(-1)].as_py()
        raise ArtefactError(f"{source} holds item {unknown!r}, which its catalogue lacks; build the memory again.")
    indexes: NDArray[np.int32] = np.array(distinct, dtype=np.int32)[encoded.indices.to_numpy()]
    return indexes


def write_segment(folder: Path, keys: RowKeys, rows: Iterable[Rows], *, catalogue: Catalogue, dim: int, kind: Kind) -> Segment:
    """Second pass, over the rows of the first in the same order; at least one row.

    Its slots are the distinct items of the keys, ascending. ArtefactError where a vector holds NaN or infinite values.
    """
    folder.mkdir(parents=True)
    order = np.lexsort((keys.sample_ids, keys.item_indexes))
    vectors = _allocate_vectors(folder / "vectors.npy", len(keys), dim)
    _place_vectors(vectors, keys, order, rows)
    items, slots = np.unique(keys.item_indexes[order], return_inverse=True)
    segment = Segment(vectors, keys.sample_ids[order], slots.astype(np.int32), _narrowed(keys.timestamps[order]), keys.checksums[order])
    for name in ARRAYS[1:]:
        np.save(folder / f"{name}.npy", getattr(segment, name))
    item_ids = pa.array([catalogue.item_ids[index] for index in items], type=pa.string())
    pq.write_table(pa.table({"item_id": item_ids}), folder / ITEMS)
    if kind == "compressed":
        CompressedSearch.build(vectors, folder)
        num_bytes = (folder / CODES).stat().st_size
    else:
        num_bytes = ExactSearch(vectors, segment.sample_ids).num_bytes
    files = [path.name for path in sorted(folder.iterdir())]
    seal(folder / SUMMARY, {"num_entries": len(keys), "dim": dim, "kind": kind, "search_bytes": num_bytes}, files)
    return segment


def open_segment(folder: Path, *, with_vectors_verified: bool = True) -> Segment:
    """A segment's arrays, every file compared with its hash (``vectors.npy`` and codes only where asked for)."""
    summary = read_summary(folder / SUMMARY)
    trusted = () if with_vectors_verified else ("vectors.npy", CODES)
    for name in summary.files:
        if name not in trusted:
            summary.verified(name)
    return Segment(*(load_array(folder / f"{name}.npy", in_memory=False) for name in ARRAYS))


def read_item_ids(folder: Path) -> pa.StringArray:
    """(v,) the item_ids of a segment's slots."""
    path = read_summary(folder / SUMMARY).verified(ITEMS)
    return pq.read_table(path)["item_id"].combine_chunks()


def open_search(folder: Path, segment: Segment, *, device: str) -> SegmentSearch:
    """The search of a verified segment, ready to answer."""
    if kind_of(folder) == "compressed":
        return CompressedSearch.open(folder, segment.vectors, segment.sample_ids)
    return ExactSearch(segment.vectors, segment.sample_ids, device=device)


def kind_of(folder: Path) -> Kind:
    kind: Kind = read_summary(folder / SUMMARY).fields["kind"]
    return kind


def search_bytes(folder: Path) -> int:
    """Bytes that serving on a CPU keeps in memory to search a segment; what is memory-mapped is not counted."""
    found: int = read_summary(folder / SUMMARY).fields["search_bytes"]
    return found


def _allocate_vectors(path: Path, num_entries: int, dim: int) -> NDArray[np.float16]:
    """A memory-mapped array to be filled. OSError where the disk has no room for it: found here, since writing to the map would crash."""
    vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(num_entries, dim))
    if sys.platform == "linux":
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return vectors


def _place_vectors(vectors: NDArray[np.float16], keys: RowKeys, order: NDArray[np.int64], rows: Iterable[Rows]) -> None:
    """Write the stream's vectors where ``order`` has them."""
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    done = 0
    for block in rows:
        assert block.vectors is not None
        stop = done + len(block.vectors)
        assert np.array_equal(keys.sample_ids[done:stop], block.sample_ids)
        is_finite = np.isfinite(block.vectors).all(axis=1)
        if not is_finite.all():
            sample_id = block.sample_ids[~is_finite][0]
            raise ArtefactError(
                f"The vector of sample {sample_id} holds NaN or infinite values, wanted finite ones; build the memory again."
            )
        vectors[places[done:stop]] = block.vectors
        done = stop
    assert done == len(keys)
    if isinstance(vectors, np.memmap):
        vectors.flush()


def _narrowed(timestamps: NDArray[np.int64]) -> NDArray[np.integer]:
    """The same numbers in 32 bits where they fit."""
    limits = np.iinfo(np.int32)
    fits = len(timestamps) == 0 or (timestamps.min() >= limits.min and timestamps.max() <= limits.max)
    return timestamps.astype(np.int32) if fits else timestamps
