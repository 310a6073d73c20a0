"""Choice of the decoders' settings on validation: a coordinate search over small grids, each candidate scored by one function.

Pure: knows neither files nor metrics; ``score`` is given the ranked items of all queries and returns a number, larger is better.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2d_ray.decode.linear import GlobalDecoder, WhitenedDecoder, WhitenedRule
from l2d_ray.decode.local import local_candidates
from l2d_ray.decode.local_merge import LocalMerge
from l2d_ray.decode.paired import Evidence, PairLookup, older_items, recent_items
from l2d_ray.decode.search import available_decoders
from l2d_ray.decode.settings import DecoderName, DecoderSettings
from l2d_ray.index.shard import Shard
from l2d_ray.memory.statistics import ItemStatistics, PooledStatistics, merge_statistics
from l2d_ray.memory.titles import TitleStates

QUERIES_PER_BLOCK = 256
NUM_RANKED = 100
NUM_PASSES = 2

Score = Callable[[NDArray[np.int64]], float]
"""Ranked item indexes (n, 100) of all queries -> quality."""
OnTrial = Callable[[], object]


@dataclass(frozen=True)
class Grids:
    """What is tried, each setting by itself while the others stay at their best; names as in ``DecoderSettings``.

    Attributes:
        half_lives_s: of the prior's decayed counts; None: no decay.
        shrinks_to_titles, cold_count: tried where the shards have titles.
        pair_weight, pair_scale: all of both, where the shards have pairs; without a weight the paired decoder is not tried.
        pair_recency_power, repeat_weight: beside the defaults, with the best of both, which are then tried again with the best of these.
    """

    num_neighbors: tuple[int, ...]
    shrinkage: tuple[float, ...]
    mean_shrinkage: tuple[float, ...]
    prior_weight: tuple[float, ...]
    prior_smoothing: tuple[float, ...]
    half_lives_s: tuple[int | None, ...] = (None,)
    shrinks_to_titles: tuple[bool, ...] = (False, True)
    cold_count: tuple[float | None, ...] = (None,)
    pair_weight: tuple[float, ...] = ()
    pair_scale: tuple[float, ...] = (DecoderSettings.pair_scale,)
    pair_recency_power: tuple[float, ...] = ()
    repeat_weight: tuple[float, ...] = ()

    def without_titles(self) -> Grids:
        """For shards that have none."""
        return replace(self, shrinks_to_titles=(False,), cold_count=(None,))

    def num_trials(self, decoders: Collection[DecoderName]) -> int:
        """How many trials ``tune`` makes of shards that these decoders can answer from."""
        num_local = len(self.num_neighbors) if "local" in decoders else 0
        num_paired = len(self.pair_weight) * len(self.pair_scale) + len(self.pair_recency_power) + len(self.repeat_weight)
        tries_pairs = "paired" in decoders and bool(self.pair_weight)
        return 1 + NUM_PASSES * (len(self.changes()) + (num_paired if tries_pairs else 0)) + 1 + num_local

    def start(self) -> DecoderSettings:
        """The defaults, where the grids hold them."""
        defaults = DecoderSettings()
        names = ("shrinkage", "mean_shrinkage", "prior_weight", "prior_smoothing", "shrinks_to_titles", "cold_count")
        outside = {name: getattr(self, name)[0] for name in names if getattr(defaults, name) not in getattr(self, name)}
        return replace(defaults, **outside)

    def changes(self) -> list[tuple[str, Any]]:
        """(name of a setting or half_life_s, value), in the order in which they are tried; nothing of a setting with one value."""
        names = ("prior_weight", "shrinkage", "shrinks_to_titles", "mean_shrinkage", "half_lives_s", "prior_smoothing", "cold_count")
        tried = [name for name in names if len(getattr(self, name)) > 1]
        return [("half_life_s" if name == "half_lives_s" else name, value) for name in tried for value in getattr(self, name)]


@dataclass(frozen=True)
class Trial:
    """One candidate and what it scored."""

    settings: DecoderSettings
    half_life_s: int | None
    score: float

    def changed(self, name: str, value: Any) -> Trial:
        """Another candidate, which has not been scored."""
        if name == "half_life_s":
            return replace(self, half_life_s=value, score=np.nan)
        return replace(self, settings=replace(self.settings, **{name: value}), score=np.nan)


@dataclass(frozen=True)
class Tuning:
    """The best settings of each decoder with the best decoder as the default, the half-life they want, and every trial in order."""

    settings: DecoderSettings
    half_life_s: int | None
    trials: tuple[Trial, ...]


def tune(
    queries: NDArray[np.float32],
    histories: Sequence[Sequence[int]],
    shards: Sequence[Shard],
    pooled: PooledStatistics,
    score: Score,
    *,
    grids: Grids,
    decayed: Callable[[int | None], NDArray[np.float64]],
    on_trial: OnTrial = lambda: None,
) -> Tuning:
    """Choose settings. Shards without entries have no local decoder: num_neighbors then stays at its default; without pairs no paired one.

    Args:
        histories: that the queries (n, d) are of.
        decayed: half-life in seconds -> decayed counts of all items that have entries, ascending by item index.
    """
    trials: list[Trial] = []
    statistics, device = merge_statistics([shard.statistics for shard in shards]), shards[0].device
    titled = [shard.titles for shard in shards if shard.titles is not None]
    titles = TitleStates.joined(titled) if len(titled) == len(shards) else None

    def note(candidate: Trial, ranked: NDArray[np.int64]) -> Trial:
        trials.append(replace(candidate, score=score(ranked)))
        on_trial()
        return trials[-1]

    @cache
    def statistics_of(half_life_s: int | None) -> ItemStatistics:
        return replace(statistics, decayed_counts=decayed(half_life_s))

    def attempt(candidate: Trial) -> Trial:
        rule = WhitenedRule.of(pooled, candidate.settings)
        decoder = WhitenedDecoder(statistics_of(candidate.half_life_s), rule, titles, means=means, device=device)
        return note(candidate, decoder.top_k(queries, NUM_RANKED).ids)

    means = statistics.means()
    whitened = attempt(Trial(grids.start(), grids.half_lives_s[0], np.nan))
    for _ in range(NUM_PASSES):
        for name, value in grids.changes():
            whitened = max(whitened, attempt(whitened.changed(name, value)), key=_score)
    found, everything = [whitened], whitened.settings
    decoders = available_decoders(shards)
    if "paired" in decoders and grids.pair_weight:
        rule = WhitenedRule.of(pooled, everything)
        decoder = WhitenedDecoder(statistics_of(whitened.half_life_s), rule, titles, means=means, device=device)
        found.append(_tune_paired(queries, histories, _lookups(shards), decoder, note, whitened, grids))
        everything = replace(found[-1].settings, decoder=everything.decoder)
    if "local" in decoders:
        found.append(_tune_local(queries, shards, note, replace(whitened, settings=everything), grids.num_neighbors))
        everything = replace(everything, num_neighbors=found[-1].settings.num_neighbors)
    plain = replace(whitened, settings=replace(everything, decoder="global"))
    found.append(note(plain, GlobalDecoder(statistics, means=means, device=device).top_k(queries, NUM_RANKED).ids))
    best = max(found, key=_score)
    return Tuning(replace(everything, decoder=best.settings.decoder), whitened.half_life_s, tuple(trials))


def _tune_paired(
    queries: NDArray[np.float32],
    histories: Sequence[Sequence[int]],
    lookups: Sequence[PairLookup],
    decoder: WhitenedDecoder,
    note: Callable[[Trial, NDArray[np.int64]], Trial],
    whitened: Trial,
    grids: Grids,
) -> Trial:
    """Every weight of pairs with every scale, their recency powers, and the weights of repeats, over the best whitened decoder."""
    recents = [recent_items(history) for history in histories]
    olders = [decoder.ranked(older_items(recent)) for recent in recents]

    @cache
    def evidence(power: float) -> list[Evidence]:
        return [Evidence.joined([lookup.evidence(recent, power) for lookup in lookups]) for recent in recents]

    def attempt(settings: DecoderSettings) -> Trial:
        found = zip(evidence(settings.pair_recency_power), olders, strict=True)
        shifts = [of_query.shifts(older, settings) for of_query, older in found]
        return note(replace(whitened, settings=settings), decoder.top_k(queries, NUM_RANKED, shifts=shifts).ids)

    best = replace(whitened, settings=replace(whitened.settings, decoder="paired"), score=-np.inf)
    for _ in range(NUM_PASSES):
        for weight, scale in product(grids.pair_weight, grids.pair_scale):
            best = max(best, attempt(replace(best.settings, pair_weight=weight, pair_scale=scale)), key=_score)
        for power in grids.pair_recency_power:
            best = max(best, attempt(replace(best.settings, pair_recency_power=power)), key=_score)
        for weight in grids.repeat_weight:
            best = max(best, attempt(replace(best.settings, repeat_weight=weight)), key=_score)
    return best


def _score(trial: Trial) -> float:
    return trial.score


def _lookups(shards: Sequence[Shard]) -> list[PairLookup]:
    return [PairLookup(shard.pairs, shard.statistics.item_indexes) for shard in shards if shard.pairs is not None]


def _tune_local(
    queries: NDArray[np.float32],
    shards: Sequence[Shard],
    note: Callable[[Trial, NDArray[np.int64]], Trial],
    whitened: Trial,
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
    local = whitened.changed("decoder", "local")
    trials = [note(local.changed("num_neighbors", num), np.concatenate(lists[num])) for num in num_neighbors]
    return max(trials, key=_score)
