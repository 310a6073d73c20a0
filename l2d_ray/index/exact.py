"""Exact search of one segment: every row is considered, and the answer is that of a brute-force search in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from l2d_ray.index.search import RowBlocks, Smallest, smallest, squared_distances


class ExactSearch:
    """Nearest rows of one segment, exactly.

    Args:
        vectors: (n, d) float16, may be memory-mapped.
        sample_ids: (n,) int64, distinct; break ties, smaller first.
        device: where torch computes.
    """

    kind = "exact"

    def __init__(self, vectors: NDArray[np.float16], sample_ids: NDArray[np.int64], *, device: str = "cpu") -> None:
        self._vectors = vectors
        self._sample_ids = sample_ids
        self._blocks = RowBlocks(vectors, device=device)

    def __len__(self) -> int:
        return len(self._vectors)

    def nearest(self, queries: NDArray[np.float32], num_neighbors: int, *, dead: NDArray[np.int64] | None = None) -> Smallest:
        """The rows of smallest (squared distance, sample_id) for each query.

        Args:
            queries: (b, d) float32.
            num_neighbors: rows wanted; where fewer live, the rest is padding.
            dead: positions that must not be found.

        Returns: (b, num_neighbors) positions, and their squared distances in float64.
        """
        return smallest(
            queries,
            self._blocks,
            num_neighbors,
            ids=self._sample_ids,
            exact_keys=lambda query, positions: squared_distances(queries[query], self._vectors[positions]),
            query_offsets=np.square(queries.astype(np.float64)).sum(axis=1),
            excluded=None if dead is None else [dead] * len(queries),
        )
