"""Popularity by hand."""

import numpy as np
import pytest

from l2d_ray.baselines.interface import interaction_counts
from l2d_ray.baselines.popularity import Popularity, tune_popularity
from l2d_ray.baselines.tuning import ValidationSamples
from l2d_ray.errors import ConfigError, DataError


def test_repeats_count_every_time():
    assert interaction_counts([[1, 1], [1, 2], []], 4).tolist() == [0, 3, 1, 0]


def test_everyone_gets_the_most_frequent_items_first():
    ranked = Popularity([[3, 1], [3], [2, 3, 1]], 5).rank([[3], [0]], 4)
    assert ranked.tolist() == [[3, 1, 2, 0], [3, 1, 2, 0]]


def test_without_times_weight_is_lost_with_every_later_position():
    ranked = Popularity([[0, 0, 1], [0, 1]], 3, half_life=1.0).rank([[]], 3)  # item 0: 1/4 + 1/2 + 1/2; item 1: 1 + 1
    assert ranked.tolist() == [[1, 0, 2]]
    assert Popularity([[0, 0, 1], [0, 1]], 3, half_life=100.0).rank([[]], 3).tolist() == [[0, 1, 2]]


def test_with_times_old_interactions_count_less_and_unknown_times_in_full():
    train, times = [[0, 0, 1], [2]], [[0, 0, 20], [-1]]
    assert Popularity(train, 3, half_life=10.0, times=times)._scores.tolist() == [0.5, 1.0, 1.0]


def test_the_half_life_is_tuned():
    train, validation = [[0, 0, 1]], ValidationSamples([[0]], np.array([1]))
    tuned = tune_popularity(train, 2, validation=validation, half_lives=[None, 0.1])
    assert tuned.settings == 0.1
    assert tune_popularity(train, 2, validation=validation, times=[[0, 0, 10**9]]).settings is not None


def test_refuses_what_has_no_meaning():
    with pytest.raises(ConfigError, match="half_life is 0"):
        Popularity([[0]], 1, half_life=0)
    with pytest.raises(DataError, match="not parallel"):
        Popularity([[0]], 1, half_life=1, times=[[]])
