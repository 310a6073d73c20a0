"""Metrics: hand-computed values, a slow reference in plain Python, and the laws of the bootstrap."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2d_ray.errors import DataError
from l2d_ray.evaluate.metrics import (
    CUTOFFS,
    bootstrap_intervals,
    metric_means,
    metric_values,
    ndcg_values,
    paired_bootstrap,
    recall_values,
    target_ranks,
    target_title_ranks,
)

RANKED = np.array([[3, 1, 2], [0, 4, -1], [2, -1, -1], [-1, -1, -1]])


def test_ranks_by_hand():
    assert target_ranks(RANKED, np.array([2, 0, 1, 1])).tolist() == [2, 0, -1, -1]


def test_padding_is_never_a_hit():
    assert target_ranks(RANKED, np.array([-1, -1, -1, -1])).tolist() == [-1, -1, -1, -1]


def test_lists_without_columns_are_all_misses():
    assert target_ranks(np.empty((2, 0), np.int64), np.array([0, 1])).tolist() == [-1, -1]


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match=r"\(4, 3\)"):
        target_ranks(RANKED, np.array([1, 2]))


def test_title_ranks_take_the_first_item_with_the_title():
    titles = ["Greatest Hits", "Abbey Road", "Greatest Hits", "Blue", "Kind of Blue"]
    # item 2 is wanted; item 0 shares its title and stands first in row 1
    assert target_title_ranks(RANKED, np.array([2, 2, 0, 3]), titles=titles).tolist() == [2, 0, 0, -1]


def test_metrics_by_hand():
    ranks = np.array([0, 2, 9, 10, -1])
    assert recall_values(ranks, 10).tolist() == [1, 1, 1, 0, 0]
    expected = [1, 1 / math.log2(4), 1 / math.log2(11), 0, 0]
    np.testing.assert_allclose(ndcg_values(ranks, 10), expected)
    means = metric_means(ranks)
    assert list(means) == [f"recall@{k}" for k in CUTOFFS] + [f"ndcg@{k}" for k in CUTOFFS]
    assert means["recall@20"] == pytest.approx(0.8)
    assert means["ndcg@20"] == pytest.approx((1 + 0.5 + 1 / math.log2(11) + 1 / math.log2(12)) / 5)


def reference_metrics(ranked, target, k):
    """Recall and NDCG of one sample the slow way: walk the list, discount, divide by the ideal DCG."""
    gains = [1.0 if item == target else 0.0 for item in ranked[:k]]
    dcg = sum(gain / math.log2(position + 2) for position, gain in enumerate(gains))
    return sum(gains), dcg / (1.0 / math.log2(2))


@given(st.data())
def test_metrics_equal_the_reference(data):
    num_items = data.draw(st.integers(1, 30))
    length = data.draw(st.integers(1, num_items))
    rows = data.draw(st.lists(st.permutations(range(num_items)), min_size=1, max_size=5))
    targets = data.draw(st.lists(st.integers(0, num_items - 1), min_size=len(rows), max_size=len(rows)))
    k = data.draw(st.integers(1, 30))
    ranked = np.full((len(rows), length + 2), -1)
    ranked[:, :length] = [row[:length] for row in rows]
    ranks = target_ranks(ranked, np.array(targets))
    reference = [reference_metrics(row[:length], target, k) for row, target in zip(rows, targets, strict=True)]
    np.testing.assert_allclose(np.stack([recall_values(ranks, k), ndcg_values(ranks, k)], axis=1), reference)


@given(st.lists(st.integers(-1, 120), min_size=1, max_size=60))
def test_metrics_grow_with_k_and_ndcg_is_at_most_recall(ranks):
    values = metric_values(np.array(ranks))
    for small, large in pairwise(CUTOFFS):
        assert (values[f"recall@{small}"] <= values[f"recall@{large}"]).all()
        assert (values[f"ndcg@{small}"] <= values[f"ndcg@{large}"]).all()
    assert all((values[f"ndcg@{k}"] <= values[f"recall@{k}"]).all() for k in CUTOFFS)


@given(st.lists(st.integers(-1, 99), min_size=1, max_size=60))
def test_intervals_hold_the_mean_of_the_samples(ranks):
    intervals = bootstrap_intervals(np.array(ranks), num_bootstrap=200)
    means = metric_means(np.array(ranks))
    for name, interval in intervals.items():
        assert interval.mean == pytest.approx(means[name])
        assert 0 <= interval.low <= interval.high <= 1


def test_interval_of_recall_has_the_width_of_a_binomial():
    ranks = np.where(np.arange(4000) % 5 == 0, 3, -1)  # recall .2, standard error sqrt(.2 * .8 / 4000) = .0063
    interval = bootstrap_intervals(ranks, num_bootstrap=4000, seed=1)["recall@10"]
    assert interval.low == pytest.approx(0.2 - 1.96 * 0.00632, abs=0.001)
    assert interval.high == pytest.approx(0.2 + 1.96 * 0.00632, abs=0.001)


def test_bootstrap_agrees_with_one_that_writes_the_resamples_out():
    ranks = np.random.default_rng(3).integers(-1, 100, 300)
    values = ndcg_values(ranks, 50)
    drawn = values[np.random.default_rng(4).integers(0, 300, (4000, 300))].mean(axis=1)
    interval = bootstrap_intervals(ranks, num_bootstrap=4000)["ndcg@50"]
    np.testing.assert_allclose([interval.low, interval.high], np.percentile(drawn, [2.5, 97.5]), atol=0.002)


def test_equal_seeds_give_equal_intervals_whatever_the_order_of_samples():
    ranks = np.random.default_rng(0).integers(-1, 100, 500)
    assert bootstrap_intervals(ranks, seed=7) == bootstrap_intervals(ranks[::-1], seed=7)
    assert bootstrap_intervals(ranks, seed=7) != bootstrap_intervals(ranks, seed=8)


def test_resampling_in_chunks_draws_the_same_resamples(monkeypatch):
    ranks = np.random.default_rng(0).integers(-1, 100, 500)
    whole = bootstrap_intervals(ranks, num_bootstrap=300)
    monkeypatch.setattr("l2d_ray.evaluate.metrics._MAX_CELLS", 700)
    assert bootstrap_intervals(ranks, num_bootstrap=300) == whole


def test_paired_difference_sees_what_the_single_intervals_cannot():
    generator = np.random.default_rng(5)
    ranks = np.where(generator.random(1000) < 0.3, 5, -1)
    better = np.where((ranks < 0) & (generator.random(1000) < 0.03), 5, ranks)
    difference = paired_bootstrap(better, ranks)["recall@10"]
    assert difference.mean == pytest.approx(metric_means(better)["recall@10"] - metric_means(ranks)["recall@10"])
    assert 0 < difference.low < difference.mean < difference.high
    single, other = bootstrap_intervals(better)["recall@10"], bootstrap_intervals(ranks)["recall@10"]
    assert single.low < other.high


def test_a_system_does_not_differ_from_itself():
    ranks = np.random.default_rng(0).integers(-1, 100, 200)
    assert {(d.mean, d.low, d.high) for d in paired_bootstrap(ranks, ranks).values()} == {(0.0, 0.0, 0.0)}


def test_unpaired_and_empty_ranks_are_refused():
    with pytest.raises(DataError, match="2 and 3"):
        paired_bootstrap(np.zeros(2, np.int64), np.zeros(3, np.int64))
    with pytest.raises(DataError, match="0 samples"):
        metric_means(np.empty(0, np.int64))
