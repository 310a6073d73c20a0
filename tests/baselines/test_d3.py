"""D3: its beams are the unassisted search's, the assistant guides and fills, grounding and popularity fill where there is none."""

import numpy as np
import pytest
import torch

from l2d_ray.baselines.d3 import D3, D3Settings, Tail
from l2d_ray.errors import ConfigError
from l2d_ray.model.language_space import constrained_beam_search
from l2d_ray.text.prefix_tree import PrefixTree
from tests.baselines.language import SHARED, toy_language_model, toy_prompts, toy_space

COUNTS = np.array([3, 1, 0, 0, 5, 0, 0, 2])
HISTORIES = [[0, 1, 2], [7], [4, 3]]
NUM_TITLES = len(set(SHARED))


class Certain:
    """An assistant that gives one item nearly all probability."""

    def __init__(self, item):
        self.item = item

    def log_probabilities(self, histories):
        probabilities = np.full((len(histories), len(SHARED)), 1e-9) * np.arange(1, len(SHARED) + 1)
        probabilities[:, self.item] = 1.0
        return np.log(probabilities / probabilities.sum(axis=1, keepdims=True))


def make(tail, **settings):
    return D3(toy_language_model(), toy_prompts(), tail, D3Settings(**settings))


def log_probability(history, item):
    """Of an item's whole title, terminator included, scored alone."""
    writer = toy_prompts()
    prompt, title = writer.write(history).tolist(), [*writer.titles[item].tolist(), writer.prompts.terminator_id]
    with torch.inference_mode():
        logits = toy_language_model().model(torch.tensor([prompt + title])).logits[0, len(prompt) - 1 : -1]
    return logits.float().log_softmax(-1)[torch.arange(len(title)), torch.tensor(title)].sum().item()


def beams(num_beams):
    writer = toy_prompts()
    tree = PrefixTree([[*title.tolist(), writer.prompts.terminator_id] for title in writer.titles])
    prompts = [writer.write(history) for history in HISTORIES]
    padding = toy_language_model().tokenizer.pad_token_id
    found = constrained_beam_search(toy_language_model().model, prompts, tree, num_beams=num_beams, k=8, pad_token_id=padding)
    return [result.item_indexes.tolist() for result in found]


def test_with_as_many_beams_as_titles_it_is_exact_enumeration():
    ranked = make(Tail(COUNTS), num_beams=NUM_TITLES).rank(HISTORIES, 8)
    for history, row in zip(HISTORIES, ranked.tolist(), strict=True):
        scores = [log_probability(history, item) for item in range(8)]
        assert row == np.lexsort((np.arange(8), -np.round(scores, 4))).tolist()


def test_items_beyond_the_beams_follow_by_popularity():
    for row, head in zip(make(Tail(COUNTS), num_beams=2).rank(HISTORIES, 8).tolist(), beams(2), strict=True):
        assert row[: len(head)] == head
        assert row[len(head) :] == [item for item in (4, 0, 7, 1, 2, 3, 5, 6) if item not in head]


def test_or_by_distance_to_the_best_title():
    vectors = toy_space().vectors
    for row, head in zip(make(Tail(COUNTS, space=toy_space()), num_beams=2).rank(HISTORIES, 8).tolist(), beams(2), strict=True):
        assert row[: len(head)] == head
        distances = np.linalg.norm(vectors - vectors[head[0]], axis=1).round(4)
        assert row[len(head) :] == [item for item in np.lexsort((np.arange(8), distances)).tolist() if item not in head]


def test_an_assistant_of_no_weight_changes_no_beam_and_fills_the_tail():
    ranked = make(Tail(COUNTS, toy_space(), Certain(3)), num_beams=2, alpha=0.0).rank(HISTORIES, 8)
    for row, head in zip(ranked.tolist(), beams(2), strict=True):
        assert row[: len(head)] == head
        assert row[len(head) :] == [item for item in (3, 7, 6, 5, 4, 2, 1, 0) if item not in head]


def test_an_assistant_guides_the_beams():
    for item in (1, 5, 7):
        ranked = make(Tail(COUNTS, assistant=Certain(item)), num_beams=2, alpha=10.0).rank(HISTORIES, 1)
        assert ranked.tolist() == [[item]] * 3


def test_batches_do_not_matter():
    tail = Tail(COUNTS, assistant=Certain(3))
    together = make(tail, num_beams=3).rank([[], *HISTORIES], 8)
    np.testing.assert_array_equal(make(tail, num_beams=3, max_batch_tokens=1).rank([[], *HISTORIES], 8), together)
    assert together[0].tolist() == [4, 0, 7, 1, 2, 3, 5, 6]


def test_refuses_counts_of_another_catalogue():
    with pytest.raises(ConfigError, match="3 counts for a catalogue of 8 titles"):
        make(Tail(COUNTS[:3]))
