"""Score matrices of what may be added to the whitened decoder, from cached states; plain numpy over whole arrays.

All scores are (n, v) float32, larger is better, -inf where an item is not ranked. Spaces: ``plain`` are the states as they are, ``white``
the states times a square root of the precision, so that squared distances there are those of the whitened rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.special import log_softmax, logsumexp

from l2d_ray.decode.linear import RepresentedItems, precision_matrix

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

QUERY_BLOCK: Final = 256
EXCLUDED: Final = np.float32(-np.inf)
SMALL_VOTE: Final = 1e-3
"""Share of a whole vote that an item without any is taken to have."""


@dataclass(frozen=True, eq=False)
class Neighborhoods:
    """The m nearest entries of every query, in no order: items (n, m) int64 and squared distances (n, m) float32."""

    positions: IntArray
    squared_distances: FloatArray


def whitened_scores(queries: FloatArray, items: RepresentedItems, precision: NDArray[np.float64], num_items: int) -> FloatArray:
    """The rule of ``decode.linear``: h' P r - r' P r / 2 + prior."""
    rows = items.representations.astype(np.float64) @ precision
    offsets = items.priors - (rows * items.representations).sum(axis=1) / 2
    scores = np.full((len(queries), num_items), EXCLUDED)
    scores[:, items.item_indexes] = queries @ rows.T.astype(np.float32) + offsets.astype(np.float32)
    return scores


def square_root(precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """(d, d) L with P = L L'."""
    return np.asarray(np.linalg.cholesky(precision), dtype=np.float64)


def binned_scores(
    queries: FloatArray,
    items: RepresentedItems,
    scatters: Sequence[NDArray[np.float64]],
    bins: IntArray,
    *,
    shrinkage: float,
    num_items: int,
) -> FloatArray:
    """A covariance for each bin of items: the quadratic discriminant with its log-determinant.

    Args:
        scatters: (d, d) within-item covariance of each bin; bins: (v,) of the represented items.
    """
    scores = np.full((len(queries), num_items), EXCLUDED)
    for number, scatter in enumerate(scatters):
        precision = precision_matrix(scatter, shrinkage)
        mine = bins == number
        part = RepresentedItems(items.item_indexes[mine], items.representations[mine], items.priors[mine])
        found = whitened_scores(queries, part, precision, num_items)
        own = ((queries @ precision.astype(np.float32)) * queries).sum(axis=1, keepdims=True) / 2
        found[:, part.item_indexes] += np.float32(np.linalg.slogdet(precision)[1] / 2) - own
        scores = np.maximum(scores, found)
    return scores


def nearest(queries: FloatArray, vectors: FloatArray, num_neighbors: int, *, banned: Sequence[IntArray] | None = None) -> Neighborhoods:
    """The nearest of (n, d) vectors for each query; ``banned`` positions of each query are passed over."""
    squares = np.square(vectors).sum(axis=1)
    positions = np.empty((len(queries), num_neighbors), np.int64)
    distances = np.empty((len(queries), num_neighbors), np.float32)
    for start in range(0, len(queries), QUERY_BLOCK):
        block = queries[start : start + QUERY_BLOCK]
        keys = squares - 2 * block @ vectors.T
        for row, positions_out in enumerate(banned[start : start + len(block)] if banned is not None else ()):
            keys[row, positions_out] = np.inf
        chosen = np.argpartition(keys, num_neighbors - 1, axis=1)[:, :num_neighbors]
        positions[start : start + len(block)] = chosen
        distances[start : start + len(block)] = np.take_along_axis(keys, chosen, axis=1) + np.square(block).sum(axis=1)[:, None]
    return Neighborhoods(positions, np.maximum(distances, 0))


def votes(found: Neighborhoods, entry_items: IntArray, *, num_neighbors: int, width: float, num_items: int) -> FloatArray:
    """Log of each item's share of the neighbours' votes; a neighbour votes exp(-(d^2 - nearest^2) / (2 width^2 spread^2)).

    ``spread`` is the median over queries of the distance to the last neighbour: ``width`` is relative.
    """
    order = np.argsort(found.squared_distances, axis=1)[:, :num_neighbors]
    distances = np.take_along_axis(found.squared_distances, order, axis=1)
    items = entry_items[np.take_along_axis(found.positions, order, axis=1)]
    last = distances[:, -1][np.isfinite(distances[:, -1])]
    scale = max(2 * width**2 * float(np.median(last)), 1e-12) if len(last) else 1.0  # zero where all vectors are equal
    weights = np.exp(-(distances - distances[:, :1]) / scale)
    shares = np.zeros((len(items), num_items), np.float32)
    np.add.at(shares, (np.arange(len(items))[:, None], items), weights)
    shares /= shares.sum(axis=1, keepdims=True)
    logs: FloatArray = np.log(shares + np.float32(SMALL_VOTE))
    return logs


def local_scores(
    queries: FloatArray, found: Neighborhoods, vectors: FloatArray, entry_items: IntArray, *, num_neighbors: int, num_items: int
) -> FloatArray:
    """L2D-L: minus half the squared distance to the mean of an item's entries among the neighbours."""
    scores = np.full((len(queries), num_items), EXCLUDED)
    for row, query in enumerate(queries):
        order = np.argsort(found.squared_distances[row])[:num_neighbors]
        positions = found.positions[row][order]
        items, slots, counts = np.unique(entry_items[positions], return_inverse=True, return_counts=True)
        sums = np.zeros((len(items), vectors.shape[1]), np.float64)
        np.add.at(sums, slots, vectors[positions])
        scores[row, items] = -np.square(sums / counts[:, None] - query).sum(axis=1) / 2
    return scores


def prototype_scores(
    queries: FloatArray,
    vectors: FloatArray,
    entry_items: IntArray,
    items: RepresentedItems,
    *,
    white: NDArray[np.float64],
    num: int,
    least: int,
    seed: int,
    num_items: int,
) -> FloatArray:  # one argument a part of the model, each used once
    """Items with at least ``least`` entries as a mixture of ``num`` k-means centres in the white space, others by their representation."""
    centres, owners, log_shares = [], [], []
    order = np.argsort(entry_items, kind="stable")
    starts = np.searchsorted(entry_items[order], np.append(items.item_indexes, np.iinfo(np.int64).max))
    for place, representation in enumerate(items.representations.astype(np.float64) @ white):
        rows = order[starts[place] : starts[place + 1]]
        if len(rows) < least:
            found, shares = representation[None], np.ones(1)
        else:
            found, labels = kmeans2(vectors[rows].astype(np.float64) @ white, num, iter=10, minit="++", rng=seed)
            shares = np.bincount(labels, minlength=num) / len(rows)
            found, shares = found[shares > 0], shares[shares > 0]
        centres.append(found)
        owners += [place] * len(found)
        log_shares.append(np.log(shares))
    stacked = np.concatenate(centres)
    offsets = np.concatenate(log_shares) - np.square(stacked).sum(axis=1) / 2
    raw = (queries @ white.astype(np.float32)) @ stacked.T.astype(np.float32) + offsets.astype(np.float32)
    scores = np.full((len(queries), num_items), EXCLUDED)
    firsts = np.flatnonzero(np.diff(owners, prepend=-1))
    peaks = np.maximum.reduceat(raw, firsts, axis=1)
    totals = np.add.reduceat(np.exp(raw - np.repeat(peaks, np.diff(np.append(firsts, len(owners))), axis=1)), firsts, axis=1)
    scores[:, items.item_indexes] = peaks + np.log(totals) + items.priors.astype(np.float32)
    return scores


def first_token_scores(queries: FloatArray, head: FloatArray, first_tokens: IntArray) -> FloatArray:
    """Log-probability of every item's first token, over the tokens that begin a title; head (vocabulary, d), first_tokens (v,)."""
    tokens, slots = np.unique(first_tokens, return_inverse=True)
    scores: FloatArray = log_softmax(queries @ head[tokens].T, axis=1)[:, slots].astype(np.float32)
    return scores


def normalised(scores: FloatArray) -> FloatArray:
    """Log-probabilities over the items that are ranked: what log-linear fusion adds up."""
    return np.asarray(scores - logsumexp(scores, axis=1, keepdims=True), dtype=np.float32)


def ranks_of(scores: FloatArray, targets: IntArray, *, depth: int = 100) -> IntArray:
    """(n,) 0-based rank of each target, ties by smaller item; -1 beyond ``depth`` or where the target is not ranked."""
    own = scores[np.arange(len(targets)), targets][:, None]
    items = np.arange(scores.shape[1])
    before = (scores > own).sum(axis=1) + ((scores == own) & (items < targets[:, None])).sum(axis=1)
    return np.where((before < depth) & np.isfinite(own[:, 0]), before, -1)
