"""Which kind a segment gets."""

import pytest

from l2d_ray.index.kinds import EXACT_ROWS_CPU, choose_kind


def test_small_segments_are_searched_exactly_and_large_ones_by_codes():
    assert choose_kind(EXACT_ROWS_CPU, 576) == "exact"
    assert choose_kind(EXACT_ROWS_CPU + 1, 576) == "compressed"


def test_a_gpu_searches_exactly_what_its_memory_holds():
    assert choose_kind(10**7, 576, device="cuda") == "exact"
    assert choose_kind(10**9, 2048, device="cuda") == "compressed"


@pytest.mark.parametrize("wanted", ["exact", "compressed"])
def test_a_kind_asked_for_by_hand_is_taken(wanted):
    assert choose_kind(10, 4, wanted=wanted) == choose_kind(10**9, 4096, device="cuda", wanted=wanted) == wanted
