"""One pass over the lower bounds of a segment's rows for a batch of queries: exact nearest rows.

A row is looked at in full only where its bound is not above the query's limit, the k-th smallest distance known so far. The first limits
come from rows spread evenly over the segment (neighbours often stand together, since a shard is sorted by item); then all rows below the
limits wait, and are refined in the order of their bounds, which lowers the limits further. Refined means: the distance in float32, for
the whole batch at once, with a bounded error; float64 is for the few rows that remain at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from l2d_ray.index.pruning import PrunedRows
from l2d_ray.index.search import Smallest, close_by_query, may_be_nearest, nearest_of

SEED_ROWS = 16384
BLOCK_FLOATS = 1 << 20
"""Bounds held at a time: 4 MB, so that they stay in the cache."""
MIN_BLOCK_ROWS = 4096
WAITING_PER_NEIGHBOR = 64
"""Rows of a query that wait before they are refined: the more wait, the fewer are refined in vain."""
GROWTH = 4
"""The k smallest bounds are refined first, then that many times as many at a time, as far as the limit demands."""


class NearestSoFar:
    """The rows of one query that may be the nearest among those refined, and the rows that wait."""

    def __init__(self, k: int, dim: int) -> None:
        self._k, self._dim = k, dim
        self.limit = np.inf
        self.positions, self._close = np.zeros(0, dtype=np.int64), np.zeros(0)
        self._waiting: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
        self.num_waiting = 0

    def put(self, positions: NDArray[np.int64], bounds: NDArray[np.float64]) -> None:
        """Let rows wait."""
        self._waiting.append((positions, bounds))
        self.num_waiting += len(positions)

    def draw(self, count: int) -> NDArray[np.int64]:
        """At most ``count`` of the waiting rows, those of the smallest bounds; none where no bound is within the limit."""
        positions, bounds = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        within = np.flatnonzero(bounds <= self.limit)
        positions, bounds = positions[within], bounds[within]
        if len(bounds) <= count:
            self._waiting, self.num_waiting = [], 0
            return positions
        order = np.argpartition(bounds, count - 1)
        self._waiting, self.num_waiting = [(positions[order[count:]], bounds[order[count:]])], len(bounds) - count
        return positions[order[:count]]

    def take(self, positions: NDArray[np.int64], close: NDArray[np.float64]) -> None:
        """Rows that were refined, and their ``close_distances``."""
        positions, close = np.concatenate([self.positions, positions]), np.concatenate([self._close, close])
        kept, limit = may_be_nearest(close, self._k, dim=self._dim)
        self.positions, self._close = positions[kept], close[kept]
        self.limit = min(self.limit, limit)


def nearest_by_bounds(
    queries: NDArray[np.float32],
    rows: PrunedRows,
    k: int,
    *,
    vectors: NDArray[np.float16],
    sample_ids: NDArray[np.int64],
    dead: NDArray[np.int64] | None = None,
) -> Smallest:
    """The k rows of smallest (squared distance, sample_id) for each of queries (b, d), none of ``dead``, exactly."""
    result = Smallest.padding(len(queries), k)
    if not (len(queries) and len(rows) and k):
        return result
    is_dead = np.zeros(len(rows), dtype=np.bool_)
    is_dead[[] if dead is None else dead] = True
    for row, found in enumerate(_Scan(queries, rows, vectors, is_dead).run(k)):
        result.put(row, *nearest_of(queries[row], found.positions, k, vectors=vectors, sample_ids=sample_ids))
    return result


class _Scan:
    """Bounds block by block, in one buffer."""

    def __init__(self, queries: NDArray[np.float32], rows: PrunedRows, vectors: NDArray[np.float16], is_dead: NDArray[np.bool_]) -> None:
        self._queries, self._rows, self._vectors, self._is_dead = queries, rows, vectors, is_dead
        self._bounds = rows.bound_queries(queries)
        self._shift = self._bounds.squared_norms - self._bounds.errors
        self._block_rows = max(MIN_BLOCK_ROWS, BLOCK_FLOATS // len(queries))
        self._buffer = torch.empty(max(len(queries), 2) * max(self._block_rows, 2 * SEED_ROWS))

    def run(self, k: int) -> list[NearestSoFar]:
        nearest = [NearestSoFar(k, self._vectors.shape[1]) for _ in self._queries]
        seeds = self._seed(nearest, k)
        for start in range(0, len(self._rows), self._block_rows):
            self._take_block(slice(start, min(start + self._block_rows, len(self._rows))), nearest, seeds)
            if any(found.num_waiting >= WAITING_PER_NEIGHBOR * k for found in nearest):
                self._refine(nearest, k)
        self._refine(nearest, k)
        return nearest

    def _products(self, rows: slice) -> NDArray[np.float32]:
        products = self._rows.products(self._bounds, rows, self._buffer)
        if self._is_dead[rows].any():
            products[self._is_dead[rows]] = np.inf
        return products

    def _seed(self, nearest: list[NearestSoFar], k: int) -> NDArray[np.int64]:
        """Refine the k smallest bounds among rows spread evenly; returns them, (b, k) or fewer, to be passed over later."""
        step = max(1, len(self._rows) // SEED_ROWS)
        products = np.ascontiguousarray(self._products(slice(0, len(self._rows), step)).T)
        k = min(k, products.shape[1])
        smallest = np.argpartition(products, k - 1, axis=1)[:, :k]
        is_alive = np.isfinite(np.take_along_axis(products, smallest, axis=1))
        self._take(nearest, [step * found[alive] for found, alive in zip(smallest, is_alive, strict=True)])
        return step * smallest

    def _take_block(self, rows: slice, nearest: list[NearestSoFar], seeds: NDArray[np.int64]) -> None:
        products = self._products(rows)
        queries, places = np.nonzero((seeds >= rows.start) & (seeds < rows.stop))
        products[seeds[queries, places] - rows.start, queries] = np.inf
        limits = (np.array([found.limit for found in nearest]) - self._shift).astype(np.float32)
        limits = np.minimum(np.nextafter(limits, np.float32(np.inf)), np.finfo(np.float32).max)  # rows to pass over stand at infinity
        below = np.flatnonzero(np.ascontiguousarray((products <= limits).T))  # query by query
        queries, places = np.divmod(below, len(products))
        bounds = products[places, queries] + self._shift[queries]
        edges = np.searchsorted(queries, np.arange(len(nearest) + 1))
        for found, start, stop in zip(nearest, edges[:-1], edges[1:], strict=True):
            if stop > start:
                found.put(rows.start + places[start:stop], bounds[start:stop])

    def _refine(self, nearest: list[NearestSoFar], k: int) -> None:
        """Distances of the waiting rows, until no bound is within its query's limit."""
        count = k
        while any(found.num_waiting for found in nearest):
            self._take(nearest, [found.draw(count) if found.num_waiting else np.zeros(0, dtype=np.int64) for found in nearest])
            count *= GROWTH

    def _take(self, nearest: list[NearestSoFar], chunks: Sequence[NDArray[np.int64]]) -> None:
        for found, chunk, values in zip(nearest, chunks, close_by_query(self._queries, chunks, self._vectors), strict=True):
            if len(chunk):
                found.take(chunk, values)
