"""Choice of the decoders' settings on validation: a coordinate search over small grids, each candidate scored by one function.

Pure: knows neither files nor metrics; ``score`` is given the ranked items of all queries and returns a number, larger is better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from l2d_ray.decode.linear import GlobalDecoder, WhitenedDecoder, precision_matrix
from l2d_ray.decode.local import local_candidates
from l2d_ray.decode.local_merge import LocalMerge
from l2d_ray.decode.settings import DecoderSettings
from l2d_ray.index.shard import Shard
from l2d_ray.memory.statistics import merge_statistics

QUERIES_PER_BLOCK = 256
NUM_RANKED = 100

Score = Callable[[NDArray[np.int64]], float]
"""Ranked item indexes (n, 100) of all queries -> quality."""
OnTrial = Callable[[], object]


@dataclass(frozen=True)
class Trial:
    """One candidate and what it scored."""

    settings: DecoderSettings
    score: float


def tune(
    queries: NDArray[np.float32],
    shards: Sequence[Shard],
    within_covariance: NDArray[np.float64],
    score: Score,
    *,
    num_neighbors: Sequence[int],
    shrinkages: Sequence[float],
    prior_weights: Sequence[float],
    on_trial: OnTrial = lambda: None,
) -> tuple[DecoderSettings, list[Trial]]:
    """The best settings of each decoder and the best decoder as the default; and every trial, in order.

    Shards without entries have no local decoder: num_neighbors then stays at its default.
    """
    trials: list[Trial] = []

    def note(settings: DecoderSettings, ranked: NDArray[np.int64]) -> Trial:
        trials.append(Trial(settings, score(ranked)))
        on_trial()
        return trials[-1]

    whitened = _tune_whitened(queries, shards, within_covariance, note, shrinkages=shrinkages, prior_weights=prior_weights)
    found, everything = [whitened], whitened.settings
    if all(shard.has_entries for shard in shards):
        found.append(_tune_local(queries, shards, note, whitened.settings, num_neighbors))
        everything = replace(everything, num_neighbors=found[-1].settings.num_neighbors)
    means = GlobalDecoder(merge_statistics([s.statistics for s in shards]), device=shards[0].device)
    plain = note(replace(everything, decoder="global"), means.top_k(queries, NUM_RANKED).ids)
    best = max([*found, plain], key=lambda trial: trial.score)
    return replace(everything, decoder=best.settings.decoder), trials


def num_trials(num_neighbors: Sequence[int], shrinkages: Sequence[float], prior_weights: Sequence[float]) -> int:
    """How many trials ``tune`` makes."""
    return len(num_neighbors) + 2 * (len(shrinkages) + len(prior_weights)) + 1


def _tune_whitened(
    queries: NDArray[np.float32],
    shards: Sequence[Shard],
    within_covariance: NDArray[np.float64],
    note: Callable[[DecoderSettings, NDArray[np.int64]], Trial],
    *,
    shrinkages: Sequence[float],
    prior_weights: Sequence[float],
) -> Trial:
    """Prior weight and shrinkage in turn, twice, each at the other's best value so far."""
    statistics = merge_statistics([shard.statistics for shard in shards])

    def attempt(settings: DecoderSettings) -> Trial:
        precision = precision_matrix(within_covariance, settings.shrinkage)
        decoder = WhitenedDecoder(statistics, precision, prior_weight=settings.prior_weight, device=shards[0].device)
        return note(settings, decoder.top_k(queries, NUM_RANKED).ids)

    best = Trial(DecoderSettings(), -np.inf)
    for _ in range(2):
        for weight in prior_weights:
            best = _better(best, attempt(replace(best.settings, prior_weight=weight)))
        for shrinkage in shrinkages:
            best = _better(best, attempt(replace(best.settings, shrinkage=shrinkage)))
    return best


def _tune_local(
    queries: NDArray[np.float32],
    shards: Sequence[Shard],
    note: Callable[[DecoderSettings, NDArray[np.int64]], Trial],
    settings: DecoderSettings,
    num_neighbors: Sequence[int],
) -> Trial:
    """Neighbours are searched once, for the largest number; a smaller number is a prefix of the same lists."""
    lists: dict[int, list[NDArray[np.int64]]] = {num: [] for num in num_neighbors}
    for start in range(0, len(queries), QUERIES_PER_BLOCK):
        block = queries[start : start + QUERIES_PER_BLOCK]
        merge = LocalMerge(block, max(num_neighbors), [len(shard) for shard in shards])
        while asked := merge.requests():
            merge.add({shard: local_candidates(shards[shard], request) for shard, request in asked.items()})
        for num in num_neighbors:
            lists[num].append(merge.top_k(NUM_RANKED, num_neighbors=num).ids)
    local = replace(settings, decoder="local")
    trials = [note(replace(local, num_neighbors=num), np.concatenate(lists[num])) for num in num_neighbors]
    return max(trials, key=lambda trial: trial.score)


def _better(best: Trial, other: Trial) -> Trial:
    return other if other.score > best.score else best
