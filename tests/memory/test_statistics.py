"""Item statistics are exact: what was added can be taken away again, bit for bit."""

import numpy as np
import pytest

from l2d_ray.memory.statistics import NO_TIMESTAMP, merge_statistics, statistics_of, within_covariance


def make_entries(count: int, num_items: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-4, 4, (count, 1))
    return rng.integers(0, num_items, count), (rng.normal(size=(count, 3)) * scale).astype(np.float16), rng.integers(0, 99, count)


def test_by_hand():
    vectors = np.array([[1, 0], [3, 4], [0, 2]], dtype=np.float16)
    found = statistics_of(np.array([7, 7, 2]), vectors, np.array([5, NO_TIMESTAMP, NO_TIMESTAMP]))
    assert found.item_indexes.tolist() == [2, 7]
    assert found.counts.tolist() == [1, 2]
    assert found.sums.tolist() == [[0, 2], [4, 4]]
    assert found.last_timestamps.tolist() == [NO_TIMESTAMP, 5]
    assert found.means().tolist() == [[0, 2], [2, 2]]
    assert found.scatter.tolist() == [[10, 12], [12, 20]]
    assert within_covariance([found]).tolist() == [[2, 4], [4, 8]]
    assert found.num_entries == 3


@pytest.mark.parametrize("seed", range(5))
def test_add_then_remove_is_the_identity(seed):
    items, vectors, times = make_entries(300, 6, seed)
    kept, added = slice(0, 200), slice(200, 300)
    before = statistics_of(items[kept], vectors[kept], times[kept])
    extra = statistics_of(items[added], vectors[added], times[added])
    after = merge_statistics([before, extra])
    assert before.item_indexes.tolist() == extra.item_indexes.tolist() == after.item_indexes.tolist()
    np.testing.assert_array_equal(after.sums - extra.sums, before.sums)
    np.testing.assert_array_equal(after.counts - extra.counts, before.counts)
    assert np.ptp(np.log10(np.abs(vectors[vectors != 0]).astype(float))) > 6


def test_items_with_one_entry_have_no_scatter_within():
    items, vectors, times = np.arange(5), make_entries(5, 5)[1], np.full(5, NO_TIMESTAMP)
    assert np.abs(within_covariance([statistics_of(items, vectors, times)])).max() < 1e-6
