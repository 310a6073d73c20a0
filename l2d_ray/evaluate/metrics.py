"""Recall@k, NDCG@k and their bootstrap intervals, from the rank of each sample's only target.

Every sample has exactly one target, so a sample's metrics are functions of one integer, the target's 0-based rank:
recall@k = [rank < k], ndcg@k = [rank < k] / log2(rank + 2) (the ideal DCG is 1). Ranks are therefore what is stored, merged
(concatenated over parts, in any order) and resampled; means come last.

The bootstrap draws samples with replacement. A resample is fully described by how often each distinct rank occurs in it, and that is
multinomial: with u distinct ranks (at most 101 for lists of 100) a resample costs O(u), whatever the number of samples. This is the
ordinary bootstrap over samples, only without writing the resample out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from l2d_ray.errors import DataError

CUTOFFS: Final = (10, 20, 50, 100)
"""The k of every reported recall@k and ndcg@k."""

PADDING: Final = -1
"""Fills short lists; also the rank of a target that is not in the list."""

_MAX_CELLS: Final = 4_000_000  # integers of resampled counts held at a time: 32 MB

Ranks = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean over samples with the 2.5 % and 97.5 % percentiles of its bootstrap distribution."""

    mean: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        return {"mean": self.mean, "low": self.low, "high": self.high}


def target_ranks(ranked: NDArray[np.int64], targets: NDArray[np.int64]) -> Ranks:
    """0-based position of each target in its list: ranked (n, k) int64 padded with -1, targets (n,) int64 -> (n,) int64.

    The first occurrence counts; -1 where the target is not in the list. Raises DataError where the shapes do not fit.
    """
    if ranked.ndim != 2 or targets.shape != ranked.shape[:1]:
        raise DataError(f"Ranked items of shape {ranked.shape} do not fit targets of shape {targets.shape}; wanted (n, k) and (n,).")
    hits = (ranked == targets[:, None]) & (ranked != PADDING)
    if ranked.shape[1] == 0:
        return np.full(len(targets), PADDING, np.int64)
    return np.where(hits.any(axis=1), hits.argmax(axis=1), PADDING).astype(np.int64)


def target_title_ranks(ranked: NDArray[np.int64], targets: NDArray[np.int64], *, titles: Sequence[str]) -> Ranks:
    """Like ``target_ranks``, but the first item with exactly the target's title counts as the target.

    ``titles[i]`` is the title of item i. Titles are not unique, so a title's rank is at most the item's own rank. Items that share a
    title keep their places: the list is not shortened.
    """
    number: dict[str, int] = {}
    title_numbers = np.array([number.setdefault(title, len(number)) for title in titles] + [PADDING], np.int64)
    return target_ranks(title_numbers[ranked], title_numbers[targets])  # index -1 reads the padding at the end


def recall_values(ranks: Ranks, k: int) -> Values:
    """recall@k of each sample, 0 or 1: ranks (n,) int64 -> (n,) float64."""
    return ((ranks >= 0) & (ranks < k)).astype(np.float64)


def ndcg_values(ranks: Ranks, k: int) -> Values:
    """ndcg@k of each sample, in [0, 1]: ranks (n,) int64 -> (n,) float64."""
    return recall_values(ranks, k) / np.log2(np.maximum(ranks, 0) + 2.0)


def metric_values(ranks: Ranks, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, Values]:
    """Every metric of every sample: ``{"recall@10": (n,) float64, ..., "ndcg@10": ...}``, all recalls first."""
    recalls = {f"recall@{k}": recall_values(ranks, k) for k in cutoffs}
    return recalls | {f"ndcg@{k}": ndcg_values(ranks, k) for k in cutoffs}


def metric_means(ranks: Ranks, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Mean of every metric over the samples; DataError where there is no sample."""
    _require_samples(ranks)
    return {name: float(values.mean()) for name, values in metric_values(ranks, cutoffs).items()}


def bootstrap_intervals(ranks: Ranks, cutoffs: Sequence[int] = CUTOFFS, *, num_bootstrap: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """95 % percentile interval of every mean metric over ``num_bootstrap`` resamples of the samples; equal seeds, equal intervals."""
    _require_samples(ranks)
    distinct, counts = np.unique(ranks, return_counts=True)
    return _intervals(metric_values(distinct, cutoffs), counts, num_bootstrap=num_bootstrap, seed=seed)


def paired_bootstrap(
    ranks: Ranks, other_ranks: Ranks, cutoffs: Sequence[int] = CUTOFFS, *, num_bootstrap: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """95 % interval of (first system - other system) for every metric, both scored on the same resampled samples.

    Row i of both arrays is the same sample. An interval without 0 says that the systems differ on this test split.
    """
    if ranks.shape != other_ranks.shape:
        raise DataError(f"Two systems with {len(ranks)} and {len(other_ranks)} ranks cannot be paired; score both on the same samples.")
    _require_samples(ranks)
    pairs, counts = np.unique(np.stack([ranks, other_ranks], axis=1), axis=0, return_counts=True)
    first, other = metric_values(pairs[:, 0], cutoffs), metric_values(pairs[:, 1], cutoffs)
    differences = {name: first[name] - other[name] for name in first}
    return _intervals(differences, counts, num_bootstrap=num_bootstrap, seed=seed)


def _require_samples(ranks: Ranks) -> None:
    if ranks.size == 0:
        raise DataError("There are 0 samples to score, wanted at least one; check the split of the data.")


def _intervals(values: Mapping[str, Values], counts: NDArray[Any], *, num_bootstrap: int, seed: int) -> dict[str, Interval]:
    """Intervals of the means, where row j of ``values`` ((u,) each) stands for ``counts[j]`` samples."""
    table = np.stack(list(values.values()), axis=1)  # (u, metrics)
    means = counts @ table / counts.sum()
    resampled = np.concatenate(list(_resampled_means(table, counts, num_bootstrap=num_bootstrap, seed=seed)))
    lows, highs = np.percentile(resampled, (2.5, 97.5), axis=0)
    return {name: Interval(float(mean), float(low), float(high)) for name, mean, low, high in zip(values, means, lows, highs, strict=True)}


def _resampled_means(table: Values, counts: NDArray[Any], *, num_bootstrap: int, seed: int) -> Iterator[Values]:
    """Means of the resamples, (rows, metrics) float64 at a time, so that memory does not grow with ``num_bootstrap`` times u."""
    generator = np.random.default_rng(seed)
    num_samples = int(counts.sum())
    rows = max(1, _MAX_CELLS // len(counts))
    for start in range(0, num_bootstrap, rows):
        draws = generator.multinomial(num_samples, counts / num_samples, size=min(rows, num_bootstrap - start))
        yield draws @ table / num_samples
