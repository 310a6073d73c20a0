"""Session-kNN by vector multiplication (V-SkNN): what training users chose who share recent items with the history.

Ludewig and Jannach 2018 (arXiv 1803.09587), with a user's sequence in the place of a session. For a history of n items, each at its
latest place, item j of age a (0 = last):

    similarity(s) = sum over the shared items of (1 - a / n)^recency_power, divided by |s|^length_power
    score(i)      = sum over the neighbours s that hold i of similarity(s) * (1 + idf_weight * idf(i)) / (1 + a_s)^match_power

a_s is the age of the most recent item shared with s, idf(i) = log(num_sequences / num_sequences with i), |s| the distinct items of s.
Candidates are the ``sample_size`` most recent sequences that share an item; the ``num_neighbors`` most similar of them are the
neighbours. The published method has length_power 0, gap_decay 1, backward_weight 1 and repeat_weight 1. User sequences are longer than
sessions and run on after the shared item, hence (as in STAN, Garg et al. 2019) an item g steps from the shared one is worth
gap_decay^(g - 1), times ``backward_weight`` where it comes before it; an item of the history itself is worth ``repeat_weight``.
Items with no evidence follow in popularity order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from l2d_ray.baselines.interface import interaction_counts, rank_in_blocks
from l2d_ray.baselines.tuning import Tuned, ValidationSamples, tune
from l2d_ray.errors import DataError

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class SessionKnnSettings:
    """Options of SessionKnn; see the module. ``num_recent`` is how many last history items count."""

    num_neighbors: int = 500
    sample_size: int = 5000
    num_recent: int = 10
    recency_power: float = 1.0
    match_power: float = 1.0
    length_power: float = 0.0
    idf_weight: float = 0.0
    gap_decay: float = 0.9
    backward_weight: float = 0.5
    repeat_weight: float = 0.1


PUBLISHED: Final = SessionKnnSettings(
    num_neighbors=100,
    sample_size=1000,
    gap_decay=1.0,
    backward_weight=1.0,
    repeat_weight=1.0,
)
"""V-SkNN with the default weights of its authors' code."""

GRID: Final = (
    PUBLISHED,
    *(
        SessionKnnSettings(num_neighbors=n, recency_power=r, length_power=p, idf_weight=w, gap_decay=g, backward_weight=b)
        for n, r, p, w, (g, b) in product((200, 500), (1.0, 2.0), (0.0, 0.5), (0.0, 1.0), ((1.0, 1.0), (0.9, 0.5), (0.8, 0.25)))
    ),
)
"""What ``tune_session_knn`` tries by default."""


class _Neighbours(NamedTuple):
    """Neighbours of a block of histories, one row a (history, sequence): parallel (m,) arrays."""

    rows: IntArray
    sequences: IntArray
    similarities: FloatArray
    ages: IntArray  # of the most recent shared item
    places: IntArray  # of that item in the sequence: its last place there

    def take(self, kept: IntArray) -> _Neighbours:
        return _Neighbours(self.rows[kept], self.sequences[kept], self.similarities[kept], self.ages[kept], self.places[kept])


class SessionKnn:
    """Neighbourhood model over user sequences and items 0..num_items-1.

    Args:
        last_times: (num_sequences,), when each sequence ended, -1 where unknown (the oldest); of equal times, and without times, the
            later in the list is more recent.

    Raises:
        DataError: as many times as sequences are wanted.
    """

    def __init__(
        self,
        train_sequences: Sequence[Sequence[int]],
        num_items: int,
        settings: SessionKnnSettings = SessionKnnSettings(),
        *,
        last_times: Sequence[int] | None = None,
    ) -> None:
        if last_times is not None and len(last_times) != len(train_sequences):
            raise DataError(f"There are {len(last_times)} last times for {len(train_sequences)} training sequences; give one each.")
        self._settings = settings
        times = np.zeros(len(train_sequences), np.int64) if last_times is None else np.asarray(last_times, np.int64)
        oldest_first = [train_sequences[index] for index in np.argsort(times, kind="stable")]
        self._user_starts, self._user_items, self._user_places = _distinct_items(oldest_first)
        self._lengths = np.maximum(np.diff(self._user_starts), 1)
        users = np.repeat(np.arange(len(oldest_first)), np.diff(self._user_starts))
        by_item = np.argsort(self._user_items, kind="stable")
        self._item_users, self._item_places = users[by_item], self._user_places[by_item]
        num_users = np.bincount(self._user_items, minlength=num_items)
        self._item_starts = np.concatenate([[0], np.cumsum(num_users)])
        self._item_weights = 1 + settings.idf_weight * np.log(max(len(oldest_first), 1) / np.maximum(num_users, 1))
        counts = interaction_counts(train_sequences, num_items)
        self._popularity = counts / (counts.max(initial=0) + 1.0)  # in [0, 1)

    def rank(self, histories: Sequence[Sequence[int]], k: int, exclude: Sequence[Collection[int]] | None = None) -> NDArray[np.int64]:
        """The k best items of each history (oldest first), (n, k) int64 padded with -1; items without evidence by popularity."""
        return rank_in_blocks(histories, self._scores, k, exclude, num_items=len(self._popularity))

    def _scores(self, histories: Sequence[Sequence[int]]) -> FloatArray:
        """(n, num_items) float64: positive where there is evidence, else popularity - 1, which is negative."""
        options, num_items = self._settings, len(self._popularity)
        rows, items, ages, weights = self._queries(histories)
        near = self._neighbours(rows, items, ages, weights)
        owners, positions = _ragged(self._user_starts, near.sequences)
        steps = self._user_places[positions] - near.places[owners]
        worth = (near.similarities / (1.0 + near.ages) ** options.match_power)[owners] * self._item_weights[self._user_items[positions]]
        worth *= options.gap_decay ** np.maximum(np.abs(steps) - 1, 0) * np.where(steps < 0, options.backward_weight, 1.0)
        cells = near.rows[owners] * num_items + self._user_items[positions]
        evidence = np.bincount(cells, worth, minlength=len(histories) * num_items).astype(np.float64, copy=False)
        evidence = evidence.reshape(len(histories), num_items)
        evidence[rows, items] = evidence[rows, items] * options.repeat_weight
        return np.where(evidence > 0, evidence, self._popularity - 1.0)

    def _queries(self, histories: Sequence[Sequence[int]]) -> tuple[IntArray, IntArray, IntArray, FloatArray]:
        """Row, item, age and weight of every distinct recent history item at its latest place; four (m,) arrays."""
        found: list[tuple[int, int, int, int]] = []
        for row, history in enumerate(histories):
            recent = history[-self._settings.num_recent :]
            item_to_age: dict[int, int] = {}
            for age, item in enumerate(reversed(recent)):
                item_to_age.setdefault(item, age)
            found += [(row, item, age, len(recent)) for item, age in item_to_age.items()]
        rows, items, ages, lengths = np.array(found, np.int64).reshape(-1, 4).T
        return rows, items, ages, (1 - ages / lengths) ** self._settings.recency_power

    def _neighbours(self, rows: IntArray, items: IntArray, ages: IntArray, weights: FloatArray) -> _Neighbours:
        """The most similar of the most recent sequences that share an item with each history."""
        owners, positions = _ragged(self._item_starts, items)
        order = np.lexsort((ages[owners], self._item_users[positions], rows[owners]))  # of a pair, the most recent item comes first
        owners, positions = owners[order], positions[order]
        pairs = rows[owners] * len(self._lengths) + self._item_users[positions]
        _, firsts = np.unique(pairs, return_index=True)
        sums = np.add.reduceat(weights[owners], firsts) if len(firsts) else np.empty(0)
        owners, positions = owners[firsts], positions[firsts]
        sequences = self._item_users[positions]
        similarities = sums / self._lengths[sequences] ** self._settings.length_power
        near = _Neighbours(rows[owners], sequences, similarities, ages[owners], self._item_places[positions])
        near = _head(near, np.lexsort((-near.sequences, near.rows)), self._settings.sample_size)
        return _head(near, np.lexsort((-near.sequences, -near.similarities, near.rows)), self._settings.num_neighbors)


def tune_session_knn(
    train_sequences: Sequence[Sequence[int]],
    num_items: int,
    *,
    validation: ValidationSamples,
    last_times: Sequence[int] | None = None,
    grid: Sequence[SessionKnnSettings] = GRID,
) -> Tuned[SessionKnnSettings, SessionKnn]:
    """Settings with the best ndcg@20 on validation; the earlier candidate wins a tie."""
    return tune(grid, lambda settings: SessionKnn(train_sequences, num_items, settings, last_times=last_times), validation)


def _distinct_items(sequences: Sequence[Sequence[int]]) -> tuple[IntArray, IntArray, IntArray]:
    """Offsets of each sequence, its distinct items in order of their last place, and that place."""
    items: list[int] = []
    places: list[int] = []
    starts = [0]
    for sequence in sequences:
        item_to_place = {item: place for place, item in enumerate(sequence)}
        items += item_to_place.keys()
        places += item_to_place.values()
        starts.append(len(items))
    return np.array(starts, np.int64), np.array(items, np.int64), np.array(places, np.int64)


def _ragged(starts: IntArray, groups: IntArray) -> tuple[IntArray, IntArray]:
    """Owners (positions in ``groups``) and positions of all elements of some groups, group after group."""
    counts = starts[groups + 1] - starts[groups]
    owners = np.repeat(np.arange(len(groups)), counts)
    shifts = starts[groups] - (np.cumsum(counts) - counts)
    return owners, np.arange(len(owners)) + shifts[owners]


def _head(near: _Neighbours, order: IntArray, count: int) -> _Neighbours:
    """The first ``count`` neighbours of each row in an order that keeps rows together."""
    rows = near.rows[order]
    is_first = np.ones(len(rows), bool)
    is_first[1:] = rows[1:] != rows[:-1]
    starts = np.flatnonzero(is_first)
    place = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
    return near.take(order[place < count])
