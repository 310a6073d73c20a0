"""BM25 by hand, and the recommender that searches with the history's titles."""

from math import log

import numpy as np
import pytest

from l2d_ray.baselines.bm25 import Bm25, Bm25Index, Bm25Settings, tune_bm25
from l2d_ray.baselines.tuning import ValidationSamples

TITLES = ["Red Moon", "Red red sea", "Golden Empire: the Sun", "Moon"]
COUNTS = np.array([1, 0, 5, 2])


def weight(num_titles, count, length, k1=1.5, b=0.5):
    """The module's formula with 4 titles of 10 words."""
    idf = log(1 + (4 - num_titles + 0.5) / (num_titles + 0.5))
    return idf * count * (k1 + 1) / (count + k1 * (1 - b + b * length / 2.5))


def test_scores_by_hand():
    scores = Bm25Index(TITLES, k1=1.5, b=0.5).scores(["red MOON", "moon, moon!", "unknown words", ""])
    wanted = np.zeros((4, 4))
    wanted[0, :2] = weight(2, 1, 2) + weight(2, 1, 2), weight(2, 2, 3)
    wanted[0, 3] = weight(2, 1, 1)
    wanted[1, [0, 3]] = 2 * weight(2, 1, 2), 2 * weight(2, 1, 1)
    np.testing.assert_allclose(scores, wanted)


def test_an_empty_catalogue_and_titles_without_words():
    assert Bm25Index([]).scores(["red"]).shape == (1, 0)
    assert Bm25Index(["", "!"]).scores(["red"]).tolist() == [[0, 0]]


def test_shared_words_come_first_then_popularity():
    ranked = Bm25(TITLES, COUNTS, Bm25Settings(num_recent=1)).rank([[2, 3], [2], []], 4)
    assert ranked.tolist() == [[3, 0, 2, 1], [2, 3, 0, 1], [2, 3, 0, 1]]


def test_only_recent_items_are_searched_with_and_that_is_tuned():
    validation = ValidationSamples([[0, 2]], np.array([0]))
    tuned = tune_bm25(TITLES, COUNTS, validation=validation, grid=[Bm25Settings(num_recent=1), Bm25Settings(num_recent=2)])
    assert tuned.settings.num_recent == 2
    assert tuned.ndcg_at_20[1][1] > tuned.ndcg_at_20[0][1]
    assert tuned.ndcg_at_20[0][1] == pytest.approx(1 / np.log2(4))  # third
