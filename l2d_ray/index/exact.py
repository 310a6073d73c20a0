"""Exact search of one segment: every row is considered, and the answer is that of a brute-force search in float64.

Three ways, the same answer. ``dense``: a matrix product with every whole row and a top-k, in blocks (``index.search``). ``pruned``: a
product with a few columns bounds all distances from below (``index.pruning``), and only rows that the bounds cannot rule out get their
full distance (``index.scan``). ``resident``, on any other device than the CPU: rows stay there in float16 (``index.resident``).

Picked by measurement (benchmarks.index_scale, two threads, d = 576): from 10^6 rows on ``pruned`` is 1.7 to 4.6 times as fast as faiss's
float16 scalar quantiser, alone and in batches, for half of its memory; at 10^5 the quantiser answers single queries 1.5 times as fast.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from l2d_ray.index.pruning import Axes, PrunedRows, spread_rows
from l2d_ray.index.resident import ResidentRows
from l2d_ray.index.scan import nearest_by_bounds
from l2d_ray.index.search import RowBlocks, Smallest, smallest, squared_distances

Way = Literal["dense", "pruned", "resident"]

MIN_PRUNED_ROWS = 4096
HEAD_WIDTHS = {2_000_000: 128, 10**18: 64}
"""Up to so many rows, that many columns: the product costs a row's share of every query, what bounds let through costs about the same
whatever the rows (measured on jittered states, M = 500: of 10^5 rows 1,470 refined at 128, 2,390 at 64; of 10^6 2,010 and 4,620)."""
SAMPLE_ROWS = 16384


class ExactSearch:
    """Nearest rows of one segment, exactly.

    Args:
        vectors: (n, d) float16, may be memory-mapped.
        sample_ids: (n,) int64, distinct; break ties, smaller first.
        device: where torch computes.
        way: see the module; None chooses.
    """

    kind = "exact"

    def __init__(self, vectors: NDArray[np.float16], sample_ids: NDArray[np.int64], *, device: str = "cpu", way: Way | None = None) -> None:
        self._vectors = vectors
        self._sample_ids = sample_ids
        on_cpu: Way = "pruned" if len(vectors) >= MIN_PRUNED_ROWS else "dense"
        self.way: Way = way or (on_cpu if device == "cpu" else "resident")
        self._rows: RowBlocks | PrunedRows | ResidentRows
        match self.way:
            case "pruned":
                axes = Axes.of(spread_rows(vectors, SAMPLE_ROWS), min(head_width(len(vectors)), vectors.shape[1]))
                self._rows = PrunedRows(vectors, axes)
            case "dense":
                self._rows = RowBlocks(vectors, device=device)
            case "resident":
                self._rows = ResidentRows(vectors, sample_ids, device=device)

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def num_bytes(self) -> int:
        """What it holds beside the vectors."""
        return self._rows.num_bytes

    def nearest(self, queries: NDArray[np.float32], num_neighbors: int, *, dead: NDArray[np.int64] | None = None) -> Smallest:
        """The rows of smallest (squared distance, sample_id) for each query.

        Args:
            queries: (b, d) float32.
            num_neighbors: rows wanted; where fewer live, the rest is padding.
            dead: positions that must not be found.

        Returns: (b, num_neighbors) positions, and their squared distances in float64.
        """
        if isinstance(self._rows, ResidentRows):
            return self._rows.nearest(queries, num_neighbors, dead=dead)
        if isinstance(self._rows, PrunedRows):
            return nearest_by_bounds(queries, self._rows, num_neighbors, vectors=self._vectors, sample_ids=self._sample_ids, dead=dead)
        return smallest(
            queries,
            self._rows,
            num_neighbors,
            ids=self._sample_ids,
            exact_keys=lambda query, positions: squared_distances(queries[query], self._vectors[positions]),
            query_offsets=np.square(queries.astype(np.float64)).sum(axis=1),
            excluded=None if dead is None else [dead] * len(queries),
        )


def head_width(num_rows: int) -> int:
    """Columns of the pruned way over ``num_rows`` rows."""
    return next(width for most_rows, width in HEAD_WIDTHS.items() if num_rows <= most_rows)
