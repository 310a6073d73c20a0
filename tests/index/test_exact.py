"""Exact search of a segment, both ways: a brute-force search in float64, ties by smaller sample_id, dead rows never found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2d_ray.index import resident, scan
from l2d_ray.index.exact import ExactSearch

WAYS = ("dense", "pruned", "resident")


def brute_force(query, vectors, k, *, sample_ids, dead=()):
    keys = np.square(vectors.astype(float) - query.astype(float)).sum(axis=1)
    order = np.array([i for i in np.lexsort((sample_ids, keys)) if i not in set(dead)], dtype=int)[:k]
    padding = k - len(order)
    return np.append(order, [-1] * padding), np.append(keys[order], [np.inf] * padding)


@st.composite
def segments(draw):
    """Vectors on a coarse grid, so that distances are exact and ties common; queries among them; some rows dead."""
    size, rng = draw(st.integers(1, 300)), np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = np.array([4, 2, 1, 0.5]) if draw(st.booleans()) else np.ones(4)
    vectors = (np.round(rng.normal(size=(size, 4)) * spread * 2) / 2 + draw(st.sampled_from([0, 16]))).astype(np.float16)
    queries = np.concatenate([vectors[:2], rng.normal(size=(2, 4)).astype(np.float16)]).astype(np.float32)
    queries = np.round(queries * 2) / 2
    dead = np.sort(rng.permutation(size)[: draw(st.integers(0, size))]) if draw(st.booleans()) else None
    return vectors, queries, rng.permutation(1000)[:size].astype(np.int64), dead, draw(st.integers(1, size + 5))


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=100, deadline=None)
@given(drawn=segments(), seed_rows=st.sampled_from([1, 8, 16384]), block_rows=st.sampled_from([5, 64, 4096]))
def test_every_way_equals_brute_force(way, drawn, seed_rows, block_rows):
    vectors, queries, sample_ids, dead, k = drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "SEED_ROWS", seed_rows)
        patch.setattr(scan, "BLOCK_FLOATS", 1)
        patch.setattr(scan, "MIN_BLOCK_ROWS", block_rows)
        patch.setattr(resident, "BLOCK_ROWS", block_rows)
        patch.setattr(resident, "REFINED_FLOATS", 40 * block_rows)
        found = ExactSearch(vectors, sample_ids, way=way).nearest(queries, k, dead=dead)
    for query, positions, keys in zip(queries, found.positions, found.keys, strict=True):
        expected, distances = brute_force(query, vectors, k, sample_ids=sample_ids, dead=() if dead is None else dead)
        np.testing.assert_array_equal(positions, expected)
        np.testing.assert_array_equal(keys, distances)


@pytest.mark.parametrize("num_neighbors", [1, 30, 6000])
def test_all_ways_agree_on_anisotropic_rows(num_neighbors, tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6000, 48)) * np.exp(-np.arange(48) / 6) + 5
    rows[100:200] = rows[0]
    np.save(tmp_path / "vectors.npy", rows.astype(np.float16))
    vectors = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    queries = np.concatenate([vectors[:3], vectors[-2:] + np.float16(0.1)]).astype(np.float32)
    dead = np.sort(rng.permutation(6000)[:1500])
    sample_ids = np.arange(6000)[::-1].copy()
    dense, *others = (ExactSearch(vectors, sample_ids, way=way).nearest(queries, num_neighbors, dead=dead) for way in WAYS)
    for other in others:
        np.testing.assert_array_equal(dense.positions, other.positions)
        np.testing.assert_allclose(dense.keys, other.keys, rtol=1e-14)
    assert not np.isin(dense.positions, dead).any()


@pytest.mark.parametrize("way", WAYS)
def test_a_row_alone_and_in_a_batch_has_the_same_distances(way):
    rng = np.random.default_rng(1)
    vectors, queries = rng.normal(size=(500, 16)).astype(np.float16), rng.normal(size=(7, 16)).astype(np.float32)
    search = ExactSearch(vectors, np.arange(500), way=way)
    whole = search.nearest(queries, 20)
    for row, query in enumerate(queries):
        np.testing.assert_array_equal(search.nearest(query[None], 20).keys[0], whole.keys[row])


@pytest.mark.parametrize("way", WAYS)
def test_no_rows_no_queries_and_no_neighbours_give_padding(way):
    queries, none = np.ones((2, 3), dtype=np.float32), np.zeros((0, 3), dtype=np.float16)
    rows = np.ones((4, 3), dtype=np.float16)
    assert ExactSearch(rows, np.arange(4), way=way).nearest(queries[:0], 2).positions.shape == (0, 2)
    assert ExactSearch(rows, np.arange(4), way=way).nearest(queries, 0).positions.shape == (2, 0)
    assert ExactSearch(none, np.arange(0), way="dense").nearest(queries, 2).positions.tolist() == [[-1, -1], [-1, -1]]
