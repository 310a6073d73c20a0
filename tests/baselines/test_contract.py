"""The contract of every baseline: shape, padding, exclusion, ties, and what happens to a history that says nothing."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2d_ray.baselines import session_knn
from l2d_ray.baselines.alpharec import AlphaRec, AlphaRecSettings
from l2d_ray.baselines.bigrec import BigRec
from l2d_ray.baselines.bm25 import Bm25, Bm25Index
from l2d_ray.baselines.d3 import D3, D3Settings, Tail
from l2d_ray.baselines.gpt4rec import Gpt4Rec, Gpt4RecSettings
from l2d_ray.baselines.gru4rec import Gru4RecSettings, fit_gru4rec
from l2d_ray.baselines.interface import head_first, interaction_counts, top_items
from l2d_ray.baselines.item_knn import PLAIN_COSINE, ItemKnn
from l2d_ray.baselines.popularity import Popularity
from l2d_ray.baselines.sasrec import SasRecSettings, fit_sasrec
from l2d_ray.baselines.sequence_training import TrainingSettings
from l2d_ray.baselines.session_knn import SessionKnn
from tests.baselines.language import SHARED, toy_language_model, toy_prompts, toy_space, toy_writer

NUM_ITEMS = 8
TRAIN = [[0, 1, 2], [1, 2, 0], [2, 1], [3, 2], [5, 4, 2]]  # items 6 and 7 are cold; counts 2 3 5 1 1 1 0 0
POPULARITY_ORDER = [2, 1, 0, 3, 4, 5, 6, 7]
SHORT = TrainingSettings(max_epochs=2)


def make_d3(sequences, num_items):
    tail = Tail(interaction_counts(sequences, num_items), toy_space(num_items))
    return D3(toy_language_model(), toy_prompts(num_items), tail, D3Settings(num_beams=3))


def make_guided_d3(sequences, num_items):
    tail = Tail(interaction_counts(sequences, num_items), assistant=make_sasrec(sequences, num_items))
    return D3(toy_language_model(), toy_prompts(num_items), tail, D3Settings(num_beams=3))


def make_bigrec(sequences, num_items):
    return BigRec(toy_writer(num_items), toy_space(num_items), interaction_counts(sequences, num_items))


def make_gpt4rec(sequences, num_items):
    index, counts = Bm25Index(SHARED[:num_items]), interaction_counts(sequences, num_items)
    return Gpt4Rec(toy_writer(num_items), index, counts, Gpt4RecSettings(num_queries=3, list_length=6))


def make_alpharec(sequences, num_items):
    return AlphaRec(sequences, toy_space(num_items).vectors, AlphaRecSettings(dim=8, hidden_dim=8, max_epochs=2))


def make_sasrec(sequences, num_items):
    return fit_sasrec(sequences, num_items, SasRecSettings(dim=8, training=SHORT))


COUNTING = {
    "popularity": Popularity,
    "popularity-decayed": lambda sequences, num_items: Popularity(sequences, num_items, 1e9),
    "item-knn": ItemKnn,
    "item-knn-plain": lambda sequences, num_items: ItemKnn(sequences, num_items, PLAIN_COSINE),
    "session-knn": SessionKnn,
    "session-knn-published": lambda sequences, num_items: SessionKnn(sequences, num_items, session_knn.PUBLISHED),
}
"""Systems without randomness, to which items are nothing but their interactions."""
KNOWING_INTERACTIONS = COUNTING | {
    "sasrec": make_sasrec,
    "gru4rec": lambda sequences, num_items: fit_gru4rec(sequences, num_items, Gru4RecSettings(dim=8, training=SHORT)),
}
"""Systems that know an item by its interactions alone: what has none says nothing to them."""
SYSTEMS = KNOWING_INTERACTIONS | {
    "alpharec": make_alpharec,
    "bm25": lambda sequences, num_items: Bm25(SHARED[:num_items], interaction_counts(sequences, num_items)),
    "gpt4rec": make_gpt4rec,
    "bigrec": make_bigrec,
    "d3": make_d3,
    "d3-guided": make_guided_d3,
}


@cache
def fitted(name):
    return SYSTEMS[name](TRAIN, NUM_ITEMS)


@pytest.fixture(params=SYSTEMS, name="system")
def system_fixture(request):
    return fitted(request.param)


def test_answers_are_int64_rows_without_repeats(system):
    ranked = system.rank([[0, 1], [3], []], 5)
    assert ranked.shape == (3, 5)
    assert ranked.dtype == np.int64
    assert all(len(set(row)) == 5 for row in ranked.tolist())
    assert ranked.min() >= 0
    assert ranked.max() < NUM_ITEMS


def test_no_request_gives_no_row(system):
    assert system.rank([], 4).shape == (0, 4)
    assert system.rank([], 4, []).shape == (0, 4)


def test_a_long_list_holds_the_whole_catalogue_and_then_padding(system):
    ranked = system.rank([[0]], NUM_ITEMS + 3)[0].tolist()
    assert sorted(ranked[:NUM_ITEMS]) == list(range(NUM_ITEMS))
    assert ranked[NUM_ITEMS:] == [-1, -1, -1]


def test_an_empty_history_gets_the_popularity_order(system):
    assert system.rank([[]], NUM_ITEMS)[0].tolist() == POPULARITY_ORDER


@pytest.mark.parametrize("name", KNOWING_INTERACTIONS)
@pytest.mark.parametrize("history", [[6], [7, 6]])
def test_so_does_a_history_of_items_without_interactions(name, history):
    assert fitted(name).rank([history], NUM_ITEMS)[0].tolist() == POPULARITY_ORDER


@pytest.mark.parametrize("name", KNOWING_INTERACTIONS)
def test_without_training_data_items_come_in_index_order(name):
    assert SYSTEMS[name]([], 4).rank([[1]], 5)[0].tolist() == [0, 1, 2, 3, -1]


@pytest.mark.parametrize("name", SYSTEMS)
def test_without_training_data_there_is_an_answer(name):
    assert sorted(SYSTEMS[name]([], 4).rank([[1]], 5)[0].tolist()) == [-1, 0, 1, 2, 3]


@pytest.mark.parametrize("name", COUNTING)
def test_equal_evidence_is_ordered_by_smaller_index(name):
    mirrored = [[0, 3], [0, 2], [0, 1]]  # items 1, 2 and 3 differ in nothing but their index
    ranked = COUNTING[name](mirrored, 4).rank([[0]], 4)[0].tolist()
    assert [item for item in ranked if item != 0] == [1, 2, 3]


@given(data=st.data())
def test_exclusion_is_the_full_ranking_without_the_excluded_items(data):
    system = fitted(data.draw(st.sampled_from(sorted(SYSTEMS))))
    item = st.integers(0, NUM_ITEMS - 1)
    histories = data.draw(st.lists(st.lists(item, max_size=12), min_size=1, max_size=4))
    exclude = [data.draw(st.sets(item)) for _ in histories]
    k = data.draw(st.integers(1, NUM_ITEMS + 2))
    everything = system.rank(histories, NUM_ITEMS)
    for row, full, excluded in zip(system.rank(histories, k, exclude).tolist(), everything.tolist(), exclude, strict=True):
        wanted = [item for item in full if item not in excluded]
        assert row == (wanted + [-1] * k)[:k]


def test_requests_do_not_depend_on_their_neighbours_in_the_batch(system, monkeypatch):
    histories = [[0, 1], [3], [], [5, 4, 2]]
    together = system.rank(histories, 6)
    monkeypatch.setattr("l2d_ray.baselines.interface.MAX_CELLS", NUM_ITEMS)  # one request at a time
    np.testing.assert_array_equal(system.rank(histories, 6), together)
    np.testing.assert_array_equal(np.concatenate([system.rank([history], 6) for history in histories]), together)


def test_a_head_comes_first_in_its_own_order_and_the_tail_stays():
    scores = np.array([-3.0, 5.0, 2.0, 5.0])
    assert top_items(head_first(np.array([2, 0]), scores), 4).tolist() == [2, 0, 1, 3]
    assert head_first(np.array([], np.int64), scores).tolist() == scores.tolist()
