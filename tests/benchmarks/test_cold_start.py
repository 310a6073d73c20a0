"""The cold-start benchmark's own parts: what is hidden, and how much a cold item may count for."""

import json

import pytest

from benchmarks.cold_start import HIDDEN, bounded_count, hide_items, without_training_on
from l2d_ray.data.sequences import UserSequence, iter_sequences
from l2d_ray.schema import TEST, TRAIN, VALID
from tests.toys import write_toy_data


def test_only_training_interactions_are_taken_out():
    sequence = UserSequence("u", ("a", "b", "a", "c", "a"), (1, 2, 3, 4, 5), (TRAIN, TRAIN, TRAIN, VALID, TEST))
    found = without_training_on(sequence, {"a"})
    assert found == UserSequence("u", ("b", "c", "a"), (2, 4, 5), (TRAIN, VALID, TEST))
    assert len(without_training_on(UserSequence("u", ("a",), (1,), (TRAIN,)), {"a"})) == 0


def test_hidden_items_are_in_no_training_interaction_and_all_else_stays(tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    write_toy_data(whole)
    (whole / "card.json").write_text("{}")
    hide_items(whole, part, share=0.2, seed=1)
    hidden = set(json.loads((part / HIDDEN).read_text()))
    assert len(hidden) == 4
    assert json.loads((part / "card.json").read_text())["num_hidden_items"] == 4
    before = {s.user_id: s for s in iter_sequences(whole)}
    after = {s.user_id: s for s in iter_sequences(part)}
    assert before.keys() == after.keys()
    num_removed = 0
    for user_id, sequence in before.items():
        found = after[user_id]
        assert not hidden & set(found.item_ids[: found.num_train])
        assert found.item_ids[found.num_train :] == sequence.item_ids[sequence.num_train :]
        num_removed += len(sequence) - len(found)
    assert num_removed > 10
    written = (part / "card.json").stat().st_mtime_ns
    hide_items(whole, part, share=0.5, seed=2)
    assert (part / "card.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(("of_largest", "wanted"), [(0.2, 30.0), (0.199, 30.0), (0.1, 1.5)])
def test_the_largest_count_that_the_warm_can_bear(of_largest, wanted):
    recalls = {"None": 0.2, "0.0": 0.2, "0.1": 0.2, "0.3": 0.2, "1.0": 0.199, "1.5": 0.1971, "2.0": 0.1969, "3.0": 0.19, "10.0": 0.18}
    recalls |= {"30.0": of_largest}
    sweep = {name: {"warm": {"recall@50": value}} for name, value in recalls.items()}
    assert bounded_count(sweep) == wanted
