"""Both ways to split, against sorting everything in one place."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2d_ray.data.splits import (
    GlobalCuts,
    Interactions,
    SampleKey,
    assign_global,
    assign_leave_one_out,
    cut_ranks,
    key_at_rank,
    value_at_rank,
)
from l2d_ray.schema import TEST, TRAIN, VALID

# Two users may share a hash, and many interactions a time: the tie rule is what is tested.
USERS = st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(-3, 4), min_size=1, max_size=8).map(sorted)), min_size=1, max_size=8)


@dataclass(frozen=True)
class KeysInMemory:
    keys: list

    def count_times_below(self, edges):
        return np.searchsorted(sorted(k.timestamp for k in self.keys), edges)

    def count_hashes_below(self, edges, timestamp):
        return np.searchsorted(sorted(k.user_hash for k in self.keys if k.timestamp == timestamp), edges)

    def keys_at(self, timestamp, user_hash):
        return [k for k in self.keys if (k.timestamp, k.user_hash) == (timestamp, user_hash)][::-1]


def _keys(users):
    """Keys of every interaction, a list a user; users ascend by (hash, id)."""
    named = sorted((user_hash, f"u{n}", times) for n, (user_hash, times) in enumerate(users))
    return [[SampleKey(t, user_hash, user_id, p) for p, t in enumerate(times)] for user_hash, user_id, times in named]


def _interactions(keys):
    return Interactions(
        user_ids=[user[0].user_id for user in keys],
        user_hashes=np.array([user[0].user_hash for user in keys]),
        offsets=np.cumsum([0, *(len(user) for user in keys)]),
        timestamps=np.array([key.timestamp for user in keys for key in user]),
    )


@pytest.mark.parametrize(("num_samples", "ranks"), [(53_475, (42_780, 48_127)), (10, (8, 9)), (1, (0, 0)), (61_564, (49_251, 55_407))])
def test_cut_ranks_are_exact_tenths(num_samples, ranks):
    assert cut_ranks(num_samples, valid_fraction=0.1, test_fraction=0.1) == ranks


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=50), st.data())
def test_value_at_rank_equals_sorting(values, data):
    ordered = np.array(sorted(values))
    rank = data.draw(st.integers(0, len(values) - 1))
    value, num_below = value_at_rank(rank, lambda edges: np.searchsorted(ordered, edges), first=int(ordered[0]), last=int(ordered[-1]))
    assert value == ordered[rank]
    assert num_below == int((ordered < value).sum())


@given(USERS.filter(lambda users: any(len(times) > 1 for _, times in users)), st.data())
def test_key_at_rank_equals_sorting(users, data):
    samples = [key for user in _keys(users) for key in user[1:]]
    rank = data.draw(st.integers(0, len(samples) - 1))
    assert key_at_rank(rank, KeysInMemory(samples), first_timestamp=-3, last_timestamp=4) == sorted(samples)[rank]


@given(USERS, st.data())
def test_global_split_is_ordered_exact_and_never_decreases_within_a_user(users, data):
    keys = _keys(users)
    flat = [key for user in keys for key in user]
    first, second = sorted(data.draw(st.sampled_from(flat)) for _ in range(2))
    interactions = _interactions(keys)
    splits = assign_global(interactions, GlobalCuts(first, second))
    assert splits.tolist() == [(key >= first) + (key >= second) for key in flat]
    for start, end in zip(interactions.offsets, interactions.offsets[1:], strict=False):
        assert (np.diff(splits[start:end]) >= 0).all()


def test_positions_count_from_zero_in_each_user():
    assert _interactions(_keys([(0, [1, 2, 3]), (1, [5]), (2, [7, 8])])).positions.tolist() == [0, 1, 2, 0, 0, 1]


def test_leave_one_out_by_hand():
    splits = assign_leave_one_out(np.array([0, 1, 3, 6, 10]))
    assert splits.tolist() == [TRAIN, *(TRAIN, TEST), *(TRAIN, VALID, TEST), *(TRAIN, TRAIN, VALID, TEST)]
