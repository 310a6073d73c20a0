"""Top-k lists and their exact merge: the one home of the tie rule (score descending, then smaller id) and the padding rule (-1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class TopK:
    """Ranked ids of b queries.

    Attributes:
        ids: (b, k) int64, best first, padded with -1.
        scores: (b, k) float64, descending, padded with -inf; equal scores stand in ascending order of id.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float64]

    @classmethod
    def padding(cls, num_queries: int, k: int) -> TopK:
        """Nothing found."""
        return cls(np.full((num_queries, k), -1, dtype=np.int64), np.full((num_queries, k), -np.inf))


def merge_top_k(parts: Sequence[TopK], k: int) -> TopK:
    """Top-k of the union of the parts' items (disjoint between parts), whatever the partition and the order of the parts."""
    ids = np.concatenate([p.ids for p in parts], axis=1)
    scores = np.concatenate([p.scores for p in parts], axis=1)
    return rank(ids, scores, k)


def rank(ids: NDArray[np.int64], scores: NDArray[np.float64], k: int) -> TopK:
    """The k best of each row of ids (b, n), in the order of the tie rule; entries with id -1 come last whatever their score."""
    scores = np.where(ids < 0, -np.inf, scores)
    unsigned = np.where(ids < 0, np.iinfo(np.int64).max, ids)
    order = np.lexsort((unsigned, -scores), axis=1)[:, :k]
    ids, scores = np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)
    missing = k - ids.shape[1]
    if missing > 0:
        ids = np.pad(ids, ((0, 0), (0, missing)), constant_values=-1)
        scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
    return TopK(ids, scores)
