"""L2D-L, a shard's side: an item is represented by the mean of its entries among the ``num_neighbors`` nearest in the WHOLE memory.

Exact over shards by shipping scalars: all entries of an item are in one shard, so a shard sorts its nearest entries by (distance,
sample_id) and sends, for the k-th of them, ``prefix``: the squared distance from the query to the mean of that item's entries among
its first k. The survivors of the global cut are a prefix of every shard's list, so the prefix of an item's last survivor is the item's
distance. ``decode.local_merge`` asks and merges.

Law (tested): with num_neighbors >= all entries the result equals L2D-G's bit for bit, which is why a prefix travels in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from l2d_ray.index.search import squared_distances
from l2d_ray.index.shard import Neighbors, Shard

ENTRY: Final = np.dtype([("squared_distance", "<f8"), ("sample_id", "<i8"), ("prefix", "<f8"), ("item_index", "<i4")])
"""An entry as it travels, 28 bytes. Distances and sample_ids decide who survives and prefixes who is ranked first, so these are sent
whole; an item_index has 31 bits of room."""

PREFIX_BLOCK = 4096
"""Vectors widened to float64 at once, whatever num_neighbors is."""


@dataclass(frozen=True, eq=False)
class Keys:
    """What entries are ordered by, one pair a query: by squared distance, then by sample_id."""

    squared_distances: NDArray[np.float64]
    sample_ids: NDArray[np.int64]

    def at(self, which: Any) -> Keys:
        """The keys at an index of the arrays."""
        return Keys(self.squared_distances[which], self.sample_ids[which])


@dataclass(frozen=True, eq=False)
class LocalRequest:
    """Which of its nearest entries a shard is asked for, by b queries.

    Attributes:
        queries: (b, d) float32.
        limits: (b,) int64, only the so many nearest entries of the shard are wanted,
        after: of these only such as come after that key (what comes before has been sent); None in the first round,
        until: and not after that one (what comes after cannot survive); None in the first round.
    """

    queries: NDArray[np.float32]
    limits: NDArray[np.int64]
    after: Keys | None = None
    until: Keys | None = None


@dataclass(frozen=True, eq=False)
class LocalCandidates:
    """A shard's answer to b queries, without padding: the first query's entries, then the second's, each in ascending order.

    Attributes:
        lengths: (b,) int32, entries of each query.
        entries: (sum of lengths,) ENTRY.
    """

    lengths: NDArray[np.int32]
    entries: NDArray[np.void]

    def __reduce__(self) -> tuple[Callable[[bytes, bytes], LocalCandidates], tuple[bytes, bytes]]:
        """Pickled as plain bytes: numpy's own frame, 400 bytes, would outweigh the dozen entries of one shard among many."""
        return _unpickled, (self.lengths.tobytes(), self.entries.tobytes())


def _unpickled(lengths: bytes, entries: bytes) -> LocalCandidates:
    return LocalCandidates(np.frombuffer(lengths, dtype=np.int32), np.frombuffer(entries, dtype=ENTRY))


def local_candidates(shard: Shard, request: LocalRequest) -> LocalCandidates:
    """What a shard sends. An approximate index may find other entries for another limit; none is sent twice for that."""
    found = shard.nearest(request.queries, int(request.limits.max(initial=0)))
    is_wanted = (found.positions >= 0) & (np.arange(found.positions.shape[1]) < request.limits[:, None])
    starts = (
        np.zeros(len(is_wanted), dtype=np.int64) if request.after is None else (is_wanted & ~_is_beyond(found, request.after)).sum(axis=1)
    )
    stops = (is_wanted if request.until is None else is_wanted & ~_is_beyond(found, request.until)).sum(axis=1)
    lengths = np.maximum(stops - starts, 0).astype(np.int32)
    entries = np.empty(int(lengths.sum()), dtype=ENTRY)
    offsets = np.cumsum(lengths) - lengths
    for query in np.flatnonzero(lengths):
        start, stop = int(starts[query]), int(stops[query])
        mine = entries[offsets[query] : offsets[query] + lengths[query]]
        mine["squared_distance"] = found.squared_distances[query, start:stop]
        mine["sample_id"] = found.sample_ids[query, start:stop]
        positions = found.positions[query, :stop]
        items = shard.items_at(positions)
        mine["item_index"] = items[start:]
        mine["prefix"] = _prefixes(shard, request.queries[query], positions, items=items, start=start)
    return LocalCandidates(lengths, entries)


def _is_beyond(found: Neighbors, keys: Keys) -> NDArray[np.bool_]:
    """(b, m): whether an entry comes after its query's key."""
    limits = keys.squared_distances[:, None]
    is_tied = found.squared_distances == limits
    is_beyond: NDArray[np.bool_] = (found.squared_distances > limits) | (is_tied & (found.sample_ids > keys.sample_ids[:, None]))
    return is_beyond


def _prefixes(
    shard: Shard, query: NDArray[np.float32], positions: NDArray[np.int64], *, items: NDArray[np.int64], start: int
) -> NDArray[np.float64]:
    """(m - start,) squared distance from the query to the running mean of each entry's item, for the entries from ``start`` on.

    Sums of float16 are exact in float64 (see memory.statistics), so they may be added up in blocks and across items.

    Args:
        positions: (m,) of the nearest entries in ascending order, items: (m,) theirs.
    """
    relevant = np.flatnonzero(np.isin(items, items[start:])) if start else np.arange(len(items))
    order = relevant[np.argsort(items[relevant], kind="stable")]
    sorted_items = items[order]
    starts = np.flatnonzero(np.diff(sorted_items, prepend=sorted_items[:1] - 1))
    first = np.repeat(starts, np.diff(starts, append=len(order)))
    prefixes = np.empty(len(items))
    carried = np.zeros(len(query))
    for begin in range(0, len(order), PREFIX_BLOCK):
        rows, places = order[begin : begin + PREFIX_BLOCK], first[begin : begin + PREFIX_BLOCK] - begin
        vectors = shard.vectors_at(positions[rows]).astype(np.float64)
        running = np.cumsum(vectors, axis=0)
        before = (running - vectors)[places.clip(min=0)]
        before[places < 0] = -carried
        sums = running - before
        counts = np.arange(len(rows)) - places + 1
        prefixes[rows] = squared_distances(query, (sums / counts[:, None]).astype(np.float32))
        carried = sums[-1]
    return prefixes[start:]
