"""Session-kNN: the published method by hand and against a slow reference, what each of our own settings means, tuning."""

from collections import defaultdict
from dataclasses import replace
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2d_ray.baselines.session_knn import PUBLISHED, SessionKnn, SessionKnnSettings, tune_session_knn
from l2d_ray.baselines.tuning import ValidationSamples
from l2d_ray.errors import DataError

NUM_ITEMS = 6
SEQUENCES = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=7), max_size=8)
HISTORY = st.lists(st.integers(0, NUM_ITEMS - 1), max_size=6)


def evidence(train, num_items, history, options, **arguments):
    """Scores of the items with evidence, 0 elsewhere."""
    return np.maximum(SessionKnn(train, num_items, options, **arguments)._scores([history])[0], 0.0)


def test_the_published_method_by_hand():
    train = [[0, 1], [1, 2], [0, 3]]
    scores = evidence(train, 4, [0, 1], PUBLISHED)  # weights: item 1 has 1, item 0 has 1/2; ages 0 and 1
    np.testing.assert_allclose(scores, [1.5 + 0.25, 1.5 + 1, 1, 0.25])  # similarities 1.5, 1, 0.5; the last counts half, age 1


def test_rare_items_count_more_with_idf_weights():
    train = [[0, 1], [0, 2], [2]]
    scores = evidence(train, 3, [0], replace(PUBLISHED, idf_weight=2.0))
    assert scores[1] == pytest.approx(1 + 2 * log(3 / 1))
    assert scores[2] == pytest.approx(1 + 2 * log(3 / 2))


def reference(train, num_items, history, options):
    """The formulas of the module, written out; the last sequence is the most recent one."""
    recent = history[-options.num_recent :]
    ages = {item: len(recent) - 1 - place for place, item in enumerate(recent)}
    weights = {item: (1 - age / len(recent)) ** options.recency_power for item, age in ages.items()}
    candidates = [user for user in reversed(range(len(train))) if set(train[user]) & ages.keys()][: options.sample_size]
    similarity = {u: sum(weights[i] for i in set(train[u]) & ages.keys()) / len(set(train[u])) ** options.length_power for u in candidates}
    scores = defaultdict(float)
    for user in sorted(candidates, key=lambda u: (-similarity[u], -u))[: options.num_neighbors]:
        places = {item: place for place, item in enumerate(train[user])}
        shared = min(places.keys() & ages.keys(), key=lambda i: ages[i])
        for item, place in places.items():
            gap = place - places[shared]
            worth = similarity[user] / (1 + ages[shared]) ** options.match_power
            worth *= options.gap_decay ** max(abs(gap) - 1, 0) * (options.backward_weight if gap < 0 else 1)
            frequency = sum(item in sequence for sequence in train)
            worth *= 1 + options.idf_weight * log(len(train) / frequency)
            scores[item] += worth * (options.repeat_weight if item in ages else 1)
    return [scores[item] for item in range(num_items)]


@settings(max_examples=60)
@given(train=SEQUENCES, history=HISTORY, options=st.sampled_from([PUBLISHED, SessionKnnSettings(), SessionKnnSettings(idf_weight=0.0)]))
def test_equals_the_reference(train, history, options):
    options = replace(options, num_recent=4)
    np.testing.assert_allclose(evidence(train, NUM_ITEMS, history, options), reference(train, NUM_ITEMS, history, options), atol=1e-12)


@settings(max_examples=40)
@given(train=SEQUENCES, history=HISTORY, sample_size=st.integers(1, 4), num_neighbors=st.integers(1, 3))
def test_the_most_recent_are_sampled_and_the_most_similar_kept(train, history, sample_size, num_neighbors):
    options = SessionKnnSettings(sample_size=sample_size, num_neighbors=num_neighbors)
    np.testing.assert_allclose(evidence(train, NUM_ITEMS, history, options), reference(train, NUM_ITEMS, history, options), atol=1e-12)


def test_last_times_say_what_is_recent():
    train = [[0, 1], [0, 2]]
    one = SessionKnnSettings(sample_size=1)
    assert SessionKnn(train, 3, one).rank([[0]], 1).tolist() == [[2]]
    assert SessionKnn(train, 3, one, last_times=[9, 5]).rank([[0]], 1).tolist() == [[1]]
    with pytest.raises(DataError, match="1 last times for 2 training sequences"):
        SessionKnn(train, 3, one, last_times=[9])


def test_tuning_takes_the_best_candidate():
    train = [[0, 1], [0, 2]]
    forward, never = SessionKnnSettings(sample_size=2), SessionKnnSettings(sample_size=1)
    validation = ValidationSamples([[0]], np.array([2]))
    tuned = tune_session_knn(train, 3, validation=validation, grid=[forward, never])
    assert [candidate for candidate, _ in tuned.ndcg_at_20] == [forward, never]
    assert tuned.settings is never
    assert tuned.system.rank([[0]], 1).tolist() == [[2]]
