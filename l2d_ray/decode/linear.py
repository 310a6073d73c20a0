"""The two decoders that need item statistics alone: global means (L2D-G) and whitened means with a prior (L2D-W).

L2D-G ranks by the distance |h - c_v| (arXiv 2509.11524); its scores here are -|h - c_v|^2, the root is taken at the edge. L2D-W scores

    h' P r_v - r_v' P r_v / 2 + beta log(m_v + epsilon),
    P = S^-1,  S = (1 - s) W + s tr(W)/d I,  r_v = (n_v c_v + kappa c) / (n_v + kappa),

W the pooled within-item covariance and s its shrinkage: the nearest-class-mean rule (linear discriminant analysis) with a prior. n_v is the
item's count, and m_v the decayed one where the memory has a half-life, so that the prior follows what is chosen now. Means of few entries
are noisy; kappa shrinks them toward the mean c of all entries, which is what their posterior mean does under a normal prior. Both
decoders are a matrix product plus an offset, searched exactly by ``index.search``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from l2d_ray.decode.settings import DecoderSettings
from l2d_ray.decode.topk import TopK
from l2d_ray.index.search import RowBlocks, smallest, squared_distances
from l2d_ray.memory.statistics import ItemStatistics, PooledStatistics

Excluded = Sequence[NDArray[np.int64]]
"""For each query the item indexes that must not be recommended."""

BIAS_BLOCK = 256
REPRESENTATION_BLOCK = 8192


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


@dataclass(frozen=True, eq=False)
class WhitenedRule:
    """The rule above, the same for all shards.

    Attributes:
        precision: (d, d) float64, P.
        center: (d,) float64, c.
        mean_shrinkage: kappa.
        prior_weight: beta.
        prior_smoothing: epsilon.
    """

    precision: NDArray[np.float64]
    center: NDArray[np.float64]
    mean_shrinkage: float
    prior_weight: float
    prior_smoothing: float

    @classmethod
    def of(cls, pooled: PooledStatistics, settings: DecoderSettings) -> WhitenedRule:
        precision = precision_matrix(pooled.within_covariance, settings.shrinkage)
        return cls(precision, pooled.mean, settings.mean_shrinkage, settings.prior_weight, settings.prior_smoothing)

    def representations(self, statistics: ItemStatistics, means: NDArray[np.float32]) -> NDArray[np.float32]:
        """(v, d) float32: r_v; ``means`` themselves where nothing shrinks."""
        if not self.mean_shrinkage:
            return means
        found = np.empty_like(means)
        for start in range(0, len(means), REPRESENTATION_BLOCK):
            rows = slice(start, start + REPRESENTATION_BLOCK)
            share = (statistics.counts[rows] / (statistics.counts[rows] + self.mean_shrinkage))[:, None]
            found[rows] = share * means[rows] + (1 - share) * self.center
        return found

    def priors(self, statistics: ItemStatistics) -> NDArray[np.float64]:
        """(v,) beta log(m_v + epsilon)."""
        logs: NDArray[np.float64] = np.log(statistics.decayed_counts + self.prior_smoothing)
        return self.prior_weight * logs


class WhitenedDecoder:
    """L2D-W over the items of one shard.

    Args:
        means: the statistics' (v, d) means, where they are at hand already.
    """

    def __init__(
        self,
        statistics: ItemStatistics,
        rule: WhitenedRule,
        *,
        means: NDArray[np.float32] | None = None,
        device: str = "cpu",
    ) -> None:
        self.item_indexes = statistics.item_indexes
        self._precision = rule.precision
        means = statistics.means() if means is None else means
        self._rows = rule.representations(statistics, means)
        self._offsets = (_quadratic_forms(self._rows, rule.precision) - 2 * rule.priors(statistics)).astype(np.float32)
        self._blocks = RowBlocks(self._rows, self._offsets, device=device)
        self._own_bytes = 0 if self._rows is means else self._rows.nbytes

    @property
    def num_bytes(self) -> int:
        """Bytes held beyond the means."""
        return self._own_bytes + self._blocks.num_bytes + self._precision.nbytes

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
        products = (self._rows[positions].astype(np.float64) * whitened.astype(np.float64)).sum(axis=1)
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
