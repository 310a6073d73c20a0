"""Assisted beams: exact enumeration where every title has a beam, the unassisted search where alpha is 0, masses by hand."""

import numpy as np
import pytest
import torch

from l2d_ray.baselines.assisted_beams import NodeMasses, assisted_beam_search
from l2d_ray.errors import ConfigError, DataError
from l2d_ray.model.language_space import constrained_beam_search
from l2d_ray.text.prefix_tree import PrefixTree
from tests.baselines.language import toy_language_model

PAD, END = 0, 2
RNG = np.random.default_rng(0)
COMPLETIONS = [[*RNG.integers(3, 7, size=RNG.integers(1, 6)).tolist(), END] for _ in range(40)]
PROMPTS = [RNG.integers(3, 300, size=length).astype(np.int32) for length in (5, 2, 9)]
TREE = PrefixTree(COMPLETIONS)
ITEM_LOG_PROBABILITIES = np.log(RNG.dirichlet(np.full(len(COMPLETIONS), 0.3), size=len(PROMPTS)) + 1e-12)
TITLES = sorted({tuple(completion) for completion in COMPLETIONS})


def search(alpha, num_beams, rows=(0, 1, 2)):
    masses = NodeMasses(TREE).log_masses(ITEM_LOG_PROBABILITIES[list(rows)])
    prompts = [PROMPTS[row] for row in rows]
    model = toy_language_model().model
    return assisted_beam_search(model, prompts, TREE, log_masses=masses, alpha=alpha, num_beams=num_beams, pad_token_id=PAD)


def enumerated(row, alpha):
    """Every item's score: the title's teacher-forced log-probability, and alpha times the log of all probability with that title."""
    probabilities, scores = np.exp(ITEM_LOG_PROBABILITIES[row]), {}
    for title in TITLES:
        with torch.inference_mode():
            logits = toy_language_model().model(torch.tensor([[*PROMPTS[row].tolist(), *title]])).logits[0, len(PROMPTS[row]) - 1 : -1]
        log_prob = logits.float().log_softmax(-1)[torch.arange(len(title)), torch.tensor(title)].sum().item()
        share = sum(p for p, completion in zip(probabilities, COMPLETIONS, strict=True) if tuple(completion) == title)
        scores[title] = log_prob + alpha * np.log(share / probabilities.sum())
    return np.array([scores[tuple(completion)] for completion in COMPLETIONS])


def test_masses_are_sums_over_the_items_below():
    tree = PrefixTree([[5, 1], [5, 6, 1], [7, 1], [5, 1]])
    probabilities = np.array([[0.1, 0.2, 0.3, 0.4]])
    masses = np.exp(NodeMasses(tree).log_masses(np.log(probabilities)))[0]
    paths = {(): 1.0, (5,): 0.7, (7,): 0.3, (5, 1): 0.5, (5, 6): 0.2, (7, 1): 0.3, (5, 6, 1): 0.2}
    assert tree.num_nodes == len(paths)
    for path, wanted in paths.items():
        node = np.zeros(1, np.int64)
        for token in path:
            node = tree.step(node, np.array([token]))
        assert masses[node[0]] == pytest.approx(wanted)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 3.0])
def test_with_a_beam_for_every_title_the_ranking_is_exact(alpha):
    assert len(TITLES) < len(COMPLETIONS), "the toy must hold repeated titles"
    for row, found in enumerate(search(alpha, len(TITLES))):
        scores = enumerated(row, alpha)
        assert found.item_indexes.tolist() == np.lexsort((np.arange(len(scores)), -scores.round(4))).tolist()
        np.testing.assert_allclose(found.scores, scores[found.item_indexes], atol=1e-3)


@pytest.mark.parametrize("num_beams", [1, 3, 8])
def test_an_assistant_of_no_weight_changes_nothing(num_beams):
    wanted = constrained_beam_search(toy_language_model().model, PROMPTS, TREE, num_beams=num_beams, k=len(COMPLETIONS), pad_token_id=PAD)
    for found, plain in zip(search(0.0, num_beams), wanted, strict=True):
        assert found.item_indexes.tolist() == plain.item_indexes.tolist()
        np.testing.assert_allclose(found.scores, plain.scores, atol=1e-4)


@pytest.mark.parametrize("item", [0, 17, 39])
def test_an_assistant_that_is_certain_decides(item):
    certain = np.full((3, len(COMPLETIONS)), -60.0)
    certain[:, item] = 0.0
    masses, model = NodeMasses(TREE).log_masses(certain), toy_language_model().model
    found = assisted_beam_search(model, PROMPTS, TREE, log_masses=masses, alpha=5.0, num_beams=1, pad_token_id=PAD)
    assert [COMPLETIONS[beams.item_indexes[0]] for beams in found] == [COMPLETIONS[item]] * 3


def test_a_request_has_the_same_answer_alone_and_in_a_batch():
    together = search(0.7, 4)
    for row, found in enumerate(together):
        assert search(0.7, 4, rows=[row])[0].item_indexes.tolist() == found.item_indexes.tolist()


def test_refuses_what_has_no_meaning():
    with pytest.raises(ConfigError, match="alpha -1"):
        search(-1, 2)
    with pytest.raises(ConfigError, match="num_beams is 0"):
        search(1, 0)
    with pytest.raises(DataError, match="Prompt 0 has no tokens"):
        assisted_beam_search(
            toy_language_model().model,
            [np.array([], np.int32)],
            TREE,
            log_masses=np.zeros((1, TREE.num_nodes)),
            alpha=1.0,
            num_beams=1,
            pad_token_id=PAD,
        )
    assert search(1.0, 1, rows=[]) == []
