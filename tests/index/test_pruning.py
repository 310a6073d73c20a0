"""Bounds: never above the true squared distance, and tight where the rows' variance is in the head."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l2d_ray.index.pruning import Axes, PrunedRows
from l2d_ray.index.search import squared_distances


def lower_bounds(rows, queries, axes):
    pruned = PrunedRows(rows, axes)
    bound = pruned.bound_queries(queries)
    products = pruned.products(bound, slice(None), torch.empty(len(rows) * max(len(queries), 2)))
    return products.T + (bound.squared_norms - bound.errors)[:, None]


def distances(rows, queries):
    return np.stack([squared_distances(query, rows) for query in queries])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0, 100.0]), st.sampled_from([1e-2, 1.0, 50.0]), st.integers(1, 12))
def test_no_bound_exceeds_the_distance(seed, offset, scale, width):
    rng = np.random.default_rng(seed)
    spread = scale * np.exp(-rng.uniform(0, 1) * np.arange(12))
    rows = (rng.normal(size=(200, 12)) * spread + offset).astype(np.float16)
    rows[50:60] = rows[0]
    queries = np.concatenate([rows[:3].astype(np.float32), (rng.normal(size=(3, 12)) * 3 * spread).astype(np.float32)])
    bounds = lower_bounds(rows, queries, Axes.of(rows[::2], width))
    assert (bounds <= distances(rows, queries)).all()


def test_bounds_are_tight_where_the_rest_is_small():
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(500, 32)) * np.exp(-np.arange(32) / 2)).astype(np.float16)
    queries = rows[:4].astype(np.float32) + 0.01
    true = distances(rows, queries)
    bounds = lower_bounds(rows, queries, Axes.of(rows, 16))
    assert np.abs(bounds - true).max() < 0.01 * true.max()


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_an_offset_common_to_all_rows_does_not_loosen_the_bounds(offset):
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(300, 8)).astype(np.float32) + offset
    bounds = lower_bounds(rows, rows[:2], Axes.of(rows, 8))
    np.testing.assert_allclose(bounds, distances(rows, rows[:2]), atol=0.02)
