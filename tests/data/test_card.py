"""The data card: counting, and reading what was written."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2d_ray.data.card import CARD_NAME, CardCounts, DataCard, count_repeated_titles, format_card, make_card, median_length, read_card
from l2d_ray.data.interactions import FilterCounts
from l2d_ray.data.parts import PartSummary
from l2d_ray.data.staging import PartitionSummary, SparseCounts
from l2d_ray.errors import DataError


def _card(num_test=4):
    partitions = [
        PartitionSummary(1, 3, 2, np.array([0, 0, 0, 1]), 100, 200),
        PartitionSummary(2, 9, 7, np.array([0, 0, 0, 0, 1, 1]), 50, 90),
    ]
    empty = PartitionSummary(0, 0, 0, np.array([], dtype=np.int64), None, None)
    parts = PartSummary(
        np.array([4, 1, num_test]),
        SparseCounts(np.array([0, 1]), np.array([3, 1])),
        SparseCounts(np.array([1, 3]), np.array([1, 3])) if num_test else SparseCounts(np.array([], int), np.array([], int)),
        min(num_test, 1),
    )
    counts = CardCounts(FilterCounts(20, 1, 0, 2, 3), 1, 5, [*partitions, empty], parts)
    return make_card(counts, ["A", "B", "A", "C"], name="toy", settings={"k_core": 5})


def test_card_by_hand():
    card = _card()
    assert (card.num_users, card.num_items, card.num_interactions) == (3, 4, 12)
    assert (card.mean_length, card.median_length, card.max_length) == (4.0, 4.0, 5)
    assert (card.first_timestamp, card.last_timestamp) == (50, 200)
    assert card.share_test_targets_unseen == 3 / 4
    assert card.share_test_targets_in_history == 1 / 4
    assert card.num_outside_core == 20 - (1 + 2 + 3 + 1) - 12
    assert card.num_repeated_titles == 2
    assert card.sparsity == 0.0
    text = format_card(card)
    assert "4 / 1 / 4" in text
    assert "75.0%" in text


def test_nothing_to_count_is_none_and_not_zero():
    card = _card(num_test=0)
    assert card.share_test_targets_unseen is None
    assert "none to count" in format_card(card)


def test_json_round_trip_and_refusals(tmp_path):
    card = _card()
    (tmp_path / CARD_NAME).write_text(card.to_json())
    assert read_card(tmp_path) == card
    with pytest.raises(DataError, match="format version 99"):
        DataCard.from_json(dataclasses.replace(card, format_version=99).to_json())
    with pytest.raises(DataError, match="no data card"):
        read_card(tmp_path / "absent")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_median_equals_numpys(lengths):
    assert median_length(np.bincount(lengths)) == np.median(lengths)


def test_repeated_titles_count_items_not_titles():
    assert count_repeated_titles(["a", "a", "a", "b"]) == 3
