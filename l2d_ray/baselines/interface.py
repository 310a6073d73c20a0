"""What every baseline is: fitted by its constructor, then a function from histories to ranked items.

``Baseline.rank`` fits ``evaluate.protocol.Ranker``. Laws that the contract suite states for all of them: the answer is (n, k) int64 item
indexes, best first, no item twice in a row, no excluded item, -1 only after the last item; the whole catalogue is ranked, so a list is
short only where the catalogue is; a shorter list is the beginning of a longer one; equal scores are ordered by smaller item index; an
empty history is answered with the popularity order, and so is one of items without training data where the system knows items by
their interactions alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from l2d_ray.evaluate.metrics import PADDING

MAX_CELLS: Final = 4_000_000
"""Scores held at a time: 32 MB."""

Requests = TypeVar("Requests", Sequence[Sequence[int]], NDArray[np.float32])


class Baseline(Protocol):
    """A fitted recommender over items 0..num_items-1."""

    def rank(self, histories: Sequence[Sequence[int]], k: int, exclude: Sequence[Collection[int]] | None = None) -> NDArray[np.int64]:
        """The k best items of each history (oldest first): (n, k) int64, padded with -1, without the items of ``exclude[i]``."""
        ...


def interaction_counts(train_sequences: Sequence[Sequence[int]], num_items: int) -> NDArray[np.int64]:
    """How often each item occurs in the training sequences, repeats included: (num_items,) int64."""
    counts = np.zeros(num_items, np.int64)
    for sequence in train_sequences:
        np.add.at(counts, np.asarray(sequence, np.int64), 1)
    return counts


def top_items(scores: NDArray[np.float64], k: int, exclude: Collection[int] = ()) -> NDArray[np.int64]:
    """Items of the k largest scores: (num_items,) float64 -> (k,) int64, equal scores by smaller index, padded with -1.

    Excluded items never occur. Exact on ties: everything that equals the k-th score is ordered before the cut.
    """
    allowed = np.ones(len(scores), bool)
    allowed[list(exclude)] = False
    candidates = np.flatnonzero(allowed)
    num_ranked = min(k, len(candidates))
    if 0 < num_ranked < len(candidates):
        kth = np.partition(scores[candidates], len(candidates) - num_ranked)[len(candidates) - num_ranked]
        candidates = candidates[scores[candidates] >= kth]
    ranked = np.full(k, PADDING, np.int64)
    ranked[:num_ranked] = candidates[np.argsort(-scores[candidates], kind="stable")][:num_ranked]
    return ranked


def rank_in_blocks(
    requests: Requests,
    scores_of: Callable[[Requests], NDArray[np.float64]],
    k: int,
    exclude: Sequence[Collection[int]] | None,
    *,
    num_items: int,
) -> NDArray[np.int64]:
    """``top_items`` of every request, (n, k) int64, with at most ``MAX_CELLS`` scores held at a time.

    Args:
        requests: n histories, or query vectors (n, d).
        scores_of: some of the requests in a row -> their scores (m, num_items).
    """
    ranked = np.empty((len(requests), k), np.int64)
    rows = rows_at_once(num_items)
    for start in range(0, len(requests), rows):
        for row, scores in enumerate(scores_of(requests[start : start + rows]), start):
            ranked[row] = top_items(scores, k, () if exclude is None else exclude[row])
    return ranked


def rows_at_once(num_items: int) -> int:
    """Requests whose scores may be held at a time; at least one."""
    return max(1, MAX_CELLS // max(num_items, 1))


def head_first(head: NDArray[np.int64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores (num_items,) by which the distinct items of ``head`` come first, in their order, and the others as ``scores`` has them."""
    lifted = scores.copy()
    lifted[head] = scores.max(initial=0.0) + np.arange(len(head), 0, -1)
    return lifted
