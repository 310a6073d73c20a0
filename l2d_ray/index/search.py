"""Exact search: the k rows with the smallest key, where key(v) = a + b_v - 2 q.r_v.

L2 distances (a = |q|^2, b = |r|^2) and linear scores have this form. A matrix product in float32 finds candidates on any device; the
candidates' keys are then computed anew in float64, row by row, so that a key never depends on the batch, the block or the shard
it was computed in. The float32 error is bounded, and a query whose candidates might miss a row (many near-ties) is searched again
with twice as many: the answer is exact, and ties go to the smaller id, always.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

UNIT_ROUNDOFF = 2.0**-24
SLACK = 32
"""Candidates taken beyond k in the first attempt."""
CHUNK_FLOATS = 32768
"""Numbers widened at a time: what fits the second-level cache, and what torch does on one thread."""

CLOSE_ROWS = 1024
"""Rows widened at a time by ``close_distances`` for a batch, on all threads: fewer pay for the threads' start, more leave the cache."""

ExactKeys = Callable[[int, NDArray[np.int64]], NDArray[np.float64]]
"""(query's position, rows' positions (m,)) -> their keys (m,) in float64."""


@dataclass(frozen=True, eq=False)
class Smallest:
    """positions (b, k) int64 padded with -1, keys (b, k) float64 padded with inf; ascending by (key, id)."""

    positions: NDArray[np.int64]
    keys: NDArray[np.float64]

    @classmethod
    def padding(cls, num_queries: int, k: int) -> Smallest:
        """Nothing found."""
        return cls(np.full((num_queries, k), -1, dtype=np.int64), np.full((num_queries, k), np.inf))

    def put(self, row: int, positions: NDArray[np.int64], keys: NDArray[np.float64]) -> None:
        """Fill a row, as far as there is something, while the result is being made."""
        self.positions[row, : len(positions)] = positions
        self.keys[row, : len(keys)] = keys


@dataclass(frozen=True, eq=False)
class KeyShifts:
    """What one query adds to the keys of some rows: positions (m,) int64 ascending, amounts (m,) float64 of either sign."""

    positions: NDArray[np.int64]
    amounts: NDArray[np.float64]

    def at(self, positions: NDArray[np.int64]) -> NDArray[np.float64]:
        """What is added (n,) to the keys of rows (n,); 0 for those that are not among them."""
        if not len(self.positions):
            return np.zeros(len(positions))
        places = np.searchsorted(self.positions, positions).clip(max=len(self.positions) - 1)
        return np.where(self.positions[places] == positions, self.amounts[places], 0.0)


class RowBlocks:
    """The rows r_v (n, d) and offsets b_v (n,) on a device, read in blocks of bounded size.

    Args:
        rows: (n, d) float16 or float32, may be memory-mapped.
        offsets: (n,) float32 or None for the rows' squared norms.
        cache_bytes: on the CPU a float32 copy of rows is kept where it is no larger than this; rows that are there in float32 are
            shared. Another device holds all rows in their own type and widens them block by block, so that none travels twice.
    """

    def __init__(
        self,
        rows: NDArray[np.floating],
        offsets: NDArray[np.floating] | None = None,
        *,
        device: str = "cpu",
        block_rows: int = 65536,
        cache_bytes: int = 1 << 30,
    ) -> None:
        self.device = device
        self._rows = rows
        self._block_rows = block_rows
        self._cached = self._resident() if device != "cpu" else self._load(0, len(rows)) if rows.size * 4 <= cache_bytes else None
        norms = np.concatenate([self._squared_norms(start) for start in range(0, len(rows), block_rows)] or [np.zeros(0)])
        self.offsets = torch.from_numpy((norms if offsets is None else offsets).astype(np.float32)).to(device)
        self.largest_norm = float(np.sqrt(norms.max(initial=0.0)))
        self.largest_offset = float(self.offsets.abs().max()) if len(rows) else 0.0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def num_bytes(self) -> int:
        """Bytes held beyond the rows themselves."""
        is_shared = self._cached is not None and self.device == "cpu" and _is_shareable(self._rows)
        return self.offsets.nbytes + (0 if self._cached is None or is_shared else self._cached.nbytes)

    def blocks(self) -> list[tuple[int, int]]:
        return [(s, min(s + self._block_rows, len(self))) for s in range(0, len(self), self._block_rows)]

    def block(self, start: int, stop: int) -> torch.Tensor:
        return self._load(start, stop) if self._cached is None else self._cached[start:stop].float()

    def _resident(self) -> torch.Tensor:
        """All rows on the device, copied block by block."""
        dtype = torch.from_numpy(np.zeros(0, dtype=self._rows.dtype)).dtype
        resident = torch.empty(self._rows.shape, dtype=dtype, device=self.device)
        for start, stop in self.blocks():
            resident[start:stop] = torch.from_numpy(np.array(self._rows[start:stop]))
        return resident

    def _load(self, start: int, stop: int) -> torch.Tensor:
        rows = self._rows[start:stop]
        return torch.from_numpy(rows if _is_shareable(rows) else np.array(rows)).to(self.device).float()

    def _squared_norms(self, start: int) -> NDArray[np.float64]:
        block = np.asarray(self._rows[start : start + self._block_rows], dtype=np.float64)
        norms: NDArray[np.float64] = np.square(block).sum(axis=1)
        return norms


def _is_shareable(rows: NDArray[np.floating]) -> bool:
    """Whether torch may use the array as it is, in float32."""
    return rows.dtype == np.float32 and rows.flags.writeable and rows.flags.c_contiguous


def smallest(
    queries: NDArray[np.float32],
    blocks: RowBlocks,
    k: int,
    *,
    ids: NDArray[np.int64],
    exact_keys: ExactKeys,
    query_offsets: NDArray[np.float64] | None = None,
    excluded: Sequence[NDArray[np.int64]] | None = None,
    only: Sequence[NDArray[np.int64] | None] | None = None,
    shifts: Sequence[KeyShifts] | None = None,
) -> Smallest:
    """The k rows of smallest (exact key, id) for each query, exactly.

    Args:
        queries: (b, d) float32.
        ids: (n,) int64, breaks ties: smaller first.
        query_offsets: (b,) the keys' a; 0 where None.
        excluded: for each query the positions of rows that must not be found.
        only: for each query the positions, few and distinct, of the only rows that may be found, whose keys are computed without the
            product; None: any that is not excluded.
        shifts: for each query what is added to its keys, in ``exact_keys`` too.
    """
    num_queries = len(queries)
    offsets = np.zeros(num_queries) if query_offsets is None else query_offsets
    norms = np.sqrt(np.square(queries.astype(np.float64)).sum(axis=1))
    sizes = norms * blocks.largest_norm + blocks.largest_offset + np.abs(offsets)
    if shifts is not None:
        sizes += [np.abs(of_query.amounts).max(initial=0.0) for of_query in shifts]
    error = product_error(queries.shape[1], sizes)
    result = Smallest.padding(num_queries, k)
    for query, found in enumerate(only or ()):
        if found is not None:
            keys = exact_keys(query, found)
            order = np.lexsort((ids[found], keys))[:k]
            result.put(query, found[order], keys[order])
    pending = np.array([q for q in range(num_queries if k and len(blocks) else 0) if only is None or only[q] is None], dtype=np.int64)
    num_candidates = k + SLACK
    while len(pending):
        banned = None if excluded is None else [excluded[int(i)] for i in pending]
        pending_shifts = None if shifts is None else [shifts[int(i)] for i in pending]
        positions, bounds = _candidates(queries[pending], offsets[pending], blocks, num_candidates, banned, pending_shifts)
        unsure = []
        for query, found, bound in zip(pending, positions, bounds, strict=True):
            keys = exact_keys(int(query), found)
            order = np.lexsort((ids[found], keys))[:k]
            if len(order) == k and keys[order[-1]] >= bound - error[query]:
                unsure.append(query)
            result.put(int(query), found[order], keys[order])
        pending, num_candidates = np.array(unsure, dtype=np.int64), 2 * num_candidates
    return result


@dataclass(frozen=True, eq=False)
class _Cells:
    """Some rows of the data for every query of a batch, as one array: which query, and the row's position, (m,) int64 each."""

    queries: NDArray[np.int64]
    positions: NDArray[np.int64]

    @classmethod
    def of(cls, positions: Sequence[NDArray[np.int64]]) -> _Cells:
        queries = np.repeat(np.arange(len(positions)), [len(of_query) for of_query in positions])
        return cls(queries, np.concatenate([*positions, np.zeros(0, dtype=np.int64)]))

    def inside(self, start: int, stop: int) -> NDArray[np.int64]:
        """Which of the cells are of a block."""
        return np.flatnonzero((self.positions >= start) & (self.positions < stop))

    def at(self, chosen: NDArray[np.int64], start: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Their places in the keys of a block from ``start`` on."""
        return torch.from_numpy(self.queries[chosen]).to(device), torch.from_numpy(self.positions[chosen] - start).to(device)


def _candidates(
    queries: NDArray[np.float32],
    query_offsets: NDArray[np.float64],
    blocks: RowBlocks,
    num_candidates: int,
    excluded: Sequence[NDArray[np.int64]] | None,
    shifts: Sequence[KeyShifts] | None,
) -> tuple[list[NDArray[np.int64]], NDArray[np.float64]]:
    """Positions of each query's smallest approximate keys, and a bound: every row left out has an approximate key of at least that."""
    device_queries = torch.from_numpy(queries).to(blocks.device)
    base = torch.from_numpy(query_offsets.astype(np.float32)).to(blocks.device)[:, None]
    best_keys = torch.empty((len(queries), 0), device=blocks.device)
    best_positions = torch.empty((len(queries), 0), dtype=torch.long, device=blocks.device)
    shifted = None if shifts is None else _Cells.of([of_query.positions for of_query in shifts])
    amounts = np.concatenate([np.zeros(0), *(of_query.amounts for of_query in shifts or ())]).astype(np.float32)
    banned = None if excluded is None else _Cells.of(excluded)
    for start, stop in blocks.blocks():
        keys = (base + blocks.offsets[start:stop]).addmm_(device_queries, blocks.block(start, stop).T, alpha=-2.0)
        if shifted is not None:
            inside = shifted.inside(start, stop)
            keys[shifted.at(inside, start, blocks.device)] += torch.from_numpy(amounts[inside]).to(blocks.device)
        if banned is not None:
            keys[banned.at(banned.inside(start, stop), start, blocks.device)] = torch.inf
        block_keys, block_positions = torch.topk(keys, min(num_candidates, stop - start), dim=1, largest=False)
        best_keys = torch.cat([best_keys, block_keys], 1)
        best_positions = torch.cat([best_positions, block_positions + start], 1)
        if best_keys.shape[1] > num_candidates:
            best_keys, kept = torch.topk(best_keys, num_candidates, dim=1, largest=False)
            best_positions = best_positions.gather(1, kept)
    found_keys, found = best_keys.double().cpu().numpy(), best_positions.cpu().numpy()
    is_complete = found.shape[1] >= len(blocks)
    bounds = np.full(len(queries), np.inf) if is_complete or not found.size else found_keys.max(axis=1)
    return [row[np.isfinite(keys)] for row, keys in zip(found, found_keys, strict=True)], bounds


def product_error(dim: int, sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a key computed by a float32 product of vectors ``dim`` wide may be off by, given |q| |r| + |b| + |a|."""
    return 4 * (dim + 8) * UNIT_ROUNDOFF * sizes


def squared_distances(query: NDArray[np.float32], rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """(m,) float64 |q - r|^2 of rows (m, d): each row's value is the same whatever rows stand beside it.

    In chunks that stay in the cache; float16 is widened by torch, whose casts are vectorised where numpy's are not (measured: 1.8 us
    against 3.1 us for a row of 576).
    """
    wide_query = query.astype(np.float64)
    total = np.empty(len(rows))
    chunk_rows = max(1, CHUNK_FLOATS // max(1, rows.shape[1]))
    for start in range(0, len(rows), chunk_rows):
        chunk = torch.from_numpy(np.array(rows[start : start + chunk_rows]))
        difference = (chunk.float() if chunk.dtype == torch.float16 else chunk).double().numpy()
        difference -= wide_query
        np.einsum("ij,ij->i", difference, difference, out=total[start : start + chunk_rows])
    return total


def nearest_of(
    query: NDArray[np.float32], positions: NDArray[np.int64], k: int, *, vectors: NDArray[np.floating], sample_ids: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k of some rows that are nearest to one query, ascending by (squared distance, sample_id), and their squared distances."""
    keys = squared_distances(query, vectors[positions])
    order = np.lexsort((sample_ids[positions], keys))[:k]
    return positions[order], keys[order]


def close_distances(
    queries: NDArray[np.float32], query_indexes: NDArray[np.int64], vectors: NDArray[np.floating], positions: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(m,) |q - r|^2 of pairs, computed in float32: within ``may_be_nearest``'s relative error, since no term cancels another.

    Args:
        queries: (b, d); vectors: (n, d), may be memory-mapped.
        query_indexes, positions: (m,) which query and which vector.
    """
    distances, which = torch.empty(len(positions)), torch.from_numpy(query_indexes)
    at_once = CLOSE_ROWS if len(queries) > 1 else max(1, CHUNK_FLOATS // queries.shape[1])  # one query's rows are not worth other threads
    rows = np.empty((min(len(positions), at_once), queries.shape[1]), dtype=vectors.dtype)
    wide, others = torch.empty(rows.shape), torch.empty(rows.shape)
    for start in range(0, len(positions), at_once):
        part = slice(0, min(at_once, len(positions) - start))
        np.take(vectors, positions[start : start + at_once], axis=0, out=rows[part], mode="clip")  # no other mode fills ``out`` directly
        wide[part].copy_(torch.from_numpy(rows[part]))
        torch.index_select(torch.from_numpy(queries), 0, which[start : start + at_once], out=others[part])
        torch.sub(wide[part], others[part], out=wide[part])
        torch.linalg.vector_norm(wide[part], dim=1, out=distances[start : start + part.stop])
    squares: NDArray[np.float64] = np.square(distances.numpy(), dtype=np.float64)
    return squares


def close_by_query(
    queries: NDArray[np.float32], positions: Sequence[NDArray[np.int64]], vectors: NDArray[np.floating]
) -> list[NDArray[np.float64]]:
    """``close_distances`` of each query (at least one) to rows of its own, all in one pass."""
    sizes = [len(of_query) for of_query in positions]
    close = close_distances(queries, np.repeat(np.arange(len(sizes)), sizes), vectors, np.concatenate(positions))
    return np.split(close, np.cumsum(sizes)[:-1])


def may_be_nearest(close: NDArray[np.float64], k: int, *, dim: int) -> tuple[NDArray[np.bool_], float]:
    """Which rows may be among the k nearest, by ``close_distances`` (m,) of vectors ``dim`` wide; and the largest distance that may be.

    Each term carries three roundings, a sum of d terms d - 1 more and the root one, which counts twice: (d + 4) u, taken larger.
    """
    error = 1.01 * (dim + 8) * UNIT_ROUNDOFF
    tiny = (dim + 1) * float(np.finfo(np.float32).tiny)  # what squares lose where they underflow
    limit = np.inf if k else -np.inf
    if 0 < k <= len(close):
        limit = float(np.partition(close, k - 1)[k - 1]) * (1 + error) + tiny
    least = np.minimum(close, np.finfo(np.float32).max) * (1 - error) - tiny
    return least <= limit, limit


def likely_nearest(
    queries: NDArray[np.float32], candidates: Sequence[NDArray[np.int64]], k: int, vectors: NDArray[np.floating]
) -> list[NDArray[np.int64]]:
    """For each query its candidates without those that are surely not among its k nearest: float32 costs a fifth of float64."""
    by_query = zip(candidates, close_by_query(queries, candidates, vectors), strict=True)
    return [positions[may_be_nearest(values, k, dim=vectors.shape[1])[0]] for positions, values in by_query]
