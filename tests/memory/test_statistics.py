"""Item statistics are exact: what was added can be taken away again, bit for bit, in any order and any blocks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2d_ray.memory.statistics import (
    NO_TIMESTAMP,
    Decay,
    ItemStatistics,
    PooledStatistics,
    StatisticsBuilder,
    decayed_counts,
    merge_statistics,
    statistics_of,
    subtract_statistics,
    with_times,
)

DECAY = Decay(half_life_s=10, reference_time=100)
EXACT = ("item_indexes", "counts", "sums", "last_timestamps", "decayed_counts")


def make_entries(count: int, num_items: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-4, 4, (count, 1))
    times = rng.integers(NO_TIMESTAMP, 99, count)
    return rng.integers(0, num_items, count), (rng.normal(size=(count, 3)) * scale).astype(np.float16), times


def assert_same(found: ItemStatistics, expected: ItemStatistics) -> None:
    for name in EXACT:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    np.testing.assert_allclose(found.scatter, expected.scatter, rtol=1e-9, atol=1e-9 * np.abs(expected.scatter).max(initial=1))


def test_by_hand():
    vectors = np.array([[1, 0], [3, 4], [0, 2]], dtype=np.float16)
    found = statistics_of(np.array([7, 7, 2]), vectors, np.array([5, NO_TIMESTAMP, NO_TIMESTAMP]))
    assert found.item_indexes.tolist() == [2, 7]
    assert found.counts.tolist() == found.decayed_counts.tolist() == [1, 2]
    assert found.sums.tolist() == [[0, 2], [4, 4]]
    assert found.last_timestamps.tolist() == [NO_TIMESTAMP, 5]
    assert found.means().tolist() == [[0, 2], [2, 2]]
    assert found.scatter.tolist() == [[10, 12], [12, 20]]
    assert PooledStatistics.of([found]).within_covariance.tolist() == [[2, 4], [4, 8]]
    assert found.num_entries == 3


def test_decayed_counts_by_hand():
    """Two half-lives old, one, none, in the future and of unknown time."""
    times = np.array([80, 90, 100, 500, NO_TIMESTAMP])
    found = statistics_of(np.array([0, 0, 0, 1, 2]), np.ones((5, 1), dtype=np.float16), times, decay=DECAY)
    assert found.decayed_counts.tolist() == [1.75, 1, 1]
    assert Decay(half_life_s=1, reference_time=10**9).weights(np.array([0])).tolist() == [0]


@pytest.mark.parametrize("seed", range(5))
def test_add_then_remove_is_the_identity(seed):
    items, vectors, times = make_entries(300, 20, seed)
    kept, added = slice(0, 200), slice(200, 300)
    before = statistics_of(items[kept], vectors[kept], times[kept], decay=DECAY)
    extra = statistics_of(items[added], vectors[added], times[added], decay=DECAY)
    after = subtract_statistics(merge_statistics([before, extra]), extra)
    assert_same(with_times(after, [(items[kept], times[kept])], decay=DECAY), before)
    np.testing.assert_array_equal(after.decayed_counts, before.decayed_counts)
    assert np.ptp(np.log10(np.abs(vectors[vectors != 0]).astype(float))) > 6


def test_items_whose_last_entry_went_are_dropped():
    items, vectors, times = np.array([3, 5, 5]), np.ones((3, 2), dtype=np.float16), np.array([1, 2, 3])
    left = subtract_statistics(statistics_of(items, vectors, times), statistics_of(items[:1], vectors[:1], times[:1]))
    assert left.item_indexes.tolist() == [5]
    assert left.counts.tolist() == [2]


@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_blocks_and_order_do_not_matter(seed: int, num_blocks: int):
    items, vectors, times = make_entries(60, 9, seed)
    builder = StatisticsBuilder(np.arange(12), 3, DECAY)
    for rows in np.array_split(np.random.default_rng(seed).permutation(60), num_blocks):
        builder.add(items[rows], vectors[rows], times[rows])
    whole = statistics_of(items, vectors, times, decay=DECAY)
    assert_same(builder.result(), whole)
    blocks = [(items[rows], times[rows]) for rows in np.array_split(np.arange(60), num_blocks)]
    assert_same(with_times(statistics_of(items, vectors, np.zeros(60, dtype=np.int64)), blocks, decay=DECAY), whole)


def test_a_builder_without_entries_has_no_items():
    empty = StatisticsBuilder(np.arange(3), 2).result()
    assert (len(empty.item_indexes), empty.sums.shape, empty.num_entries) == (0, (0, 2), 0)


def test_items_with_one_entry_have_no_scatter_within():
    items, vectors, times = np.arange(5), make_entries(5, 5)[1], np.full(5, NO_TIMESTAMP)
    assert np.abs(PooledStatistics.of([statistics_of(items, vectors, times)]).within_covariance).max() < 1e-6


def test_pooled_statistics_do_not_depend_on_the_partition():
    rng = np.random.default_rng(0)
    items, vectors = np.sort(rng.integers(0, 9, 200)), rng.normal(size=(200, 5)).astype(np.float16)
    times = np.full(200, NO_TIMESTAMP)
    whole = PooledStatistics.of([statistics_of(items, vectors, times)])
    parts = PooledStatistics.of([statistics_of(items[mine], vectors[mine], times[mine]) for mine in (items < 4, items >= 4)])
    np.testing.assert_array_equal(parts.mean, whole.mean)
    np.testing.assert_allclose(whole.mean, vectors.astype(float).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(parts.within_covariance, whole.within_covariance, rtol=1e-9)


def test_decayed_counts_of_many_half_lives_take_one_pass():
    rng = np.random.default_rng(1)
    items, times = rng.integers(0, 9, 300).astype(np.int64), rng.integers(0, 100, 300)
    decays = [Decay(), Decay(10, 100), Decay(40, 100)]
    blocks = iter([(items[:120], times[:120]), (items[120:], times[120:])])
    for decay, found in zip(decays, decayed_counts(np.arange(9), blocks, decays), strict=True):
        wanted = statistics_of(items, np.ones((300, 2), dtype=np.float16), times, decay=decay)
        np.testing.assert_array_equal(found, wanted.decayed_counts)
