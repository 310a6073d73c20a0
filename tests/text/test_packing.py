"""Laws of packing: nothing lost, nothing twice, the budget kept, the number of batches exact, the order always the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2d_ray.text.packing import pack_by_length, pad_batch, split_balanced

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


def flat(batches) -> list[int]:
    return sorted(int(i) for batch in batches for i in batch)


@given(LENGTHS, st.integers(1, 100))
def test_packing_partitions_within_the_budget(lengths, max_tokens):
    batches = pack_by_length(lengths, max_tokens)
    assert flat(batches) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or longest * len(batch) <= max_tokens
    longest_of_batch = [max(lengths[i] for i in batch) for batch in batches]
    assert longest_of_batch == sorted(longest_of_batch, reverse=True)


@given(LENGTHS, st.integers(1, 100))
def test_packing_is_deterministic(lengths, max_tokens):
    once, again = (pack_by_length(np.array(lengths), max_tokens) for _ in range(2))
    assert [b.tolist() for b in once] == [b.tolist() for b in again]


def test_packing_by_hand():
    assert [b.tolist() for b in pack_by_length([3, 9, 3, 4, 20], 12)] == [[4], [1], [3, 0, 2]]
    assert pack_by_length([], 12) == []


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 20))
def test_splitting_gives_exactly_the_number(lengths, num_batches):
    batches = split_balanced(lengths, num_batches)
    assert len(batches) == num_batches
    assert flat(batches) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 20))
def test_splitting_is_balanced(lengths, num_batches):
    share = sum(lengths) / num_batches
    assert all(sum(lengths[i] for i in batch) <= share + 2 * max(lengths) for batch in split_balanced(lengths, num_batches))


@pytest.mark.parametrize(
    ("side", "token_ids", "is_real"),
    [("right", [[5, 6, 7], [8, 0, 0]], [[1, 1, 1], [1, 0, 0]]), ("left", [[5, 6, 7], [0, 0, 8]], [[1, 1, 1], [0, 0, 1]])],
)
def test_padding_on_either_side(side, token_ids, is_real):
    padded, mask = pad_batch([np.array([5, 6, 7], dtype=np.int32), np.array([8], dtype=np.int32)], 0, side)
    assert padded.tolist() == token_ids
    assert mask.astype(int).tolist() == is_real
    assert padded.dtype == np.int64
