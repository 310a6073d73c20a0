"""Parts cut all users into equal runs, whatever the partitions; and what they count."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from l2d_ray.data.parts import is_in_history, plan_parts
from l2d_ray.data.staging import partition_of
from l2d_ray.schema import stable_hash


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 7))
def test_parts_hold_every_user_once_in_order(num_users_of_partition, users_per_part):
    users = [(partition, user) for partition, num_users in enumerate(num_users_of_partition) for user in range(num_users)]
    plans = plan_parts(num_users_of_partition, users_per_part)
    parts = [[(s.partition, s.first_user + n) for s in plan.slices for n in range(s.num_users)] for plan in plans]
    assert parts == [users[first : first + users_per_part] for first in range(0, len(users), users_per_part)]
    assert [plan.part_index for plan in plans] == list(range(len(plans)))


@given(st.lists(st.text(), min_size=1, max_size=30), st.integers(1, 50))
def test_partitions_are_ranges_of_the_hash(user_ids, num_partitions):
    hashes = np.array(sorted(stable_hash(user_id) for user_id in user_ids))
    partitions = partition_of(hashes, num_partitions)
    assert (np.diff(partitions) >= 0).all()
    assert partitions.min() >= 0
    assert partitions.max() < num_partitions


def test_is_in_history_looks_back_within_the_user_only():
    items = np.array([1, 2, 1, 1, 2, 3, 3])
    positions = np.array([0, 1, 2, 0, 1, 2, 3])
    assert is_in_history(items, positions, 2).tolist() == [False, False, True, False, False, False, True]
    assert is_in_history(items, positions, 1).tolist() == [False, False, False, False, False, False, True]
    assert is_in_history(items[:0], positions[:0], 5).tolist() == []
