"""Which parts are committed together: every part once, in order, one by one at first and never more than a 64th of what is there."""

from hypothesis import given
from hypothesis import strategies as st

from l2d_ray.memory.build import PARTS_PER_COMMIT, EncodedPart, commit_groups
from l2d_ray.memory.entries import NOTHING_WRITTEN


def parts(count: int) -> list[EncodedPart]:
    return [EncodedPart(number, NOTHING_WRITTEN, f"sequences-{number}") for number in range(count)]


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_groups_hold_every_part_once_in_order_and_grow_slowly(count, num_committed):
    groups = list(commit_groups(parts(count), num_committed))
    assert [part.number for group in groups for part in group] == list(range(count))
    for group in groups:
        assert 1 <= len(group) < max(2, num_committed * PARTS_PER_COMMIT + 1)
        num_committed += len(group)


def test_many_parts_take_few_versions():
    assert [len(group) for group in commit_groups(parts(64), 0)] == [1] * 64
    assert 400 < len(list(commit_groups(parts(20_000), 0))) < 450
