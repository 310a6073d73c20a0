"""Compressed search of one segment: an inverted file of RaBitQ codes in memory, its candidates re-scored from the float16 vectors on disk.

The codes (faiss, ``codes.faiss`` in the segment's folder) find ``candidates_per_neighbor`` times as many rows as are wanted; their
distances are then computed in float64 from the memory-mapped vectors. So every distance is exact and every tie goes to the smaller
sample_id; what is approximate is which rows were candidates (index recall).
"""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from l2d_ray.errors import ArtefactError
from l2d_ray.index.search import Smallest, squared_distances

CODES = "codes.faiss"
BLOCK_ROWS = 65536
ROWS_PER_LIST = 64
"""Training rows for each list's centroid."""


class CompressedSearch:
    """Nearest rows of one segment, nearly all of them.

    Args:
        codes: the faiss index of the segment's rows.
        vectors: (n, d) float16, memory-mapped.
        sample_ids: (n,) int64, distinct; break ties, smaller first.
        num_probes: lists searched for a query.
        candidates_per_neighbor: rows re-scored for every row wanted.
    """

    kind = "compressed"

    def __init__(
        self,
        codes: faiss.Index,
        vectors: NDArray[np.float16],
        sample_ids: NDArray[np.int64],
        *,
        num_probes: int = 64,
        candidates_per_neighbor: int = 4,
    ) -> None:
        self._codes = codes
        self._vectors = vectors
        self._sample_ids = sample_ids
        self._num_probes = num_probes
        self._candidates_per_neighbor = candidates_per_neighbor

    @staticmethod
    def build(vectors: NDArray[np.float16], folder: Path, *, num_lists: int | None = None, seed: int = 0) -> Path:
        """Write the codes of vectors (n, d), n >= 1, into ``folder``; reads them in blocks, so memory holds codes and a training sample."""
        num_rows, dim = vectors.shape
        lists = num_lists or choose_num_lists(num_rows)
        codes = faiss.index_factory(dim, f"IVF{lists},RaBitQ")
        drawn = np.random.default_rng(seed).choice(num_rows, min(num_rows, lists * ROWS_PER_LIST), replace=False)
        codes.train(vectors[np.sort(drawn)].astype(np.float32))
        for start in range(0, num_rows, BLOCK_ROWS):
            codes.add(vectors[start : start + BLOCK_ROWS].astype(np.float32))
        faiss.write_index(codes, str(folder / CODES))
        return folder / CODES

    @classmethod
    def open(
        cls,
        folder: Path,
        vectors: NDArray[np.float16],
        sample_ids: NDArray[np.int64],
        *,
        num_probes: int = 64,
        candidates_per_neighbor: int = 4,
    ) -> CompressedSearch:
        """Read what ``build`` wrote; ArtefactError where it is not of these vectors."""
        codes = faiss.read_index(str(folder / CODES))
        if (codes.ntotal, codes.d) != vectors.shape:
            raise ArtefactError(
                f"{folder / CODES} holds {codes.ntotal} codes of width {codes.d}, the vectors are {vectors.shape}; build again."
            )
        return cls(codes, vectors, sample_ids, num_probes=num_probes, candidates_per_neighbor=candidates_per_neighbor)

    def __len__(self) -> int:
        return len(self._vectors)

    def nearest(self, queries: NDArray[np.float32], num_neighbors: int, *, dead: NDArray[np.int64] | None = None) -> Smallest:
        """As ``ExactSearch.nearest``; distances are exact, some of the nearest rows may be missing."""
        dead = np.zeros(0, dtype=np.int64) if dead is None else dead
        num_candidates = min(len(self), num_neighbors * self._candidates_per_neighbor + len(dead))
        result = Smallest(np.full((len(queries), num_neighbors), -1, dtype=np.int64), np.full((len(queries), num_neighbors), np.inf))
        if not num_candidates or not len(queries):
            return result
        parameters = faiss.IVFSearchParameters(nprobe=self._num_probes)
        _, candidates = self._codes.search(queries, num_candidates, params=parameters)
        for query, found in enumerate(candidates):
            found = np.setdiff1d(found[found >= 0], dead)
            keys = squared_distances(queries[query], self._vectors[found])
            order = np.lexsort((self._sample_ids[found], keys))[:num_neighbors]
            result.positions[query, : len(order)] = found[order]
            result.keys[query, : len(order)] = keys[order]
        return result


def choose_num_lists(num_rows: int) -> int:
    """Lists of an inverted file over ``num_rows`` rows."""
    return max(1, min(int(4 * num_rows**0.5), num_rows // ROWS_PER_LIST))
