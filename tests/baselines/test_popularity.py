"""Popularity by hand."""

from l2d_ray.baselines.interface import interaction_counts
from l2d_ray.baselines.popularity import Popularity


def test_repeats_count_every_time():
    assert interaction_counts([[1, 1], [1, 2], []], 4).tolist() == [0, 3, 1, 0]


def test_everyone_gets_the_most_frequent_items_first():
    ranked = Popularity([[3, 1], [3], [2, 3, 1]], 5).rank([[3], [0]], 4)
    assert ranked.tolist() == [[3, 1, 2, 0], [3, 1, 2, 0]]
