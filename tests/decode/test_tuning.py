"""Tuning finds what was planted, in as many trials as it said."""

import numpy as np
import pytest

from l2d_ray.decode.linear import WhitenedDecoder, precision_matrix
from l2d_ray.decode.search import SearchRequest, ShardSearcher, search_shards
from l2d_ray.decode.settings import DecoderSettings
from l2d_ray.decode.tuning import NUM_RANKED, num_trials, tune
from l2d_ray.errors import ArtefactError
from l2d_ray.index.shard import Shard, shard_of_arrays
from l2d_ray.memory.state import seal
from l2d_ray.memory.statistics import statistics_of, within_covariance

GRIDS = {"num_neighbors": (3, 8, 40), "shrinkages": (0.05, 0.4, 0.9), "prior_weights": (0.0, 1.0, 5.0)}
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
COVARIANCE = within_covariance([shard.statistics for shard in SHARDS])
QUERIES = np.random.default_rng(1).normal(size=(300, DIM)).astype(np.float32)


def test_as_many_trials_as_promised_each_ranking_every_query():
    shapes, ticks = [], []

    def score(ranked: np.ndarray) -> float:
        shapes.append(ranked.shape)
        return 0.0

    _, trials = tune(QUERIES, SHARDS, COVARIANCE, score, **GRIDS, on_trial=lambda: ticks.append(1))
    assert len(trials) == len(ticks) == num_trials(**GRIDS) == 3 + 2 * 6 + 1
    assert shapes == [(len(QUERIES), NUM_RANKED)] * len(trials)


def test_without_entries_the_local_decoder_is_left_out():
    shards = [Shard(shard.statistics, None, "cpu") for shard in SHARDS]
    settings, trials = tune(QUERIES, shards, COVARIANCE, lambda ranked: -float(len(ranked)), **GRIDS)
    assert {trial.settings.decoder for trial in trials} == {"whitened", "global"}
    assert settings.num_neighbors == DecoderSettings().num_neighbors


def agreement_with(planted: np.ndarray):
    return lambda ranked: float((ranked == planted).mean())


@pytest.mark.parametrize("num", GRIDS["num_neighbors"])
def test_a_planted_number_of_neighbours_is_found(num):
    searchers = [ShardSearcher(shard, COVARIANCE, DecoderSettings()) for shard in SHARDS]
    nothing = (np.zeros(0, dtype=np.int64),) * len(QUERIES)
    planted = search_shards(searchers, SearchRequest(QUERIES, "local", NUM_RANKED, num, nothing)).ids
    settings, trials = tune(QUERIES, SHARDS, COVARIANCE, agreement_with(planted), **GRIDS)
    assert (settings.decoder, settings.num_neighbors) == ("local", num)
    assert [trial.settings.num_neighbors for trial in trials if trial.score == 1.0] == [num]


@pytest.mark.parametrize(("shrinkage", "prior_weight"), [(0.05, 0.0), (0.9, 5.0)])
def test_planted_settings_of_the_whitened_decoder_are_found(shrinkage, prior_weight):
    rankers = [WhitenedDecoder(s.statistics, precision_matrix(COVARIANCE, shrinkage), prior_weight=prior_weight) for s in SHARDS]
    answers = [ranker.top_k(QUERIES, NUM_RANKED) for ranker in rankers]
    ids, scores = (np.concatenate([getattr(a, name) for a in answers], axis=1) for name in ("ids", "scores"))
    planted = np.take_along_axis(ids, np.lexsort((ids, -scores), axis=1)[:, :NUM_RANKED], axis=1)
    settings, trials = tune(QUERIES, SHARDS, COVARIANCE, agreement_with(planted), **GRIDS)
    assert max(trial.score for trial in trials) == 1.0
    assert (settings.decoder, settings.shrinkage, settings.prior_weight) == ("whitened", shrinkage, prior_weight)


def test_the_search_goes_one_setting_at_a_time():
    """Scores in the order of the trials: prior weights, shrinkages, both again, neighbours, global."""
    planted = [*(0.1, 0.3, 0.2), *(0.2, 0.4, 0.1), *(0.4, 0.4, 0.5), *(0.1, 0.2, 0.3), *(0.3, 0.7, 0.7), 0.6]
    scores = iter(planted)
    settings, trials = tune(QUERIES, SHARDS, COVARIANCE, lambda ranked: next(scores), **GRIDS)
    assert [trial.score for trial in trials] == planted
    tried = [(t.settings.decoder, t.settings.prior_weight, t.settings.shrinkage) for t in trials[:12]]
    first = DecoderSettings().shrinkage
    assert tried[:6] == [("whitened", w, first) for w in (0.0, 1.0, 5.0)] + [("whitened", 1.0, s) for s in (0.05, 0.4, 0.9)]
    assert tried[6:] == [("whitened", w, 0.4) for w in (0.0, 1.0, 5.0)] + [("whitened", 5.0, s) for s in (0.05, 0.4, 0.9)]
    assert settings == DecoderSettings(decoder="local", num_neighbors=8, shrinkage=0.4, prior_weight=5.0)


def test_the_default_is_the_best_decoder_of_all():
    scores = iter([0.1] * 15 + [0.2])
    settings, trials = tune(QUERIES, SHARDS, COVARIANCE, lambda ranked: next(scores), **GRIDS)
    assert trials[-1].settings.decoder == settings.decoder == "global"


def test_settings_survive_their_file_and_damage_is_refused():
    settings = DecoderSettings("local", 7, 0.25, 2.0)
    assert DecoderSettings.from_json(settings.to_json()) == settings
    for text in ("", "[]", "{", seal({"decoder": "global", "stranger": 1}), settings.to_json().replace("7", "8")):
        with pytest.raises(ArtefactError, match="is damaged"):
            DecoderSettings.from_json(text)
    with pytest.raises(ArtefactError, match="names the decoder 'cosine', wanted one of global, local, whitened"):
        DecoderSettings.from_json(seal({"decoder": "cosine"}))
