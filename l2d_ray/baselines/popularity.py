"""Popularity: the same list for everyone, by number of training interactions. The floor that any recommender must clear.

With a half-life an interaction weighs 2^(-age / half_life). Ages are counted from the latest training interaction of all where times
are given (any unit, the half-life's own; an interaction of unknown time weighs 1), and otherwise in positions from the end of the user's
sequence.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from l2d_ray.baselines.interface import interaction_counts, top_items
from l2d_ray.baselines.tuning import Tuned, ValidationSamples, tune
from l2d_ray.errors import ConfigError, DataError
from l2d_ray.schema import SECONDS_PER_DAY

HALF_LIVES_S: Final = (None, *(days * SECONDS_PER_DAY for days in (7, 14, 30, 60, 120, 240, 480)))
"""What ``tune_popularity`` tries where times are in seconds."""
HALF_LIVES_IN_POSITIONS: Final = (None, 0.5, 1.0, 2.0, 4.0, 8.0)
"""What it tries where there are no times."""


class Popularity:
    """Items by (decayed) count of training interactions, most first; equal counts by smaller item index.

    Args:
        half_life: None means that nothing decays.
        times: of every interaction, parallel to ``train_sequences``, -1 where unknown; None means positions (see the module).

    Raises:
        ConfigError: a half-life that is not positive.
        DataError: times that are not parallel to the sequences.
    """

    def __init__(
        self,
        train_sequences: Sequence[Sequence[int]],
        num_items: int,
        half_life: float | None = None,
        *,
        times: Sequence[Sequence[int]] | None = None,
    ) -> None:
        if half_life is None:
            self._scores = interaction_counts(train_sequences, num_items).astype(np.float64)
        else:
            self._scores = _decayed_counts(train_sequences, num_items, half_life, times)

    def rank(self, histories: Sequence[Sequence[int]], k: int, exclude: Sequence[Collection[int]] | None = None) -> NDArray[np.int64]:
        """The k most popular items that are not excluded, (n, k) int64; the histories do not matter."""
        if exclude is None:
            return np.tile(top_items(self._scores, k), (len(histories), 1))
        rows = [top_items(self._scores, k, items) for items in exclude]
        return np.stack(rows) if rows else np.empty((0, k), np.int64)


def tune_popularity(
    train_sequences: Sequence[Sequence[int]],
    num_items: int,
    *,
    validation: ValidationSamples,
    times: Sequence[Sequence[int]] | None = None,
    half_lives: Sequence[float | None] | None = None,
) -> Tuned[float | None, Popularity]:
    """The half-life with the best ndcg@20 on validation; by default out of a grid for times in seconds, or for positions."""
    usual = HALF_LIVES_IN_POSITIONS if times is None else HALF_LIVES_S
    grid = usual if half_lives is None else half_lives
    return tune(grid, lambda half_life: Popularity(train_sequences, num_items, half_life, times=times), validation)


def _decayed_counts(
    train_sequences: Sequence[Sequence[int]], num_items: int, half_life: float, times: Sequence[Sequence[int]] | None
) -> NDArray[np.float64]:
    """(num_items,) float64: sum of the interactions' weights."""
    if half_life <= 0:
        raise ConfigError(f"half_life is {half_life}; it must be positive, or None for no decay.")
    lengths = [len(sequence) for sequence in train_sequences]
    if times is None:
        ages = [np.arange(length)[::-1] for length in lengths]
    elif [len(of_user) for of_user in times] != lengths:
        raise DataError("The times are not parallel to the training sequences; give one time for each interaction.")
    else:
        latest = max((max(of_user) for of_user in times if of_user), default=0)
        ages = [np.where(np.asarray(of_user) < 0, 0, latest - np.asarray(of_user, np.int64)) for of_user in times]
    counts = np.zeros(num_items)
    for sequence, age in zip(train_sequences, ages, strict=True):
        np.add.at(counts, np.asarray(sequence, np.int64), np.exp2(-age / half_life))
    return counts
