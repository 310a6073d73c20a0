"""AlphaRec: the graph convolution by hand, new users, what titles alone can do, learning."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from l2d_ray.baselines.alpharec import AlphaRec, AlphaRecSettings, tune_alpharec
from l2d_ray.baselines.tuning import ValidationSamples
from l2d_ray.errors import DataError

TRAIN = [[0, 1], [1, 2, 1], [3, 4], [4, 5]]  # two worlds that share no item
TITLES = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)  # items 6 and 7 are cold
FAST = AlphaRecSettings(dim=8, hidden_dim=16, learning_rate=1e-2, max_epochs=30)


def test_layers_are_sums_over_neighbours_divided_by_both_degrees():
    system = AlphaRec(TRAIN, TITLES, FAST)
    memberships = np.zeros((4, 8))
    for user, items in enumerate(TRAIN):
        memberships[user, items] = 1
    edges = memberships / np.sqrt(memberships.sum(1, keepdims=True) * np.maximum(memberships.sum(0), 1))
    standardised = (TITLES - TITLES.mean(0)) / TITLES.std(0)
    with torch.no_grad():
        users = [system._network.mlp(torch.tensor(memberships / memberships.sum(1, keepdims=True) @ standardised).float()).numpy()]
        items = [system._network.mlp(torch.tensor(standardised)).numpy()]
        for _ in range(2):
            users, items = [*users, edges @ items[-1]], [*items, edges.T @ users[-1]]
        found = system._network(torch.arange(4)).numpy()
    users, items = np.mean(users, axis=0), np.mean(items, axis=0)
    cosines = users @ items.T / np.linalg.norm(users, axis=1)[:, None] / np.linalg.norm(items, axis=1)
    np.testing.assert_allclose(found, cosines, atol=1e-5)


def test_a_new_user_with_a_training_users_items_is_that_user():
    system = AlphaRec(TRAIN, TITLES, FAST)
    with torch.no_grad():
        trained = system._network(torch.arange(4)).numpy()
    np.testing.assert_allclose(system._scores(TRAIN), trained, atol=1e-5)


def test_order_and_repeats_of_a_history_do_not_matter():
    system = AlphaRec(TRAIN, TITLES, FAST)
    np.testing.assert_array_equal(system.rank([[0, 1, 2]], 8), system.rank([[2, 0, 1, 0]], 8))


def test_items_that_a_user_shares_come_first():
    ranked = AlphaRec(TRAIN, TITLES, FAST).rank([[0], [5]], 2)
    assert [set(row) for row in ranked.tolist()] == [{0, 1}, {4, 5}]


def test_cold_items_are_ranked_by_their_titles():
    side = np.where(np.isin(np.arange(8), [3, 4, 5, 6]), 2, -2)[:, None]  # item 6 is titled like the second world, item 7 like the first
    settings = replace(FAST, max_epochs=3)  # with so few items more epochs learn them by heart
    ranked = AlphaRec(TRAIN, (TITLES + side).astype(np.float32), settings).rank([[5], [1]], 8).tolist()
    assert [[item for item in row if item >= 6] for row in ranked] == [[6, 7], [7, 6]]


def test_equal_seeds_give_equal_models():
    scores = [AlphaRec(TRAIN, TITLES, AlphaRecSettings(max_epochs=2, seed=seed))._scores([[0]]) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.allclose(scores[0], scores[2])


def test_more_interactions_are_more_edges_and_no_training():
    before = AlphaRec(TRAIN, TITLES, FAST)
    same, more = before.extended(TRAIN), before.extended([*TRAIN, [0, 5], [0, 5]])
    np.testing.assert_array_equal(same._scores([[0]]), before._scores([[0]]))
    assert not np.allclose(more._scores([[0]]), before._scores([[0]]))
    weights = [system._network.mlp.state_dict() for system in (before, more)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert more._scores([[]])[0, 5] == before._scores([[]])[0, 5] + 2  # popularity, where a history is empty
    np.testing.assert_array_equal(before._scores([[0]]), same._scores([[0]]))  # which is left as it was


def test_tuning_returns_the_better_system():
    validation = ValidationSamples([[0], [5]], np.array([1, 4]))
    hopeless, able = AlphaRecSettings(max_epochs=0), FAST
    tuned = tune_alpharec(TRAIN, TITLES, validation=validation, grid=[hopeless, able])
    assert tuned.settings is able
    assert dict(tuned.ndcg_at_20)[able] > dict(tuned.ndcg_at_20)[hopeless]


def test_refuses_embeddings_that_are_not_numbers():
    with pytest.raises(DataError, match="finite"):
        AlphaRec(TRAIN, np.full((8, 2), np.nan, np.float32))
