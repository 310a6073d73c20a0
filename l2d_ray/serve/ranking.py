"""What a request asks of a ranking, as arithmetic: which items, with what added to their scores, and how unlike each other.

A boost is part of the ranking, not a rearrangement of its top: the items of each distinct sum of boosts are searched as a row of their own
with their own top-k, so that an item whose boost lifts it from far down is found. One search holds all the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from l2d_ray.decode.restriction import ascending
from l2d_ray.decode.topk import TopK, rank
from l2d_ray.errors import RequestError

MAX_ROWS: Final = 16
"""Distinct sums of boosts of one request."""


@dataclass(frozen=True, eq=False)
class Row:
    """One query's share of a search: without ``excluded``, among ``allowed`` alone (None: all), and what is added to the scores."""

    excluded: NDArray[np.int64]
    allowed: NDArray[np.int64] | None
    added: float = 0.0


def rows_of(excluded: set[int], mask: NDArray[np.bool_] | None, boosts: Sequence[tuple[NDArray[np.bool_], float]]) -> list[Row]:
    """The rows of a request, at least one.

    Args:
        mask: (n,) which items may be ranked at all; None: any.
        boosts: (n,) which items get how much.

    Raises RequestError where boosts overlap in more than MAX_ROWS ways.
    """
    if not boosts:
        return [_row(excluded, mask, 0.0)]
    added = np.zeros(len(boosts[0][0]))
    for concerned, weight in boosts:
        added[concerned] += weight
    ranked = np.ones(len(added), dtype=np.bool_) if mask is None else mask
    sums = np.unique(added[ranked])
    if len(sums) > MAX_ROWS:
        raise RequestError(
            "boosts", f"The boosts add up to {len(sums)} different values, at most {MAX_ROWS} are ranked; let fewer overlap."
        )
    return [_row(excluded, ranked & (added == value), float(value)) for value in sums.tolist()] or [_row(excluded, mask, 0.0)]


def merged(found: TopK, rows: Sequence[Row], depth: int) -> TopK:
    """The rows of one request (r, k), scores as users see them, as one list (1, depth) with the boosts added."""
    scores = found.scores + np.array([row.added for row in rows])[:, None]
    return rank(found.ids.reshape(1, -1), scores.reshape(1, -1), depth)


def diversified(scores: NDArray[np.float64], vectors: NDArray[np.float32], diversity: float, count: int) -> list[int]:
    """Positions of the first ``count`` of n items in the order of maximal marginal relevance (Carbonell and Goldstein 1998).

    Next comes the item of largest (1 - diversity) * score - diversity * similarity: scores scaled to [0, 1] over the n, similarity the
    largest cosine to an item chosen before, of vectors about their mean (hidden states share a large common part). Ties keep the order.

    Args:
        scores: (n,) descending.
        vectors: (n, d); zero where unknown, which is like nothing.
    """
    if not len(scores):
        return []
    spread = scores[0] - scores[-1]
    relevance = (1 - diversity) * ((scores - scores[-1]) / spread if spread > 0 else np.ones(len(scores)))
    directions = _directions(vectors)
    likeness, left = np.zeros(len(scores)), np.ones(len(scores), dtype=np.bool_)
    order: list[int] = []
    for number in range(min(count, len(scores))):
        chosen = int(np.where(left, relevance - diversity * likeness, -np.inf).argmax())
        order.append(chosen)
        left[chosen] = False
        likeness = directions @ directions[chosen] if number == 0 else np.maximum(likeness, directions @ directions[chosen])
    return order


def _directions(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, d) of length 1, or 0: the vectors that are known about their mean."""
    is_known = vectors.any(axis=1)
    centred = vectors.astype(np.float64)
    if is_known.any():
        centred[is_known] -= centred[is_known].mean(axis=0)
    lengths = np.sqrt(np.square(centred).sum(axis=1, keepdims=True))
    return centred / np.where(lengths > 0, lengths, 1.0)


def _row(excluded: set[int], mask: NDArray[np.bool_] | None, added: float) -> Row:
    """The shorter of the two lists travels: of what is permitted, or of what is not."""
    if mask is None:
        return Row(ascending(excluded), None, added)
    permitted = np.flatnonzero(mask)
    if len(permitted) <= len(mask) / 2:
        return Row(ascending(excluded), permitted, added)
    return Row(np.union1d(ascending(excluded), np.flatnonzero(~mask)), None, added)
