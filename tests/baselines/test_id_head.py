"""The classification head: its closed-form start equals the whitened decoder, it learns, it ranks as the others do."""

import numpy as np
import pytest

from l2d_ray.baselines.id_head import IdHead, IdHeadSettings, QuerySamples, query_ndcg, tune_id_head, whitened_start
from l2d_ray.decode.linear import WhitenedDecoder, WhitenedRule
from l2d_ray.decode.settings import DecoderSettings
from l2d_ray.errors import DataError
from l2d_ray.memory.statistics import PooledStatistics, statistics_of

NUM_ITEMS, DIM = 7, 5  # items 5 and 6 are no target
UNTRAINED = IdHeadSettings(max_epochs=0)


def make_samples(num, seed):
    """Targets in clusters, with dimensions of very different size."""
    centres = np.random.default_rng(0).normal(size=(5, DIM)) * 2
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 5, size=num)
    return QuerySamples(((centres[targets] + rng.normal(size=(num, DIM))) * 10.0 ** np.arange(DIM)).astype(np.float32), targets)


TRAIN, HELD_OUT = make_samples(400, 1), make_samples(200, 2)


def whitened():
    statistics = statistics_of(TRAIN.targets, TRAIN.queries.astype(np.float16), np.full(400, -1))
    settings = DecoderSettings(shrinkage=0.1, prior_weight=0.7, mean_shrinkage=3.0)
    return statistics, WhitenedRule.of(PooledStatistics.of([statistics]), settings)


def test_the_start_is_the_whitened_decoder():
    statistics, rule = whitened()
    start = whitened_start(statistics, rule, num_items=NUM_ITEMS)
    head = IdHead(TRAIN, NUM_ITEMS, UNTRAINED, start=start)
    wanted = WhitenedDecoder(statistics, rule).top_k(HELD_OUT.queries, 5)
    np.testing.assert_array_equal(head.rank_queries(HELD_OUT.queries, 5), wanted.ids)
    scores = np.take_along_axis(head._scores(HELD_OUT.queries), wanted.ids, 1)
    np.testing.assert_allclose(scores, wanted.scores, rtol=1e-3, atol=1e-2)


def test_without_a_start_and_training_the_ranking_is_by_frequency():
    counts = np.bincount(TRAIN.targets, minlength=NUM_ITEMS)
    wanted = np.argsort(-counts, kind="stable")
    assert IdHead(TRAIN, NUM_ITEMS, UNTRAINED).rank_queries(HELD_OUT.queries[:1], NUM_ITEMS)[0].tolist() == wanted.tolist()


def test_it_learns_the_clusters():
    head = IdHead(TRAIN, NUM_ITEMS, IdHeadSettings(learning_rate=1e-2, batch_size=64, max_epochs=30), validation=HELD_OUT)
    hits = head.rank_queries(HELD_OUT.queries, 1)[:, 0] == HELD_OUT.targets
    assert len(hits) == 200
    assert hits.mean() > 0.85


def test_validation_never_ends_below_the_start():
    start = whitened_start(*whitened(), num_items=NUM_ITEMS)

    def quality(settings):
        return query_ndcg(IdHead(TRAIN, NUM_ITEMS, settings, validation=HELD_OUT, start=start), HELD_OUT)

    assert quality(UNTRAINED) > 0.8
    assert quality(IdHeadSettings(learning_rate=1.0, max_epochs=3)) >= quality(UNTRAINED)


def test_training_goes_on_from_the_start_and_tells_its_epochs():
    start = whitened_start(*whitened(), num_items=NUM_ITEMS)
    before, after = (IdHead(TRAIN, NUM_ITEMS, IdHeadSettings(max_epochs=epochs), start=start) for epochs in (0, 2))
    assert (before.num_epochs, after.num_epochs) == (0, 2)
    moved = np.abs(after._scores(HELD_OUT.queries) - before._scores(HELD_OUT.queries))[:, :5]
    assert 0 < moved.max() < 10 * np.abs(before._scores(HELD_OUT.queries)).max()


def test_tuning_returns_the_better_head():
    hopeless, able = UNTRAINED, IdHeadSettings(learning_rate=1e-2, batch_size=64, max_epochs=10)
    tuned = tune_id_head(TRAIN, NUM_ITEMS, validation=HELD_OUT, grid=[hopeless, able])
    assert tuned.settings is able
    assert query_ndcg(tuned.system, HELD_OUT) == dict(tuned.ndcg_at_20)[able] > dict(tuned.ndcg_at_20)[hopeless]


def test_ranking_excludes_pads_and_puts_untrained_items_last():
    head = IdHead(TRAIN, NUM_ITEMS, IdHeadSettings(max_epochs=1))
    full = head.rank_queries(HELD_OUT.queries[:2], NUM_ITEMS + 1)
    assert full[:, 5:].tolist() == [[5, 6, -1]] * 2
    without = head.rank_queries(HELD_OUT.queries[:2], NUM_ITEMS, [[int(full[0, 0]), 5], []])
    assert without[0].tolist() == [*full[0, 1:5].tolist(), 6, -1, -1]
    assert without[1].tolist() == full[1, :NUM_ITEMS].tolist()


def test_refuses_what_does_not_fit():
    with pytest.raises(DataError, match="do not fit"):
        QuerySamples(TRAIN.queries, TRAIN.targets[:3])
    with pytest.raises(DataError, match=r"0\.\.2"):
        IdHead(TRAIN, 3)
