"""Item-kNN: similarities by hand and against a slow reference, the meaning of each setting, tuning."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2d_ray.baselines.item_knn import PLAIN_COSINE, ItemKnn, ItemKnnSettings, tune_item_knn
from l2d_ray.baselines.tuning import Steps, ValidationSamples

SEQUENCES = st.lists(st.lists(st.integers(0, 5), max_size=8), max_size=8)


def similarity(train, num_items, options):
    """The fitted matrix, densely; ``[j, i]`` is what history item j says for item i."""
    return ItemKnn(train, num_items, options)._similarity.toarray()


def test_plain_cosine_by_hand():
    train = [[0, 1], [0, 1, 1], [0, 2]]  # users: item 0 three, item 1 two, item 2 one
    expected = np.zeros((3, 3))
    expected[0, 1] = expected[1, 0] = 2 / np.sqrt(6)
    expected[0, 2] = expected[2, 0] = 1 / np.sqrt(3)
    np.testing.assert_allclose(similarity(train, 3, PLAIN_COSINE), expected)
    shrunk = similarity(train, 3, replace(PLAIN_COSINE, shrinkage=4.0))
    assert shrunk[0, 1] == pytest.approx(2 / (np.sqrt(6) + 4))


def test_ordered_counts_by_hand():
    options = ItemKnnSettings(shrinkage=0.0, window=2, gap_decay=0.5, backward_weight=0.25)
    matrix = similarity([[0, 1, 0, 2]], 3, options)
    assert matrix[0, 1] == pytest.approx(1 + 0.25)  # 0 then 1; 1 then 0
    assert matrix[1, 0] == pytest.approx(1 + 0.25)
    assert matrix[0, 0] == pytest.approx(0.5)  # a repeat two steps later, counted once
    assert matrix[0, 2] == pytest.approx(1)  # the first 0 is outside the window of 2
    assert matrix[2, 0] == pytest.approx(0.25)
    assert matrix[1, 2] == pytest.approx(0.5)


def reference_ordered(train, num_items, options):
    counts, users = np.zeros((num_items, num_items)), np.zeros(num_items)
    for sequence in train:
        users[list(set(sequence))] += 1
        for (p, left), (q, right) in combinations(enumerate(sequence), 2):
            if q - p <= options.window:
                weight = options.gap_decay ** (q - p - 1)
                counts[left, right] += weight
                counts[right, left] += 0 if left == right else weight * options.backward_weight
    return counts / np.maximum(np.sqrt(np.outer(users, users)) + options.shrinkage, 1e-9)


@settings(max_examples=40)
@given(train=SEQUENCES)
def test_ordered_counts_equal_the_reference(train):
    options = ItemKnnSettings(shrinkage=2.0, window=3, gap_decay=0.7, backward_weight=0.4)
    np.testing.assert_allclose(similarity(train, 6, options), reference_ordered(train, 6, options))


def test_a_year_between_two_interactions_counts_where_times_and_their_scale_are_known():
    train, times, day = [[0, 1, 2]], [[0, 0, 86_400]], 86_400
    options = ItemKnnSettings(shrinkage=0.0, window=2, gap_decay=0.5, backward_weight=0.25, time_scale_s=day)
    matrix = ItemKnn(train, 3, options, times=times)._similarity.toarray()
    assert matrix[0, 1] == pytest.approx(1)
    assert matrix[1, 2] == pytest.approx(0.75)  # as far apart as the scale
    assert matrix[2, 0] == pytest.approx(0.5 * 0.25 * 0.75)
    np.testing.assert_array_equal(similarity(train, 3, options), similarity(train, 3, replace(options, time_scale_s=None)))


@settings(max_examples=40)
@given(train=SEQUENCES, num_neighbors=st.integers(1, 6))
def test_only_the_largest_neighbours_are_kept(train, num_neighbors):
    full = similarity(train, 6, ItemKnnSettings(num_neighbors=6))
    kept = similarity(train, 6, ItemKnnSettings(num_neighbors=num_neighbors))
    for full_row, kept_row in zip(full, kept, strict=True):
        wanted = sorted(full_row[full_row > 0])[::-1][:num_neighbors]
        np.testing.assert_array_equal(sorted(kept_row[kept_row > 0])[::-1], wanted)
        np.testing.assert_array_equal(kept_row[kept_row > 0], full_row[kept_row > 0])


def test_recent_items_weigh_more_and_old_ones_are_forgotten():
    train = [[0, 2], [1, 3]]
    options = replace(PLAIN_COSINE, recency_decay=0.5, num_recent=2)
    model = ItemKnn(train, 4, options)
    assert model.rank([[0, 1], [1, 0], [0, 1, 1]], 2).tolist() == [[3, 2], [2, 3], [3, 0]]


def test_items_of_the_history_are_worth_what_their_weight_says():
    train, histories = [[0, 1, 2], [0, 1, 2], [1, 0]], [[0, 1], [2, 0, 1], [], [1, 0, 1]]
    options = ItemKnnSettings(num_recent=2)
    plain, weighed = (ItemKnn(train, 4, replace(options, repeat_weight=weight)).scores(histories) for weight in (1.0, 0.25))
    assert (plain[[0, 1, 3], :3] > 0).all()
    expected = plain.copy()
    expected[[0, 1, 3], 0] *= 0.25  # recent, and not the very last
    np.testing.assert_allclose(weighed, expected)


def test_tuning_takes_the_best_candidate_and_the_first_of_equals():
    train = [[0, 2], [1, 3], [0, 2]]
    forgetful, mindful = replace(PLAIN_COSINE, num_recent=1), replace(PLAIN_COSINE, num_recent=2, recency_decay=3.0)
    tuned = tune_item_knn(train, 4, validation=ValidationSamples([[1, 0]], np.array([3])), steps=Steps((forgetful, mindful, mindful)))
    assert tuned.settings is mindful
    assert [candidate for candidate, _ in tuned.ndcg_at_20] == [forgetful, mindful, mindful]
    assert tuned.ndcg_at_20[1][1] == 1.0
    assert tuned.ndcg_at_20[0][1] < 1.0
