"""The k-core against a slow reference, whole and in partitions."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from l2d_ray.data.k_core import alive_interactions, core_items


def slow_core(pairs, k):
    while True:
        users, items = Counter(user for user, _ in pairs), Counter(item for _, item in pairs)
        left = [(user, item) for user, item in pairs if users[user] >= k and items[item] >= k]
        if len(left) == len(pairs):
            return left
        pairs = left


def fast_core(pairs, k, num_items, num_partitions=1):
    partitions = [np.array([p for p in pairs if p[0] % num_partitions == n], dtype=np.int64).reshape(-1, 2) for n in range(num_partitions)]

    def left(item_is_alive):
        return [part[alive_interactions(part[:, 0], part[:, 1], item_is_alive, k)] for part in partitions]

    alive = core_items(num_items, k, lambda mask: sum(np.bincount(part[:, 1], minlength=num_items) for part in left(mask)))
    return alive, sorted(tuple(map(int, pair)) for part in left(alive) for pair in part)


def test_a_chain_falls_apart_and_a_square_stays():
    square = [(0, 0), (0, 1), (1, 0), (1, 1)]
    chain = [(2, 1), (2, 2), (3, 2), (3, 3)]  # loses its end, then the next, then all
    alive, left = fast_core(square + chain, 2, num_items=5)
    assert left == square
    assert alive.tolist() == [True, True, False, False, False]


def test_k_zero_keeps_items_without_interactions():
    alive, left = fast_core([(0, 0)], 0, num_items=2)
    assert alive.all()
    assert left == [(0, 0)]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60), st.integers(0, 4), st.integers(1, 3))
def test_equals_the_slow_reference_under_any_partition(pairs, k, num_partitions):
    alive, left = fast_core(pairs, k, 7, num_partitions)
    expected = slow_core(pairs, k)
    assert left == sorted(expected)
    if k >= 1:
        assert set(np.flatnonzero(alive).tolist()) == {item for _, item in expected}
