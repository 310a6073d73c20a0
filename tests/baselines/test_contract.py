"""The contract of every baseline: shape, padding, exclusion, ties, and what happens to a history that says nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2d_ray.baselines.item_knn import PLAIN_COSINE, ItemKnn
from l2d_ray.baselines.popularity import Popularity

NUM_ITEMS = 8
TRAIN = [[0, 1, 2], [1, 2, 0], [2, 1], [3, 2], [5, 4, 2]]  # items 6 and 7 are cold; counts 2 3 5 1 1 1 0 0
POPULARITY_ORDER = [2, 1, 0, 3, 4, 5, 6, 7]

FACTORIES = {
    "popularity": Popularity,
    "item-knn": ItemKnn,
    "item-knn-plain": lambda sequences, num_items: ItemKnn(sequences, num_items, PLAIN_COSINE),
}


@pytest.fixture(params=FACTORIES, name="fit")
def fit_fixture(request):
    return FACTORIES[request.param]


def test_answers_are_int64_rows_without_repeats(fit):
    ranked = fit(TRAIN, NUM_ITEMS).rank([[0, 1], [3], []], 5)
    assert ranked.shape == (3, 5)
    assert ranked.dtype == np.int64
    assert all(len(set(row)) == 5 for row in ranked.tolist())
    assert ranked.min() >= 0
    assert ranked.max() < NUM_ITEMS


def test_no_request_gives_no_row(fit):
    assert fit(TRAIN, NUM_ITEMS).rank([], 4).shape == (0, 4)
    assert fit(TRAIN, NUM_ITEMS).rank([], 4, []).shape == (0, 4)


def test_a_long_list_holds_the_whole_catalogue_and_then_padding(fit):
    ranked = fit(TRAIN, NUM_ITEMS).rank([[0]], NUM_ITEMS + 3)[0].tolist()
    assert sorted(ranked[:NUM_ITEMS]) == list(range(NUM_ITEMS))
    assert ranked[NUM_ITEMS:] == [-1, -1, -1]


@pytest.mark.parametrize("history", [[], [6], [7, 6]])
def test_a_history_that_says_nothing_gets_the_popularity_order(fit, history):
    assert fit(TRAIN, NUM_ITEMS).rank([history], NUM_ITEMS)[0].tolist() == POPULARITY_ORDER


def test_without_training_data_items_come_in_index_order(fit):
    assert fit([], 4).rank([[1]], 5)[0].tolist() == [0, 1, 2, 3, -1]


def test_equal_evidence_is_ordered_by_smaller_index(fit):
    mirrored = [[0, 3], [0, 2], [0, 1]]  # items 1, 2 and 3 differ in nothing but their index
    ranked = fit(mirrored, 4).rank([[0]], 4)[0].tolist()
    assert [item for item in ranked if item != 0] == [1, 2, 3]


@given(data=st.data())
def test_exclusion_is_the_full_ranking_without_the_excluded_items(data):
    system = FACTORIES[data.draw(st.sampled_from(sorted(FACTORIES)))](TRAIN, NUM_ITEMS)
    item = st.integers(0, NUM_ITEMS - 1)
    histories = data.draw(st.lists(st.lists(item, max_size=12), min_size=1, max_size=4))
    exclude = [data.draw(st.sets(item)) for _ in histories]
    k = data.draw(st.integers(1, NUM_ITEMS + 2))
    everything = system.rank(histories, NUM_ITEMS)
    for row, full, excluded in zip(system.rank(histories, k, exclude).tolist(), everything.tolist(), exclude, strict=True):
        wanted = [item for item in full if item not in excluded]
        assert row == (wanted + [-1] * k)[:k]


def test_requests_do_not_depend_on_their_neighbours_in_the_batch(fit, monkeypatch):
    system = fit(TRAIN, NUM_ITEMS)
    histories = [[0, 1], [3], [], [5, 4, 2]]
    together = system.rank(histories, 6)
    monkeypatch.setattr("l2d_ray.baselines.item_knn._MAX_CELLS", NUM_ITEMS)  # one request at a time
    np.testing.assert_array_equal(system.rank(histories, 6), together)
    np.testing.assert_array_equal(np.concatenate([system.rank([history], 6) for history in histories]), together)
