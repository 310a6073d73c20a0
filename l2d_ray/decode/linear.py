"""The two decoders that need item statistics alone: global means (L2D-G) and whitened means with a prior (L2D-W).

L2D-G ranks by the distance |h - c_v| (arXiv 2509.11524); its scores here are -|h - c_v|^2, the root is taken at the edge. L2D-W scores

    h' P r_v - r_v' P r_v / 2 + beta log(m_v + epsilon),
    P = S^-1,  S = (1 - s) W + s tr(W)/d I,  r_v = (n_v c_v + kappa p_v) / (n_v + kappa),

W the pooled within-item covariance and s its shrinkage: the nearest-class-mean rule (linear discriminant analysis) with a prior. n_v is the
item's count, and m_v the decayed one where the memory has a half-life, so that the prior follows what is chosen now. Means of few entries
are noisy; kappa shrinks them toward what is known without them, p_v: what the item's title says (``memory.titles``), or the mean of all
entries. That is their posterior mean under a normal prior. An item without any entry is represented by its title alone, and counts in the
prior as ``cold_count`` entries. Both decoders are a matrix product plus an offset, searched exactly by ``index.search``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from l2d_ray.decode.restriction import Allowed, Excluded
from l2d_ray.decode.settings import DecoderSettings
from l2d_ray.decode.topk import TopK
from l2d_ray.index.search import KeyShifts, RowBlocks, smallest, squared_distances
from l2d_ray.memory.statistics import ItemStatistics, PooledStatistics
from l2d_ray.memory.titles import TitleMap, TitleStates

FEW = 4096
"""Items of a shard up to which those that alone are allowed are ranked one by one, rather than all and the others struck out."""
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

    def top_k(self, queries: NDArray[np.float32], k: int, excluded: Excluded | None = None, allowed: Allowed | None = None) -> TopK:
        """The k items nearest to queries (b, d); scores are negated squared distances."""
        limits = _limits(self.item_indexes, len(queries), excluded, allowed)
        found = smallest(
            queries,
            self._blocks,
            k,
            ids=self.item_indexes,
            exact_keys=lambda query, positions: squared_distances(queries[query], self._means[positions]),
            query_offsets=np.square(queries.astype(np.float64)).sum(axis=1),
            excluded=limits.excluded,
            only=limits.only,
        )
        return _as_top_k(self.item_indexes, found.positions, -found.keys)


@dataclass(frozen=True, eq=False)
class RepresentedItems:
    """What the whitened decoder ranks.

    Attributes:
        item_indexes: (v,) int64, ascending.
        representations: (v, d) float32, r_v.
        priors: (v,) float64, beta log(m_v + epsilon).
    """

    item_indexes: NDArray[np.int64]
    representations: NDArray[np.float32]
    priors: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class WhitenedRule:
    """The rule above, the same for all shards.

    Attributes:
        precision: (d, d) float64, P.
        center: (d,) float64, the mean of all entries: p_v where there is no title map.
        mean_shrinkage: kappa.
        prior_weight: beta.
        prior_smoothing: epsilon.
        title_map: from a title's state to p_v.
        cold_count: m_v of items without entries; None: they are not ranked.
    """

    precision: NDArray[np.float64]
    center: NDArray[np.float64]
    mean_shrinkage: float
    prior_weight: float
    prior_smoothing: float
    title_map: TitleMap | None = None
    cold_count: float | None = None

    @classmethod
    def of(cls, pooled: PooledStatistics, settings: DecoderSettings) -> WhitenedRule:
        precision = precision_matrix(pooled.within_covariance, settings.shrinkage)
        return cls(
            precision,
            pooled.mean,
            settings.mean_shrinkage,
            settings.prior_weight,
            settings.prior_smoothing,
            title_map=pooled.title_map if settings.shrinks_to_titles else None,
            cold_count=settings.cold_count,
        )

    def represent(
        self, statistics: ItemStatistics, titles: TitleStates | None = None, *, means: NDArray[np.float32] | None = None
    ) -> RepresentedItems:
        """The items that have entries; with titles, where the rule has a map and a count for cold items, those that have none too.

        Args:
            means: the statistics' (v, d) means, where they are at hand already; they are given back where nothing shrinks.
        """
        means = statistics.means() if means is None else means
        if titles is None or self.title_map is None:
            return self._warm(statistics, means, self.center)
        places = titles.places_of(statistics.item_indexes)
        if self.cold_count is None:
            return self._warm(statistics, means, self.title_map.means(titles.states[places]))
        representations, decayed = self.title_map.means(titles.states), np.full(len(titles.item_indexes), self.cold_count)
        representations[places] = self._shrunk(means, statistics.counts, representations[places])
        decayed[places] = statistics.decayed_counts
        return RepresentedItems(titles.item_indexes, representations, self._priors(decayed))

    def _warm(
        self, statistics: ItemStatistics, means: NDArray[np.float32], known: NDArray[np.float32] | NDArray[np.float64]
    ) -> RepresentedItems:
        """The items that have entries, their means shrunk toward ``known``."""
        representations = self._shrunk(means, statistics.counts, known)
        return RepresentedItems(statistics.item_indexes, representations, self._priors(statistics.decayed_counts))

    def _shrunk(
        self, means: NDArray[np.float32], counts: NDArray[np.int64], known: NDArray[np.float32] | NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """(v, d) float32: means (v, d) of so many entries, shrunk toward ``known``, (v, d) or (d,)."""
        if not self.mean_shrinkage:
            return means
        found = np.empty_like(means)
        for start in range(0, len(means), REPRESENTATION_BLOCK):
            rows = slice(start, start + REPRESENTATION_BLOCK)
            share = (counts[rows] / (counts[rows] + self.mean_shrinkage))[:, None]
            found[rows] = share * means[rows] + (1 - share) * (known[rows] if known.ndim > 1 else known)
        return found

    def _priors(self, decayed_counts: NDArray[np.float64]) -> NDArray[np.float64]:
        logs: NDArray[np.float64] = np.log(decayed_counts + self.prior_smoothing)
        return self.prior_weight * logs


@dataclass(frozen=True, eq=False)
class ScoreShifts:
    """What one query adds to the scores of some items: item_indexes (m,) int64 ascending, amounts (m,) float64 of either sign."""

    item_indexes: NDArray[np.int64]
    amounts: NDArray[np.float64]


class WhitenedDecoder:
    """L2D-W over the items of one shard; arguments are those of ``WhitenedRule.represent``."""

    def __init__(
        self,
        statistics: ItemStatistics,
        rule: WhitenedRule,
        titles: TitleStates | None = None,
        *,
        means: NDArray[np.float32] | None = None,
        device: str = "cpu",
    ) -> None:
        items = rule.represent(statistics, titles, means=means)
        self.item_indexes, self._rows = items.item_indexes, items.representations
        self._precision = rule.precision
        self._offsets = (_quadratic_forms(self._rows, rule.precision) - 2 * items.priors).astype(np.float32)
        self._blocks = RowBlocks(self._rows, self._offsets, device=device)
        self._own_bytes = 0 if self._rows is means else self._rows.nbytes

    @property
    def num_bytes(self) -> int:
        """Bytes held beyond the means."""
        return self._own_bytes + self._blocks.num_bytes + self._precision.nbytes

    def top_k(
        self,
        queries: NDArray[np.float32],
        k: int,
        excluded: Excluded | None = None,
        allowed: Allowed | None = None,
        *,
        shifts: Sequence[ScoreShifts] | None = None,
    ) -> TopK:
        """The k items of highest score for queries (b, d).

        Args:
            shifts: for each query what is added to the scores of some items that are ranked here.
        """
        limits = _limits(self.item_indexes, len(queries), excluded, allowed)
        whitened = (queries.astype(np.float64) @ self._precision).astype(np.float32)
        key_shifts = None if shifts is None else [self._key_shifts(of_query) for of_query in shifts]
        found = smallest(
            whitened,
            self._blocks,
            k,
            ids=self.item_indexes,
            exact_keys=lambda query, positions: self._keys(whitened[query], positions, None if key_shifts is None else key_shifts[query]),
            excluded=limits.excluded,
            only=limits.only,
            shifts=key_shifts,
        )
        return _as_top_k(self.item_indexes, found.positions, -found.keys / 2)

    def ranked(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of some items (m,) that are ranked here."""
        return self.item_indexes[_positions(self.item_indexes, items)]

    def _keys(self, whitened: NDArray[np.float32], positions: NDArray[np.int64], shifts: KeyShifts | None) -> NDArray[np.float64]:
        products = (self._rows[positions].astype(np.float64) * whitened.astype(np.float64)).sum(axis=1)
        keys: NDArray[np.float64] = self._offsets[positions] - 2 * products
        return keys if shifts is None else keys + shifts.at(positions)

    def _key_shifts(self, shifts: ScoreShifts) -> KeyShifts:
        """The same of keys, which are -2 times the scores."""
        return KeyShifts(np.searchsorted(self.item_indexes, shifts.item_indexes), -2 * shifts.amounts)


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


@dataclass(frozen=True, eq=False)
class _Limits:
    """For each query the positions of items that must not be found, and the few that alone may be; None: any other."""

    excluded: list[NDArray[np.int64]]
    only: list[NDArray[np.int64] | None]


def _limits(item_indexes: NDArray[np.int64], num_queries: int, excluded: Excluded | None, allowed: Allowed | None) -> _Limits:
    """Of the shard's items alone; those of other shards are left out."""
    limits, nothing = _Limits([], []), np.zeros(0, dtype=np.int64)
    for query in range(num_queries):
        banned = nothing if excluded is None else _positions(item_indexes, excluded[query])
        wanted = None if allowed is None else allowed[query]
        few = None
        if wanted is not None:
            permitted = np.setdiff1d(_positions(item_indexes, wanted), banned)
            few = permitted if len(permitted) <= FEW else None
            banned = nothing if few is not None else np.delete(np.arange(len(item_indexes)), permitted)
        limits.excluded.append(banned)
        limits.only.append(few)
    return limits


def _positions(item_indexes: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of those of the items that are here."""
    if not len(item_indexes):
        return item_indexes
    places = np.searchsorted(item_indexes, items).clip(max=len(item_indexes) - 1)
    found: NDArray[np.int64] = places[item_indexes[places] == items]
    return found


def _as_top_k(item_indexes: NDArray[np.int64], positions: NDArray[np.int64], scores: NDArray[np.float64]) -> TopK:
    if not len(item_indexes):
        return TopK(positions, np.full(positions.shape, -np.inf))
    is_real = positions >= 0
    return TopK(np.where(is_real, item_indexes[positions], -1), np.where(is_real, scores, -np.inf))
