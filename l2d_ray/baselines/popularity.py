"""Popularity: the same list for everyone, by number of training interactions. The floor that any recommender must clear."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from l2d_ray.baselines.interface import interaction_counts, top_items


class Popularity:
    """Items by count of training interactions, most first; equal counts by smaller item index."""

    def __init__(self, train_sequences: Sequence[Sequence[int]], num_items: int) -> None:
        self._scores = interaction_counts(train_sequences, num_items).astype(np.float64)

    def rank(self, histories: Sequence[Sequence[int]], k: int, exclude: Sequence[Collection[int]] | None = None) -> NDArray[np.int64]:
        """The k most popular items that are not excluded, (n, k) int64; the histories do not matter."""
        if exclude is None:
            return np.tile(top_items(self._scores, k), (len(histories), 1))
        rows = [top_items(self._scores, k, items) for items in exclude]
        return np.stack(rows) if rows else np.empty((0, k), np.int64)
