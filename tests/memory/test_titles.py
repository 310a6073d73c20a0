"""The title map against ridge regression written out, and what it makes of items with few entries and with none."""

from dataclasses import replace

import numpy as np
import pytest

from l2d_ray.decode.linear import WhitenedDecoder, WhitenedRule
from l2d_ray.decode.settings import DecoderSettings
from l2d_ray.memory.statistics import Decay, ItemStatistics, PooledStatistics, statistics_of
from l2d_ray.memory.titles import TitleMap, TitleStates

DIM = 6
RNG = np.random.default_rng(0)
ITEMS = np.sort(RNG.integers(0, 40, 300)) * 2
VECTORS = RNG.normal(size=(300, DIM)).astype(np.float16)
TITLES = TitleStates(np.arange(100), RNG.normal(size=(100, DIM)).astype(np.float16))


def statistics(chosen: np.ndarray) -> ItemStatistics:
    return statistics_of(ITEMS[chosen], VECTORS[chosen], np.full(chosen.sum(), -1, dtype=np.int64), decay=Decay())


def everything() -> ItemStatistics:
    return statistics(np.ones(len(ITEMS), dtype=bool))


def test_the_map_is_the_weighted_ridge_regression_of_means_on_states():
    found = TitleMap.fit([everything().titled(TITLES)], ridge=0.1)
    whole = everything()
    states = np.column_stack([TITLES.states[whole.item_indexes].astype(float), np.ones(len(whole.counts))])
    root = np.sqrt(whole.counts)[:, None]
    penalty = 0.1 * (whole.counts @ np.square(states[:, :-1]).sum(axis=1)) / DIM
    extra = np.sqrt(penalty) * np.eye(DIM, DIM + 1)  # rows that pull the weights, not the offset, to zero
    wanted = np.linalg.lstsq(np.vstack([root * states, extra]), np.vstack([root * whole.means(), np.zeros((DIM, DIM))]), rcond=None)[0]
    np.testing.assert_allclose(found.weights, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.means(TITLES.states[:3]), states_of(3) @ wanted, rtol=1e-4, atol=1e-4)


def states_of(count: int) -> np.ndarray:
    return np.column_stack([TITLES.states[:count].astype(float), np.ones(count)])


def test_parts_with_disjoint_items_give_the_map_of_the_whole():
    whole = TitleMap.fit([everything().titled(TITLES)])
    parts = [statistics(chosen).titled(TITLES) for chosen in (ITEMS < 30, ITEMS >= 30, ITEMS > 1000)]
    np.testing.assert_allclose(TitleMap.fit(parts).weights, whole.weights, rtol=1e-9, atol=1e-12)
    assert TitleMap.fit(parts[2:]) is None


def test_a_map_that_is_linear_is_found():
    weights = RNG.normal(size=(DIM + 1, DIM))
    states = TITLES.states[np.unique(ITEMS)]
    made = replace(everything().titled(TITLES), sums=TitleMap(weights).means(states).astype(float) * everything().counts[:, None])
    np.testing.assert_allclose(TitleMap.fit([made], ridge=1e-12).weights, weights, atol=1e-5)


@pytest.mark.parametrize("cold_count", [None, 0.0, 2.5])
def test_representations_and_priors_by_hand(cold_count):
    whole = everything()
    pooled = replace(PooledStatistics.of([whole]), title_map=TitleMap.fit([whole.titled(TITLES)]))
    settings = DecoderSettings(mean_shrinkage=3.0, prior_weight=2.0, prior_smoothing=0.5, cold_count=cold_count)
    items = WhitenedRule.of(pooled, settings).represent(whole, TITLES)
    assert items.item_indexes.tolist() == (whole.item_indexes.tolist() if cold_count is None else list(range(100)))
    known = pooled.title_map.means(TITLES.states)
    for item, representation, prior in zip(items.item_indexes, items.representations, items.priors, strict=True):
        mine = VECTORS[item == ITEMS].astype(float)
        wanted = (mine.sum(axis=0) + 3.0 * known[item]) / (len(mine) + 3.0)
        np.testing.assert_allclose(representation, wanted, rtol=1e-4, atol=1e-4)
        assert prior == pytest.approx(2.0 * np.log((len(mine) if len(mine) else cold_count) + 0.5))


def test_without_shrinkage_an_item_with_entries_is_their_mean_and_one_without_is_its_title():
    whole = everything()
    pooled = replace(PooledStatistics.of([whole]), title_map=TitleMap.fit([whole.titled(TITLES)]))
    items = WhitenedRule.of(pooled, DecoderSettings(mean_shrinkage=0.0, cold_count=1.0)).represent(whole, TITLES)
    np.testing.assert_array_equal(items.representations[whole.item_indexes], whole.means())
    cold = np.setdiff1d(np.arange(100), whole.item_indexes)
    assert len(cold) > 50
    np.testing.assert_array_equal(items.representations[cold], pooled.title_map.means(TITLES.states)[cold])


def test_where_titles_are_not_shrunk_to_nothing_of_them_is_seen():
    whole, settings = everything(), DecoderSettings(shrinks_to_titles=False, cold_count=5.0)
    pooled = PooledStatistics.of([whole])
    titled = replace(pooled, title_map=TitleMap.fit([whole.titled(TITLES)]))
    queries = RNG.normal(size=(20, DIM)).astype(np.float32)
    plain = WhitenedDecoder(whole, WhitenedRule.of(pooled, settings)).top_k(queries, 10)
    found = WhitenedDecoder(whole, WhitenedRule.of(titled, settings), TITLES).top_k(queries, 10)
    np.testing.assert_array_equal(plain.ids, found.ids)
    assert (plain.ids % 2 == 0).all()
