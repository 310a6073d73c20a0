"""One pass over the lower bounds of a segment's rows for a batch of queries: exact nearest rows.

A row is looked at in full only where its bound is not above the query's limit, the k-th smallest distance known so far. The first limits
come from rows spread evenly over the segment (neighbours often stand together, since a shard is sorted by item); every block of
bounds then lowers them, and within what is left of a block the smallest bounds are refined first.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from l2d_ray.index.pruning import BoundQueries, PrunedRows
from l2d_ray.index.search import Smallest, squared_distances

SEED_ROWS = 16384
BLOCK_FLOATS = 1 << 20
"""Bounds held at a time: 4 MB, so that they stay in the cache."""
MIN_BLOCK_ROWS = 4096
WAITING_PER_NEIGHBOR = 64
"""Rows that wait before the smallest bounds among them are refined: the more wait, the fewer are refined in vain."""


class NearestSoFar:
    """The nearest rows of one query among those seen, and the rows that wait for their distance."""

    def __init__(self, query: NDArray[np.float32], vectors: NDArray[np.float16], sample_ids: NDArray[np.int64], k: int) -> None:
        self._query, self._vectors, self._sample_ids, self.k = query, vectors, sample_ids, k
        self.positions, self.keys = np.zeros(0, dtype=np.int64), np.zeros(0)
        self.limit = np.inf
        self._seeds = self.positions
        self._waiting: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
        self._num_waiting = 0

    def seed(self, positions: NDArray[np.int64]) -> None:
        """Take in rows (ascending) that give a first limit; when the scan meets them again they are passed over."""
        self._seeds = positions
        self._merge(positions)

    def put(self, positions: NDArray[np.int64], bounds: NDArray[np.float64]) -> bool:
        """Let rows wait; true where there are enough to be refined."""
        self._waiting.append((positions, bounds))
        self._num_waiting += len(positions)
        return self._num_waiting >= WAITING_PER_NEIGHBOR * self.k

    def refine(self) -> None:
        """Full distances of the waiting rows, smallest bounds first, as far as the limit demands."""
        if not self._waiting:
            return
        positions, bounds = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting, self._num_waiting = [], 0
        order = np.argsort(bounds)
        for start in range(0, len(order), self.k):
            chunk = order[start : start + self.k]
            chunk = positions[chunk[bounds[chunk] <= self.limit]]
            if not len(chunk):
                return
            self._merge(np.setdiff1d(chunk, self._seeds, assume_unique=True))

    def _merge(self, positions: NDArray[np.int64]) -> None:
        rows = np.concatenate([self.positions, positions])
        keys = np.concatenate([self.keys, squared_distances(self._query, self._vectors[positions])])
        nearest = np.lexsort((self._sample_ids[rows], keys))[: self.k]
        self.positions, self.keys = rows[nearest], keys[nearest]
        if len(nearest) == self.k:
            self.limit = min(self.limit, float(self.keys[-1]))


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
    nearest = [NearestSoFar(query, vectors, sample_ids, k) for query in queries]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        _Pass(rows, rows.bound_queries(queries), is_dead, pool).run(nearest)
    for row, found in enumerate(nearest):
        result.put(row, found.positions, found.keys)
    return result


class _Pass:
    """Bounds block by block, in one buffer."""

    def __init__(self, rows: PrunedRows, queries: BoundQueries, is_dead: NDArray[np.bool_], pool: ThreadPoolExecutor) -> None:
        self._rows, self._queries, self._is_dead, self._pool = rows, queries, is_dead, pool
        self._shift = queries.squared_norms - queries.errors
        self._block_rows = max(MIN_BLOCK_ROWS, BLOCK_FLOATS // len(self._shift))
        self._buffer = torch.empty(len(self._shift) * max(self._block_rows, 2 * SEED_ROWS))

    def run(self, nearest: list[NearestSoFar]) -> None:
        self._seed(nearest)
        for start in range(0, len(self._rows), self._block_rows):
            self._take_block(slice(start, min(start + self._block_rows, len(self._rows))), nearest)
        self._refine(nearest)

    def _products(self, rows: slice) -> NDArray[np.float32]:
        products = self._rows.products(self._queries, rows, self._buffer)
        if self._is_dead[rows].any():
            products[:, self._is_dead[rows]] = np.inf
        return products

    def _seed(self, nearest: list[NearestSoFar]) -> None:
        step = max(1, len(self._rows) // SEED_ROWS)
        products = self._products(slice(0, len(self._rows), step))
        k = min(nearest[0].k, products.shape[1])
        smallest = np.argpartition(products, k - 1, axis=1)[:, :k]
        is_alive = np.isfinite(np.take_along_axis(products, smallest, axis=1))
        seeds = [step * np.sort(found[alive]) for found, alive in zip(smallest, is_alive, strict=True)]
        list(self._pool.map(NearestSoFar.seed, nearest, seeds))

    def _take_block(self, rows: slice, nearest: list[NearestSoFar]) -> None:
        products = self._products(rows)
        limits = (np.array([found.limit for found in nearest]) - self._shift).astype(np.float32)
        limits = np.minimum(np.nextafter(limits, np.float32(np.inf)), np.finfo(np.float32).max)  # dead rows stand at infinity
        below = np.flatnonzero(products <= limits[:, None])
        queries, columns = np.divmod(below, products.shape[1])
        bounds = products.reshape(-1)[below] + self._shift[queries]
        edges = np.searchsorted(queries, np.arange(len(nearest) + 1))
        full = [
            found
            for found, start, stop in zip(nearest, edges[:-1], edges[1:], strict=True)
            if stop > start and found.put(rows.start + columns[start:stop], bounds[start:stop])
        ]
        self._refine(full)

    def _refine(self, nearest: list[NearestSoFar]) -> None:
        list(self._pool.map(NearestSoFar.refine, nearest))
