"""The protocol: what is excluded in each setting, what the scores hold, and the text table."""

import json

import numpy as np
import pytest

from l2d_ray.errors import DataError
from l2d_ray.evaluate.metrics import CUTOFFS
from l2d_ray.evaluate.protocol import EvaluationSamples, evaluate_system, format_table, masked_items, score_ranks

TITLES = ["a", "b", "c", "a", "e"]
SAMPLES = EvaluationSamples([[0, 1], [2], [4, 3, 4]], np.array([2, 4, 3]), TITLES)


def rank_by_index(histories, k, exclude):
    """Every item in index order, without the excluded ones."""
    ranked = np.full((len(histories), k), -1)
    for row in range(len(histories)):
        items = [item for item in range(len(TITLES)) if exclude is None or item not in exclude[row]]
        ranked[row, : len(items)] = items
    return ranked


@pytest.mark.parametrize(("history", "excluded"), [([], set()), ([5], set()), ([1, 2, 3], {1, 2}), ([3, 1, 3], {1}), ([3, 1, 3, 1], {3})])
def test_masking_excludes_all_but_the_last_item(history, excluded):
    assert masked_items(history) == excluded


def test_both_settings_by_hand():
    scores = evaluate_system("index order", rank_by_index, samples=SAMPLES, num_bootstrap=100)
    assert scores.num_samples == 3
    assert scores.unmasked.ranks.tolist() == [2, 4, 3]
    assert scores.masked.ranks.tolist() == [1, 4, -1]  # row 0 loses item 0; row 2 loses its target, item 3
    assert scores.unmasked.title_ranks.tolist() == [2, 4, 0]  # item 0 is called like item 3
    assert scores.unmasked.metrics["recall@10"] == 1
    assert scores.masked.metrics["recall@10"] == pytest.approx(2 / 3)
    assert scores.unmasked.metrics["ndcg@10"] == pytest.approx((1 / np.log2(4) + 1 / np.log2(6) + 1 / np.log2(5)) / 3)
    assert scores.seconds_per_request is not None
    assert scores.seconds_per_request > 0


def test_json_has_plain_keys_and_survives_a_round_trip():
    report = evaluate_system("index order", rank_by_index, samples=SAMPLES, num_bootstrap=100).to_json()
    assert json.loads(json.dumps(report)) == report
    names = [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in CUTOFFS]
    for setting in ("unmasked", "masked"):
        assert list(report[setting]["metrics"]) == list(report[setting]["intervals"]) == list(report[setting]["by_title"]) == names
    low, high = report["masked"]["intervals"]["recall@10"]
    assert low <= report["masked"]["metrics"]["recall@10"] <= high


def test_ranks_merged_from_parts_score_like_the_whole():
    whole = evaluate_system("index order", rank_by_index, samples=SAMPLES, num_bootstrap=100).unmasked
    parts = score_ranks(np.array([3, 2, 4]), np.array([0, 2, 4]), num_bootstrap=100)
    assert parts == whole


def test_samples_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="1 histories"):
        EvaluationSamples([[1]], np.array([1, 2]), TITLES)
    with pytest.raises(DataError, match=r"5\.\.5"):
        EvaluationSamples([[1]], np.array([5]), TITLES)


def test_table_is_aligned_and_holds_every_system_in_every_block():
    scores = evaluate_system("index order", rank_by_index, samples=SAMPLES, num_bootstrap=100)
    blocks = format_table([scores, scores]).split("\n\n")
    assert [block.splitlines()[0].split(",")[0].split(" ")[0] for block in blocks] == ["unmasked", "masked", "unmasked"]
    for block in blocks:
        lines = block.splitlines()[1:]
        assert len(lines) == 3
        assert len({len(line) for line in lines}) == 1
        assert lines[1].startswith("index order")
    assert "0.6667" in blocks[1]
    assert "0.6667" not in blocks[0]
