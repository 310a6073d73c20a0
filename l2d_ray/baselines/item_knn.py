"""Item-kNN: items that training users have taken together with the history's items. The strongest classical baseline here.

similarity(j -> i) = c(j, i) / (sqrt(u_j u_i) + shrinkage), with u the number of users of an item and c one of two counts:

- plain (``is_ordered=False``): users who have both, so the cosine of the binary user-item matrix (Sarwar et al. 2001), diagonal 0;
- ordered: pairs at most ``window`` steps apart in a user sequence, worth gap_decay^(gap - 1), times ``backward_weight`` where i comes
  before j, times (1 + 1 / (1 + time between / time_scale_s)) / 2 where times are known and that scale is set. Here j = i is a real event,
  a repeat, so repeats are recommended as far as users make them.

Only the ``num_neighbors`` largest similarities of each j are kept. An item's score is the sum over the ``num_recent`` last history items,
each worth recency_decay^age (an item that stands twice counts once, at its latest place); of these last items themselves, but the very
last, it is worth ``repeat_weight`` of that. Items with no evidence follow in popularity order. ``tune_item_knn`` chooses the settings on
validation samples.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from l2d_ray.baselines.interface import interaction_counts, rank_in_blocks
from l2d_ray.baselines.tuning import Steps, Tuned, ValidationSamples, tune_in_steps
from l2d_ray.memory.pairs import nearness, pairs_by_gap
from l2d_ray.schema import SECONDS_PER_DAY


@dataclass(frozen=True)
class ItemKnnSettings:
    """Options of ItemKnn; the defaults are a good choice on the data sets we know, ``PLAIN_COSINE`` is the textbook variant."""

    is_ordered: bool = True
    num_neighbors: int = 300
    shrinkage: float = 20.0
    num_recent: int = 10
    recency_decay: float = 0.7
    window: int = 20
    gap_decay: float = 0.9
    backward_weight: float = 0.25
    repeat_weight: float = 1.0
    time_scale_s: float | None = None


PLAIN_COSINE: Final = ItemKnnSettings(is_ordered=False, shrinkage=0.0, recency_decay=1.0)
"""Untuned: cosine of binary columns, all history items alike."""

GRID: Final = (
    PLAIN_COSINE,
    *(ItemKnnSettings(is_ordered=False, shrinkage=s, recency_decay=d) for s, d in product((5.0, 20.0), (0.7, 0.8, 0.9))),
    *(
        ItemKnnSettings(shrinkage=s, recency_decay=d, backward_weight=b, repeat_weight=r)
        for r, b, s, d in product((1.0, 0.1), (0.25, 0.5), (5.0, 20.0, 50.0), (0.6, 0.7, 0.8))
    ),
)
"""Where tuning starts."""

COARSE: Final = Steps(GRID)
"""What ``tune_item_knn`` tries by default."""

STEPS: Final = Steps(
    GRID,
    (
        ("time_scale_s", tuple(days * SECONDS_PER_DAY for days in (15.0, 60.0, 240.0))),
        ("num_neighbors", (50, 100, 1000)),
        ("window", (3, 8, 50)),
        ("gap_decay", (0.7, 0.8, 1.0)),
        ("num_recent", (3, 5, 20)),
        ("repeat_weight", (0.0, 0.3)),
        ("recency_decay", (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
        ("backward_weight", (0.1, 0.25, 0.5, 0.75, 1.0)),
        ("shrinkage", (1.0, 5.0, 10.0, 20.0, 50.0, 100.0)),
    ),
)
"""Every setting, those of the grid once more at the end."""


class ItemKnn:
    """Neighbourhood model over items 0..num_items-1; memory is at most num_items * num_neighbors similarities after fitting.

    Args:
        times: of the training interactions, seconds, NO_TIMESTAMP where unknown; without them ``time_scale_s`` says nothing.
    """

    def __init__(
        self,
        train_sequences: Sequence[Sequence[int]],
        num_items: int,
        settings: ItemKnnSettings = ItemKnnSettings(),
        *,
        times: Sequence[Sequence[int]] | None = None,
    ) -> None:
        users, items = _flatten(train_sequences)
        user_item = sparse.csr_matrix((np.ones(len(items)), (users, items)), shape=(len(train_sequences), num_items))
        user_item.data[:] = 1.0  # csr_matrix has summed a user's repeats
        if settings.is_ordered:
            seconds = None if times is None else np.array([time for of_user in times for time in of_user], np.int64)
            cooccurrence = _ordered_cooccurrence(users, items, seconds, num_items, settings)
        else:
            cooccurrence = _cooccurrence(user_item)
        num_users = np.asarray(user_item.sum(axis=0)).ravel()
        self._settings = settings
        self._similarity = _nearest(_normalised(cooccurrence, num_users, settings.shrinkage), settings.num_neighbors)
        counts = interaction_counts(train_sequences, num_items)
        self._popularity = counts / (counts.max(initial=0) + 1.0)  # in [0, 1)

    def rank(self, histories: Sequence[Sequence[int]], k: int, exclude: Sequence[Collection[int]] | None = None) -> NDArray[np.int64]:
        """The k best items of each history (oldest first), (n, k) int64 padded with -1; items without evidence by popularity."""
        return rank_in_blocks(histories, self.scores, k, exclude, num_items=len(self._popularity))

    def scores(self, histories: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """(n, num_items) float64: positive where there is evidence, else popularity - 1, which is negative."""
        weights = self._history_weights(histories)
        evidence: NDArray[np.float64] = (weights @ self._similarity).toarray()
        rows, latest = [row for row, history in enumerate(histories) if history], [history[-1] for history in histories if history]
        of_latest = evidence[rows, latest]
        evidence[weights.nonzero()] *= self._settings.repeat_weight
        evidence[rows, latest] = of_latest
        return np.where(evidence > 0, evidence, self._popularity - 1.0)

    def _history_weights(self, histories: Sequence[Sequence[int]]) -> Any:
        """Sparse (n, num_items): recency_decay^age of every recent history item at its latest place."""
        decay, num_recent = self._settings.recency_decay, self._settings.num_recent
        rows: list[int] = []
        items: list[int] = []
        weights: list[float] = []
        for row, history in enumerate(histories):
            item_to_age: dict[int, int] = {}
            for age, item in enumerate(reversed(history[-num_recent:])):
                item_to_age.setdefault(item, age)
            rows += [row] * len(item_to_age)
            items += item_to_age.keys()
            weights += [decay**age for age in item_to_age.values()]
        return sparse.csr_matrix((weights, (rows, items)), shape=(len(histories), len(self._popularity)))


def tune_item_knn(
    train_sequences: Sequence[Sequence[int]],
    num_items: int,
    *,
    validation: ValidationSamples,
    times: Sequence[Sequence[int]] | None = None,
    steps: Steps[ItemKnnSettings] = COARSE,
) -> Tuned[ItemKnnSettings, ItemKnn]:
    """Settings with the best ndcg@20, unmasked and by item id, on validation samples; the earlier candidate wins a tie."""
    return tune_in_steps(steps, lambda settings: ItemKnn(train_sequences, num_items, settings, times=times), validation)


def _flatten(sequences: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """User number and item index of every interaction, user by user: two (num_interactions,) int64."""
    users = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    items = np.array([item for sequence in sequences for item in sequence], np.int64)
    return users.astype(np.int64), items


def _cooccurrence(user_item: Any) -> Any:
    """Sparse (num_items, num_items): users who have both items, diagonal 0."""
    both = (user_item.T @ user_item).tocoo()
    differ = both.row != both.col
    return sparse.csr_matrix((both.data[differ], (both.row[differ], both.col[differ])), shape=both.shape)


def _ordered_cooccurrence(
    users: NDArray[np.int64], items: NDArray[np.int64], times: NDArray[np.int64] | None, num_items: int, settings: ItemKnnSettings
) -> Any:
    """Sparse (num_items, num_items): row j, column i counts j followed by i, and a part of i followed by j (see the module)."""
    shape = (num_items, num_items)
    total = sparse.csr_matrix(shape)
    for gap, places in pairs_by_gap(users, settings.window):
        left, right = items[places], items[places + gap]
        differ = left != right  # a repeat looks the same from both ends and is counted once
        worth = np.full(len(left), settings.gap_decay ** (gap - 1))
        if times is not None and settings.time_scale_s is not None:
            worth *= nearness(times[places], times[places + gap], settings.time_scale_s)
        total += sparse.csr_matrix((worth, (left, right)), shape=shape)
        total += sparse.csr_matrix((worth[differ] * settings.backward_weight, (right[differ], left[differ])), shape=shape)
    return total


def _normalised(cooccurrence: Any, num_users: NDArray[np.float64], shrinkage: float) -> Any:
    """Counts -> similarities; ``num_users`` (num_items,) is positive wherever a count is."""
    counts = cooccurrence.tocoo()
    scale = np.sqrt(num_users[counts.row] * num_users[counts.col]) + shrinkage
    return sparse.csr_matrix((counts.data / scale, (counts.row, counts.col)), shape=counts.shape)


def _nearest(similarity: Any, num_neighbors: int) -> Any:
    """Only the largest ``num_neighbors`` entries of each row; equal ones by smaller item index."""
    similarity.sort_indices()
    kept = []
    for start, stop in zip(similarity.indptr[:-1], similarity.indptr[1:], strict=True):
        order = np.argsort(-similarity.data[start:stop], kind="stable")[:num_neighbors]
        kept.append(start + np.sort(order))
    positions = np.concatenate(kept) if kept else np.empty(0, np.int64)
    indptr = np.cumsum([0, *map(len, kept)])
    return sparse.csr_matrix((similarity.data[positions], similarity.indices[positions], indptr), shape=similarity.shape)
