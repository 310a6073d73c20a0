"""Exact search: the same answer from any block size, cached or not, and never an excluded row."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2d_ray.index import search
from l2d_ray.index.search import RowBlocks, likely_nearest, smallest, squared_distances


def nearest(queries, rows, k, *, ids, excluded=None, **blocks):
    return smallest(
        queries,
        RowBlocks(rows, **blocks),
        k,
        ids=ids,
        exact_keys=lambda query, positions: squared_distances(queries[query], rows[positions]),
        query_offsets=np.square(queries.astype(float)).sum(axis=1),
        excluded=excluded,
    )


def brute_force(query, rows, k, *, ids, banned=()):
    keys = np.square(rows.astype(float) - query.astype(float)).sum(axis=1)
    order = [int(i) for i in np.lexsort((ids, keys)) if i not in banned]
    return order[:k], keys[order[:k]]


@st.composite
def searches(draw):
    size, dim = draw(st.integers(1, 90)), 3
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([np.float16, np.float32]))
    rows = (rng.integers(-2, 3, (size, dim)) / 2).astype(dtype)
    queries = (rng.integers(-2, 3, (3, dim)) / 2).astype(np.float32)
    return queries, rows, rng.permutation(1000)[:size].astype(np.int64), draw(st.integers(1, size + 3)), rng


@settings(max_examples=100, deadline=None)
@given(searches(), st.integers(1, 40), st.sampled_from([0, 1 << 20]))
def test_blocks_and_caching_do_not_change_the_answer(drawn, block_rows, cache_bytes):
    queries, rows, ids, k, _ = drawn
    found = nearest(queries, rows, k, ids=ids, block_rows=block_rows, cache_bytes=cache_bytes)
    whole = nearest(queries, rows, k, ids=ids)
    np.testing.assert_array_equal(found.positions, whole.positions)
    np.testing.assert_array_equal(found.keys, whole.keys)
    for query, positions, keys in zip(queries, found.positions, found.keys, strict=True):
        expected, distances = brute_force(query, rows, k, ids=ids)
        assert positions.tolist() == expected + [-1] * (k - len(expected))
        np.testing.assert_array_equal(keys[: len(expected)], distances)
        assert np.isposinf(keys[len(expected) :]).all()


@settings(max_examples=60, deadline=None)
@given(searches(), st.integers(1, 40))
def test_excluded_rows_are_never_found(drawn, block_rows):
    queries, rows, ids, k, rng = drawn
    banned = [np.sort(rng.permutation(len(rows))[: rng.integers(0, len(rows) + 1)]) for _ in queries]
    found = nearest(queries, rows, k, ids=ids, excluded=banned, block_rows=block_rows)
    for query, positions, out in zip(queries, found.positions, banned, strict=True):
        expected, _ = brute_force(query, rows, k, ids=ids, banned=set(out.tolist()))
        assert positions.tolist() == expected + [-1] * (k - len(expected))


@settings(max_examples=60, deadline=None)
@given(searches(), st.integers(1, 40))
def test_rows_that_are_resident_on_a_device_give_the_same_answer(drawn, block_rows):
    """``cpu:0`` takes the way of every device that is not the CPU: rows stay there in their own type."""
    queries, rows, ids, k, _ = drawn
    found = nearest(queries, rows, k, ids=ids, block_rows=block_rows, device="cpu:0")
    expected = nearest(queries, rows, k, ids=ids)
    np.testing.assert_array_equal(found.positions, expected.positions)
    np.testing.assert_array_equal(found.keys, expected.keys)


@pytest.mark.parametrize("block_rows", [7, 64, 1000])
def test_memory_mapped_rows_are_read_in_blocks(tmp_path, block_rows):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "rows.npy", rng.normal(size=(300, 8)).astype(np.float16))
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    queries = rng.normal(size=(4, 8)).astype(np.float32)
    found = nearest(queries, rows, 10, ids=np.arange(300), block_rows=block_rows, cache_bytes=0)
    for query, positions in zip(queries, found.positions, strict=True):
        assert positions.tolist() == brute_force(query, rows, 10, ids=np.arange(300))[0]


def test_no_rows_and_no_k_give_padding():
    queries, none = np.ones((2, 3), dtype=np.float32), np.zeros((0, 3), dtype=np.float16)
    assert nearest(queries, none, 2, ids=np.zeros(0, dtype=np.int64)).positions.tolist() == [[-1, -1], [-1, -1]]
    assert nearest(queries, np.ones((4, 3), dtype=np.float16), 0, ids=np.arange(4)).positions.shape == (2, 0)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.float16, np.float32]), st.sampled_from([0.0, 1e-4, 1.0, 300.0]), st.integers(1, 40))
def test_float32_never_rules_out_one_of_the_nearest(seed, dtype, spread, k):
    """Rows far from the origin and close to each other, ties among them: what cancellation would spoil."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=40) * 200
    rows = (centre + spread * rng.normal(size=(60, 40))).astype(dtype)
    rows[::7] = rows[0]
    queries = (centre + spread * rng.normal(size=(3, 40))).astype(np.float32)
    candidates = [np.sort(rng.permutation(60)[: rng.integers(0, 61)]) for _ in queries]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "CLOSE_ROWS", int(rng.integers(1, 70)))
        found = likely_nearest(queries, candidates, k, rows)
    for query, given_rows, kept in zip(queries, candidates, found, strict=True):
        keys = squared_distances(query, rows[given_rows])
        limit = np.sort(keys)[k - 1] if k <= len(keys) else np.inf
        assert set(given_rows[keys <= limit].tolist()) <= set(kept.tolist()) <= set(given_rows.tolist())


def test_float32_rules_out_most_rows():
    rows = np.random.default_rng(0).normal(size=(1000, 16)).astype(np.float16)
    (kept,) = likely_nearest(rows[:1].astype(np.float32), [np.arange(1000)], 10, rows)
    assert len(kept) == 10
