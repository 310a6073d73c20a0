"""Tuning finds what was planted, in as many trials as it said."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from l2d_ray.decode.linear import WhitenedDecoder, WhitenedRule
from l2d_ray.decode.paired import recent_items
from l2d_ray.decode.search import SearchRequest, ShardSearcher, search_shards
from l2d_ray.decode.settings import DecoderSettings
from l2d_ray.decode.tuning import NUM_RANKED, Grids, Tuning, tune
from l2d_ray.errors import ArtefactError
from l2d_ray.index.shard import Shard, shard_of_arrays
from l2d_ray.memory.pairs import ItemSequences, count_pairs
from l2d_ray.memory.state import seal
from l2d_ray.memory.statistics import PooledStatistics, merge_statistics, statistics_of
from l2d_ray.memory.titles import TitleMap, TitleStates

GRIDS = Grids(
    num_neighbors=(3, 8, 40),
    shrinkage=(0.05, 0.4, 0.9),
    mean_shrinkage=(0.0, 3.0),
    prior_weight=(0.0, 1.0, 5.0),
    prior_smoothing=(0.5,),
    half_lives_s=(None, 100),
    shrinks_to_titles=(False,),
)
DIM = 5


def make_shards() -> list[Shard]:
    rng = np.random.default_rng(0)
    items = np.sort(rng.integers(0, 30, 200))
    vectors = (rng.normal(size=(30, DIM))[items] + rng.normal(size=(200, DIM)) * [0.1, 0.3, 1, 2, 4]).astype(np.float16)
    shards = []
    for mine in (items < 11, items >= 11):
        statistics = statistics_of(items[mine], vectors[mine], np.full(mine.sum(), -1, dtype=np.int64))
        shards.append(shard_of_arrays(np.flatnonzero(mine), items[mine], vectors[mine], statistics))
    return shards


SHARDS = make_shards()
STATISTICS = merge_statistics([shard.statistics for shard in SHARDS])
POOLED = PooledStatistics.of([shard.statistics for shard in SHARDS])
QUERIES = np.random.default_rng(1).normal(size=(300, DIM)).astype(np.float32)
HISTORIES = [np.random.default_rng(row).integers(0, 30, 5).tolist() for row in range(len(QUERIES))]


def decayed(half_life_s: int | None) -> np.ndarray:
    """As if later items were chosen later."""
    counts = STATISTICS.counts.astype(float)
    return counts if half_life_s is None else counts * 0.5 ** np.arange(len(counts))[::-1]


def tuned(score, shards: list[Shard] = SHARDS, **options) -> Tuning:
    return tune(QUERIES, HISTORIES, shards, POOLED, score, grids=GRIDS, decayed=decayed, **options)


def test_as_many_trials_as_promised_each_ranking_every_query():
    shapes, ticks = [], []

    def score(ranked: np.ndarray) -> float:
        shapes.append(ranked.shape)
        return 0.0

    trials = tuned(score, on_trial=lambda: ticks.append(1)).trials
    assert len(trials) == len(ticks) == GRIDS.num_trials(("global", "local", "whitened")) == 1 + 2 * 10 + 3 + 1
    assert shapes == [(len(QUERIES), NUM_RANKED)] * len(trials)


def test_without_entries_the_local_decoder_is_left_out():
    shards = [Shard(shard.statistics, None, "cpu") for shard in SHARDS]
    found = tuned(lambda ranked: -float(len(ranked)), shards)
    assert len(found.trials) == GRIDS.num_trials(("global", "whitened"))
    assert {trial.settings.decoder for trial in found.trials} == {"whitened", "global"}
    assert found.settings.num_neighbors == DecoderSettings().num_neighbors


def agreement_with(planted: np.ndarray):
    return lambda ranked: float((ranked == planted).mean())


@pytest.mark.parametrize("num", GRIDS.num_neighbors)
def test_a_planted_number_of_neighbours_is_found(num):
    searchers = [ShardSearcher(shard, POOLED, DecoderSettings()) for shard in SHARDS]
    nothing = (np.zeros(0, dtype=np.int64),) * len(QUERIES)
    planted = search_shards(searchers, SearchRequest(QUERIES, "local", NUM_RANKED, num, nothing, (None,) * len(QUERIES))).ids
    found = tuned(agreement_with(planted))
    assert (found.settings.decoder, found.settings.num_neighbors) == ("local", num)
    assert [trial.settings.num_neighbors for trial in found.trials if trial.score == 1.0] == [num]


@pytest.mark.parametrize(
    ("shrinkage", "mean_shrinkage", "prior_weight", "half_life_s"), [(0.05, 3.0, 0.0, None), (0.9, 0.0, 5.0, 100), (0.4, 3.0, 5.0, 100)]
)
def test_planted_settings_of_the_whitened_decoder_are_found(shrinkage, mean_shrinkage, prior_weight, half_life_s):
    wanted = DecoderSettings(shrinkage=shrinkage, mean_shrinkage=mean_shrinkage, prior_weight=prior_weight, prior_smoothing=0.5)
    ranker = WhitenedDecoder(replace(STATISTICS, decayed_counts=decayed(half_life_s)), WhitenedRule.of(POOLED, wanted))
    found = tuned(agreement_with(ranker.top_k(QUERIES, NUM_RANKED).ids))
    assert max(trial.score for trial in found.trials) == 1.0
    matters = ("decoder", "shrinkage", "mean_shrinkage", "prior_weight", *(["prior_smoothing"] if prior_weight else []))
    assert [getattr(found.settings, name) for name in matters] == [getattr(wanted, name) for name in matters]
    assert found.half_life_s == half_life_s or not prior_weight


def test_the_search_goes_one_setting_at_a_time():
    """Scores in the order of the trials: start, prior weights, shrinkages, mean shrinkages, half-lives; again; neighbours; global."""
    planted = [0.05, *(0.1, 0.3, 0.2), *(0.2, 0.4, 0.1), *(0.4, 0.4), *(0.2, 0.5)]
    planted += [*(0.5, 0.5, 0.6), *(0.1, 0.2, 0.3), *(0.1, 0.1), *(0.1, 0.2), *(0.3, 0.7, 0.7), 0.6]
    scores = iter(planted)
    found = tuned(lambda ranked: next(scores))
    assert [trial.score for trial in found.trials] == planted
    tried = [(t.settings.prior_weight, t.settings.shrinkage, t.settings.mean_shrinkage, t.half_life_s) for t in found.trials[:11]]
    assert tried.pop(0) == (0.0, 0.05, 0.0, None)
    assert tried[:3] == [(weight, 0.05, 0.0, None) for weight in (0.0, 1.0, 5.0)]
    assert tried[3:6] == [(1.0, shrinkage, 0.0, None) for shrinkage in (0.05, 0.4, 0.9)]
    assert tried[6:] == [(1.0, 0.4, 0.0, None), (1.0, 0.4, 3.0, None), (1.0, 0.4, 0.0, None), (1.0, 0.4, 0.0, 100)]
    assert [t.settings.prior_weight for t in found.trials[11:14]] == [0.0, 1.0, 5.0]
    assert found.settings == DecoderSettings("local", 8, 0.4, 5.0, 0.5, 0.0, shrinks_to_titles=False)
    assert found.half_life_s == 100


def test_a_grid_of_one_value_is_that_setting_also_where_all_score_alike():
    one = Grids(num_neighbors=(3,), shrinkage=(0.5,), mean_shrinkage=(0.0,), prior_weight=(7.0,), prior_smoothing=(0.3,)).without_titles()
    found = tune(QUERIES, HISTORIES, SHARDS, POOLED, lambda ranked: 0.0, grids=one, decayed=decayed)
    assert found.settings == DecoderSettings("whitened", 3, 0.5, 7.0, 0.3, 0.0, shrinks_to_titles=False)


def test_titles_are_shrunk_to_and_cold_items_counted_as_it_pays():
    """Item 30 has no entry; it is recommended where a cold count is found to be better than none."""
    states = np.random.default_rng(2).normal(size=(31, DIM)).astype(np.float16)
    cuts = (np.arange(0, 11), np.arange(11, 31))
    shards = [replace(shard, titles=TitleStates(items, states[items])) for shard, items in zip(SHARDS, cuts, strict=True)]
    title_map = TitleMap.fit([shard.statistics.titled(shard.titles) for shard in shards])
    grids = replace(GRIDS, shrinks_to_titles=(False, True), cold_count=(None, 0.0, 40.0))
    wanted = DecoderSettings(shrinkage=0.4, mean_shrinkage=3.0, prior_weight=5.0, prior_smoothing=0.5, cold_count=40.0)
    rule = WhitenedRule.of(replace(POOLED, title_map=title_map), wanted)
    planted = WhitenedDecoder(STATISTICS, rule, TitleStates.joined([shard.titles for shard in shards])).top_k(QUERIES, NUM_RANKED).ids
    assert (planted[:, 0] == 30).any()
    pooled = replace(POOLED, title_map=title_map)
    found = tune(QUERIES, HISTORIES, shards, pooled, agreement_with(planted), grids=grids, decayed=decayed)
    assert (found.settings.shrinks_to_titles, found.settings.cold_count) == (True, 40.0)
    assert max(trial.score for trial in found.trials) == 1.0
    assert len(found.trials) == grids.num_trials(("global", "local", "whitened")) == 1 + 2 * 15 + 3 + 1


def test_planted_settings_of_the_paired_decoder_are_found_and_it_is_the_default():
    sequences = [ItemSequences.of([np.random.default_rng(user).integers(0, 30, 12).tolist() for user in range(9)])]
    counted = [(shard.statistics.item_indexes, shard.statistics.counts) for shard in SHARDS]
    shards = [replace(shard, pairs=count_pairs(lambda: sequences, *of, 30)) for shard, of in zip(SHARDS, counted, strict=True)]
    wanted = DecoderSettings("paired", 1, 0.4, 5.0, 0.5, 3.0, shrinks_to_titles=False, pair_weight=7.0, pair_scale=20.0)
    wanted = replace(wanted, pair_recency_power=0.9, repeat_weight=-2.0)
    searchers = [ShardSearcher(shard, POOLED, wanted) for shard in shards]
    nothing = (np.zeros(0, dtype=np.int64),) * len(QUERIES)
    recent = tuple(map(recent_items, HISTORIES))
    request = SearchRequest(QUERIES, "paired", NUM_RANKED, 1, nothing, (None,) * len(QUERIES), recent)
    one = Grids((3,), (0.4,), (3.0,), (5.0,), (0.5,), shrinks_to_titles=(False,), pair_weight=(0.0, 7.0, 9.0), pair_scale=(2.0, 20.0))
    one = replace(one, pair_recency_power=(0.5, 0.9), repeat_weight=(-9.0, -2.0, 2.0))
    agreement = agreement_with(search_shards(searchers, request).ids)
    found = tune(QUERIES, HISTORIES, shards, POOLED, agreement, grids=one, decayed=decayed)
    assert len(found.trials) == one.num_trials(("global", "local", "whitened", "paired")) == 1 + 1 + 1 + 2 * (6 + 2 + 3)
    assert {trial.settings for trial in found.trials if trial.score == 1.0} == {
        replace(wanted, num_neighbors=DecoderSettings().num_neighbors)
    }
    assert found.settings == replace(wanted, num_neighbors=3)


def test_the_default_is_the_best_decoder_of_all():
    scores = iter([0.1] * 24 + [0.2])
    found = tuned(lambda ranked: next(scores))
    assert found.trials[-1].settings.decoder == found.settings.decoder == "global"


def test_settings_survive_their_file_and_damage_is_refused():
    settings = DecoderSettings("local", 7, 0.25, 2.0)
    assert DecoderSettings.from_json(settings.to_json()) == settings
    for text in (
        "",
        "[]",
        "{",
        seal({"decoder": "global"}),
        seal(asdict(settings) | {"stranger": 1}),
        settings.to_json().replace("7", "8"),
    ):
        with pytest.raises(ArtefactError, match="is damaged"):
            DecoderSettings.from_json(text)
    with pytest.raises(ArtefactError, match="names the decoder 'cosine', wanted one of global, local, whitened, paired"):
        DecoderSettings.from_json(seal(asdict(settings) | {"decoder": "cosine"}))
