"""The two decoders that need item statistics alone: global means (L2D-G) and whitened means with a prior (L2D-W).

L2D-G ranks by the distance |h - c_v| (arXiv 2509.11524); its scores here are -|h - c_v|^2, the root is taken at the edge. L2D-W scores

    h' P c_v - c_v' P c_v / 2 + beta log(n_v + 1),    P = S^-1,  S = (1 - s) W + s tr(W)/d I,

W the pooled within-item covariance and s the shrinkage: the nearest-class-mean rule (linear discriminant analysis) with a prior.
n_v is the decayed count where the memory has a half-life, so that the prior follows what is chosen now. Both are a matrix product plus an
offset, searched exactly by ``index.search``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from l2d_ray.decode.topk import TopK
from l2d_ray.index.search import RowBlocks, smallest, squared_distances
from l2d_ray.memory.statistics import ItemStatistics

Excluded = Sequence[NDArray[np.int64]]
"""For each query the item indexes that must not be recommended."""

BIAS_BLOCK = 256


class GlobalDecoder:
    """L2D-G over the items of one shard.

    Args:
        means: the statistics' (v, d) means, where they are at hand already.
    """

    def __init__(self, statistics: ItemStatistics, *, means: NDArray[np.float32] | None = None, device: str = "cpu") -> None:
        self.item_indexes = statistics.item_indexes
        self._means = statistics.means() if means is None else means
        self._blocks = RowBlocks(self._means, device=device)

    @property
    def num_bytes(self) -> int:
        """Bytes held beyond the means."""
        return self._blocks.num_bytes

    def top_k(self, queries: NDArray[np.float32], k: int, excluded: Excluded | None = None) -> TopK:
        """The k items nearest to queries (b, d); scores are negated squared distances."""
        found = smallest(
            queries,
            self._blocks,
            k,
            ids=self.item_indexes,
            exact_keys=lambda query, positions: squared_distances(queries[query], self._means[positions]),
            query_offsets=np.square(queries.astype(np.float64)).sum(axis=1),
            excluded=_positions(self.item_indexes, excluded),
        )
        return _as_top_k(self.item_indexes, found.positions, -found.keys)


class WhitenedDecoder:
    """L2D-W over the items of one shard.

    Args:
        precision: (d, d) float64, P above, the same for all shards.
        prior_weight: beta above.
        means: the statistics' (v, d) means, where they are at hand already.
    """

    def __init__(
        self,
        statistics: ItemStatistics,
        precision: NDArray[np.float64],
        *,
        prior_weight: float,
        means: NDArray[np.float32] | None = None,
        device: str = "cpu",
    ) -> None:
        self.item_indexes = statistics.item_indexes
        self._precision = precision
        self._means = statistics.means() if means is None else means
        norms = _quadratic_forms(self._means, precision)
        self._offsets = (norms - 2 * prior_weight * np.log1p(statistics.decayed_counts)).astype(np.float32)
        self._blocks = RowBlocks(self._means, self._offsets, device=device)

    @property
    def num_bytes(self) -> int:
        """Bytes held beyond the means."""
        return self._blocks.num_bytes + self._precision.nbytes

    def top_k(self, queries: NDArray[np.float32], k: int, excluded: Excluded | None = None) -> TopK:
        """The k items of highest score for queries (b, d)."""
        whitened = (queries.astype(np.float64) @ self._precision).astype(np.float32)
        found = smallest(
            whitened,
            self._blocks,
            k,
            ids=self.item_indexes,
            exact_keys=lambda query, positions: self._keys(whitened[query], positions),
            excluded=_positions(self.item_indexes, excluded),
        )
        return _as_top_k(self.item_indexes, found.positions, -found.keys / 2)

    def _keys(self, whitened: NDArray[np.float32], positions: NDArray[np.int64]) -> NDArray[np.float64]:
        products = (self._means[positions].astype(np.float64) * whitened.astype(np.float64)).sum(axis=1)
        keys: NDArray[np.float64] = self._offsets[positions] - 2 * products
        return keys


def precision_matrix(within_covariance: NDArray[np.float64], shrinkage: float) -> NDArray[np.float64]:
    """Inverse of the covariance shrunk toward a scaled identity; the identity where the covariance is all zero."""
    dim = len(within_covariance)
    scale = np.trace(within_covariance) / dim
    if scale <= 0:
        return np.eye(dim)
    shrunk = (1 - shrinkage) * within_covariance + shrinkage * scale * np.eye(dim)
    inverse = np.linalg.inv(shrunk)
    symmetric: NDArray[np.float64] = (inverse + inverse.T) / 2
    return symmetric


def _quadratic_forms(means: NDArray[np.float32], precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """(v,) c' P c, in blocks of one shape, so that an item's value does not depend on the shard it is in."""
    values = np.empty(len(means))
    for start in range(0, len(means), BIAS_BLOCK):
        rows = means[start : start + BIAS_BLOCK]
        block = np.zeros((BIAS_BLOCK, means.shape[1]))
        block[: len(rows)] = rows
        values[start : start + len(rows)] = ((block @ precision) * block).sum(axis=1)[: len(rows)]
    return values


def _positions(item_indexes: NDArray[np.int64], excluded: Excluded | None) -> list[NDArray[np.int64]] | None:
    """Positions in the shard of excluded items; those of other shards are left out."""
    if excluded is None or not len(item_indexes):
        return None
    found = []
    for items in excluded:
        places = np.searchsorted(item_indexes, items).clip(max=len(item_indexes) - 1)
        found.append(places[item_indexes[places] == items])
    return found


def _as_top_k(item_indexes: NDArray[np.int64], positions: NDArray[np.int64], scores: NDArray[np.float64]) -> TopK:
    if not len(item_indexes):
        return TopK(positions, np.full(positions.shape, -np.inf))
    is_real = positions >= 0
    return TopK(np.where(is_real, item_indexes[positions], -1), np.where(is_real, scores, -np.inf))
