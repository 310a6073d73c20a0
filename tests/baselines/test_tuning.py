"""Tuning: the best candidate, the first of equals, and no verdict on nothing."""

from dataclasses import dataclass

import numpy as np
import pytest

from l2d_ray.baselines.tuning import Steps, ValidationSamples, tune, tune_in_steps
from l2d_ray.errors import ConfigError, DataError

SAMPLES = ValidationSamples([[1], [2]], np.array([0, 0]))


class Always:
    """Ranks one item first for everyone."""

    def __init__(self, item):
        self.item = item

    def rank(self, histories, k, exclude=None):
        return np.full((len(histories), k), self.item, np.int64)


def test_the_best_candidate_is_kept_and_the_first_of_equals():
    tuned = tune([1, 0, 0], Always, SAMPLES)
    assert (tuned.settings, tuned.system.item) == (0, 0)
    assert tuned.ndcg_at_20 == ((1, 0.0), (0, 1.0), (0, 1.0))


@dataclass(frozen=True)
class Pair:
    first: int = 5
    second: int = 5


def test_steps_vary_the_best_so_far_one_field_after_another():
    steps = Steps((Pair(),), (("first", (4, 0, 3)), ("second", (0, 4))))
    tuned = tune_in_steps(steps, lambda pair: Always(pair.first), SAMPLES)
    assert [settings for settings, _ in tuned.ndcg_at_20] == [Pair(), Pair(4), Pair(0), Pair(3), Pair(0, 0), Pair(0, 4)]
    assert [score for _, score in tuned.ndcg_at_20] == [0, 0, 1, 0, 1, 1]
    assert (tuned.settings, tuned.system.item) == (Pair(0), 0)  # of equals the first stays, over all steps
    assert tune_in_steps(Steps((Pair(0),)), lambda pair: Always(pair.first), SAMPLES).settings == Pair(0)


def test_refuses_to_choose_from_or_by_nothing():
    with pytest.raises(ConfigError, match="no settings"):
        tune([], Always, SAMPLES)
    with pytest.raises(DataError, match="at least one"):
        ValidationSamples([], np.array([], np.int64))
    with pytest.raises(DataError, match="1 histories"):
        ValidationSamples([[0]], np.array([1, 2]))
