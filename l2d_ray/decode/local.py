"""L2D-L: an item's representation is the mean of its entries among the query's ``num_neighbors`` nearest in the WHOLE memory.

Exact over shards in one round that ships scalars: all entries of an item are in one shard, so a shard sorts its nearest
entries and sends, for the k-th of them, ``prefix_k``: the squared distance from the query to the mean of that item's entries among
its first k. The survivors of the global cut are a prefix of every shard's list, so the prefix of an item's last survivor is its distance.

Laws (tested): with num_neighbors >= all entries the result equals L2D-G's bit for bit; any partition gives the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from l2d_ray.decode.linear import Excluded
from l2d_ray.decode.topk import TopK, rank
from l2d_ray.index.search import squared_distances
from l2d_ray.index.shard import Shard


@dataclass(frozen=True, eq=False)
class LocalCandidates:
    """A shard's nearest entries of b queries, ascending by (distance, sample_id), padded with inf and -1; all arrays (b, m)."""

    squared_distances: NDArray[np.float64]
    sample_ids: NDArray[np.int64]
    item_indexes: NDArray[np.int64]
    prefixes: NDArray[np.float64]


def local_candidates(shard: Shard, queries: NDArray[np.float32], num_neighbors: int) -> LocalCandidates:
    """What a shard sends for queries (b, d)."""
    found = shard.nearest(queries, num_neighbors)
    items = np.full(found.positions.shape, -1, dtype=np.int64)
    prefixes = np.full(found.positions.shape, np.inf)
    for query, positions in enumerate(found.positions):
        real = positions[positions >= 0]
        items[query, : len(real)] = shard.items_at(real)
        prefixes[query, : len(real)] = _prefixes(queries[query], shard.vectors_at(real), items[query, : len(real)])
    return LocalCandidates(found.squared_distances, found.sample_ids, items, prefixes)


def merge_local(parts: Sequence[LocalCandidates], k: int, *, num_neighbors: int, excluded: Excluded | None = None) -> TopK:
    """The k items whose local mean is nearest; scores are negated squared distances. Fewer than k items leave padding."""
    distances, sample_ids, items, prefixes = (
        np.concatenate([getattr(part, name) for part in parts], axis=1)
        for name in ("squared_distances", "sample_ids", "item_indexes", "prefixes")
    )
    order = np.lexsort((sample_ids, distances), axis=1)[:, :num_neighbors]
    items, prefixes = np.take_along_axis(items, order, axis=1), np.take_along_axis(prefixes, order, axis=1)
    is_last = _is_last_of_item(items)
    for query, banned in enumerate(excluded or ()):
        is_last[query] &= ~np.isin(items[query], banned)
    return rank(np.where(is_last, items, -1), -prefixes, k)


def _prefixes(query: NDArray[np.float32], vectors: NDArray[np.float16], items: NDArray[np.int64]) -> NDArray[np.float64]:
    """(m,) squared distance from the query to the running mean of each entry's item, entries in the order given.

    Sums of float16 are exact in float64, so a running sum over all items less the sum before the item's first entry is exact too.
    """
    order = np.argsort(items, kind="stable")
    sorted_items = items[order]
    starts = np.flatnonzero(np.diff(sorted_items, prepend=-1))
    lengths = np.diff(starts, append=len(items))
    first = np.repeat(starts, lengths)
    running = np.cumsum(vectors[order].astype(np.float64), axis=0)
    before = running[first] - vectors[order][first].astype(np.float64)
    counts = np.arange(len(items)) - first + 1
    means = ((running - before) / counts[:, None]).astype(np.float32)
    prefixes = np.empty(len(items))
    prefixes[order] = squared_distances(query, means)
    return prefixes


def _is_last_of_item(items: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(b, m): whether no later entry of the row is of the same item; padding (-1) is never."""
    order = np.argsort(items, axis=1, kind="stable")
    ranked = np.take_along_axis(items, order, axis=1)
    ends = np.ones(items.shape, dtype=np.bool_)
    ends[:, :-1] = ranked[:, 1:] != ranked[:, :-1]
    is_last = np.empty(items.shape, dtype=np.bool_)
    np.put_along_axis(is_last, order, ends, axis=1)
    return is_last & (items >= 0)
