"""Packed batches: every text once a pass, and a number of batches that is known beforehand and equal on every worker."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2d_ray.data.sequences import iter_sequences
from l2d_ray.schema import TRAIN, VALID
from l2d_ray.text.prompts import SequencePrompts
from l2d_ray.train import batches as batches_module
from l2d_ray.train.batches import TrainingText, batches_per_epoch, packed_batches, training_texts, without_some_titles
from tests.toys import toy_catalogue, write_toy_data

BLANK = np.zeros(0, dtype=np.int32)


@pytest.fixture(autouse=True, scope="module")
def small_buffer():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(batches_module, "BUFFER_WINDOWS", 8)
        yield


def make_texts(lengths: list[int]) -> list[TrainingText]:
    """Text i is made of the token i, so that a batch tells what it holds."""
    return [TrainingText(np.full(length, i, dtype=np.int32), 1, BLANK, BLANK) for i, length in enumerate(lengths)]


def packed(lengths: list[int], *, batch_tokens: int, mean_tokens: float, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    found = packed_batches(iter(make_texts(lengths)), batch_tokens=batch_tokens, mean_tokens=mean_tokens, rng=rng)
    return [[int(text.token_ids[0]) for text in batch] for batch in found]


@given(st.lists(st.integers(2, 30), max_size=40), st.integers(4, 200), st.floats(2, 30))
def test_every_text_once_in_the_promised_number_of_batches(lengths, batch_tokens, mean_tokens):
    found = packed(lengths, batch_tokens=batch_tokens, mean_tokens=mean_tokens)
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    assert len(found) == batches_per_epoch(len(lengths), batch_tokens, mean_tokens)


@given(st.integers(1, 30), st.data())
def test_workers_with_equal_counts_take_equal_steps(count, data):
    mine, other = (data.draw(st.lists(st.integers(2, 30), min_size=count, max_size=count)) for _ in range(2))
    assert len(packed(mine, batch_tokens=40, mean_tokens=9.5)) == len(packed(other, batch_tokens=40, mean_tokens=9.5))


def test_the_number_of_batches_by_hand():
    assert batches_per_epoch(8, 40, 10.0) == 2
    assert batches_per_epoch(19, 40, 10.0) == 2 + 2 + 1
    assert batches_per_epoch(3, 40, 200.0) == 3
    assert batches_per_epoch(1, 4000, 2.0) == 1
    assert batches_per_epoch(0, 40, 10.0) == 0


def test_batches_hold_texts_of_like_length():
    lengths = [3, 30] * 4
    found = packed(lengths, batch_tokens=66, mean_tokens=16.5)
    assert len(found) == 2
    mixed = sum(len({lengths[i] for i in batch}) > 1 for batch in found)
    assert mixed <= 1


def test_a_seed_fixes_the_order_and_another_changes_it():
    lengths = list(range(2, 26))
    first, again, other = (packed(lengths, batch_tokens=20, mean_tokens=13.5, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_texts_name_the_items_that_follow_at_their_states(tmp_path):
    write_toy_data(tmp_path)
    prompts = SequencePrompts((), 9, window_items=3, min_history=1)
    indexes = {item_id: index for index, item_id in enumerate(toy_catalogue().item_ids)}
    titles = {item_id: np.array([20 + index], dtype=np.int32) for item_id, index in indexes.items()}
    for split in (TRAIN, VALID):
        num_targets = 0
        for sequence in iter_sequences(tmp_path):
            texts = training_texts(sequence, split, item_id_to_title=titles, item_id_to_index=indexes, prompts=prompts)
            followers = [int(item) for text in texts for item in text.target_items]
            assert followers == [indexes[sequence.item_ids[position]] for position in sequence.target_positions(split)]
            for text in texts:
                assert [20 + item for item in text.target_items] == [text.token_ids[state + 1] for state in text.state_indexes]
            num_targets += len(followers)
        assert num_targets > 20


@given(st.lists(st.integers(1, 4), min_size=2, max_size=8), st.integers(1, 5), st.floats(0, 0.99), st.integers(0, 2**32))
def test_a_text_without_some_titles_is_that_of_a_user_who_never_took_them(lengths, first_position, share, seed):
    prompts = SequencePrompts((1, 2), 0, window_items=50, min_history=1)
    titles = [np.full(length, 10 + item, dtype=np.int32) for item, length in enumerate(lengths)]
    first = min(first_position, len(titles) - 1)

    def text_of(items: list[int]) -> TrainingText:
        (window,) = prompts.windows([titles[item] for item in items], first, completions=True)
        return TrainingText(window.token_ids, window.loss_start, window.state_indexes, np.array(items[first:], dtype=np.int32))

    found = without_some_titles(text_of(list(range(len(titles)))), share, np.random.default_rng(seed))
    kept = found.target_items.tolist()
    assert kept
    assert kept == sorted(set(kept) & set(range(first, len(titles))))
    wanted = text_of([*range(first), *kept])
    assert found.loss_start == wanted.loss_start
    for name in ("token_ids", "state_indexes", "target_items"):
        assert getattr(found, name).dtype == getattr(wanted, name).dtype
        assert getattr(found, name).tolist() == getattr(wanted, name).tolist()


def test_titles_are_left_out_as_often_as_told():
    text = TrainingText(np.arange(21, dtype=np.int32), 1, np.arange(20, dtype=np.int32), np.arange(20, dtype=np.int32))
    rng = np.random.default_rng(0)
    assert without_some_titles(text, 0.0, rng).target_items.tolist() == list(range(20))
    num_kept = [len(without_some_titles(text, 0.3, rng).target_items) for _ in range(500)]
    assert np.mean(num_kept) == pytest.approx(14, abs=0.3)
