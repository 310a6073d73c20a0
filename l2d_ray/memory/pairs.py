"""Item pairs of the user sequences that a memory remembers: which items were taken shortly before or after which, and how surely.

    similarity(j, v) = c(j, v) / (sqrt(u_j u_v) + SHRINKAGE)

with u the number of users of an item, and c the sum over all places of j and of v in one user's sequence, at most WINDOW apart, of
GAP_DECAY^(gap - 1), times BACKWARD where v comes first, times (1 + 1 / (1 + time between / TIME_SCALE_S)) / 2 where both times are known:
item-kNN's ordered counts (``baselines.item_knn``; Sarwar et al. 2001), in which a year between two interactions counts too. It is what no
title tells: that people who have one album have the other. An item may be its own source, where users repeat it. The constants did best,
or as well as any other, on the validation samples of Video_Games_2015 and CDs_2015 together.

Of every item v only its NUM_SOURCES best sources j are kept, so pairs take a bounded part of what an item's mean does. That choice and
every similarity need v's pairs and all users' counts alone, and counts are sums of whole multiples of 2**-32: any partition of the items
into shards, and any order of the users, gives the same bits (tested).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from l2d_ray.memory.statistics import NO_TIMESTAMP, WEIGHT_UNIT
from l2d_ray.schema import SECONDS_PER_DAY

WINDOW: Final = 20
GAP_DECAY: Final = 0.85
BACKWARD: Final = 0.5
TIME_SCALE_S: Final = 30 * SECONDS_PER_DAY
SHRINKAGE: Final = 10.0
NUM_SOURCES: Final = 300
MAX_PAIRS: Final = 1 << 26
"""Pairs that one pass over the sequences counts at most, about: 1 GiB."""
MIN_WAITING: Final = 1 << 20
"""Pairs that wait before they are added up."""


@dataclass(frozen=True, eq=False)
class ItemPairs:
    """Pairs of some items with sources in the whole catalogue, by source.

    Attributes:
        starts: (num_items + 1,) int64: the pairs of source j are those from starts[j] to starts[j + 1].
        places: (p,) int32 positions of v among the items that were counted, ascending within a source.
        similarities: (p,) float32, positive.
    """

    starts: NDArray[np.int64]
    places: NDArray[np.int32]
    similarities: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def num_bytes(self) -> int:
        return self.starts.nbytes + self.places.nbytes + self.similarities.nbytes


@dataclass(frozen=True, eq=False)
class ItemSequences:
    """Some users' sequences as one array.

    Attributes:
        users: (n,) int64, the same for the interactions of one user, which stand together, oldest first.
        items: (n,) int64 item indexes.
        times: (n,) int64 seconds, NO_TIMESTAMP where unknown.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64]

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], times: Sequence[Sequence[int]] | None = None) -> ItemSequences:
        """Of item indexes by user, and their times, unknown where None."""
        users = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences]).astype(np.int64)
        items = np.array([item for sequence in sequences for item in sequence], dtype=np.int64)
        known = np.full(len(items), NO_TIMESTAMP) if times is None else np.array([time for of_user in times for time in of_user], np.int64)
        return cls(users, items, known)


class _Counter:
    """Counts the pairs of some items, ``targets`` (v,) ascending, over a stream of user sequences."""

    def __init__(self, targets: NDArray[np.int64], num_items: int) -> None:
        self._num_items = num_items
        self._is_target = np.zeros(num_items, dtype=np.bool_)
        self._is_target[targets] = True
        self._num_users = np.zeros(num_items, dtype=np.int64)
        self._keys = [np.zeros(0, dtype=np.int64)]  # source * num_items + target; those of the first array distinct and ascending
        self._counts = [np.zeros(0, dtype=np.int64)]  # in units of WEIGHT_UNIT
        self._num_waiting = 0

    def add(self, sequences: ItemSequences) -> None:
        users, items, times = sequences.users, sequences.items, sequences.times
        distinct = np.unique(users * self._num_items + items) % self._num_items
        self._num_users += np.bincount(distinct, minlength=self._num_items)
        for gap, places in pairs_by_gap(users, WINDOW):
            earlier, later = items[places], items[places + gap]
            differ = earlier != later  # a repeat looks the same from both ends and is counted once
            worth = GAP_DECAY ** (gap - 1) * nearness(times[places], times[places + gap], TIME_SCALE_S)
            self._note(earlier, later, worth)
            self._note(later[differ], earlier[differ], worth[differ] * BACKWARD)
        if self._num_waiting > max(len(self._keys[0]), MIN_WAITING):
            self._merge()

    def result(self) -> _Pairs:
        """The pairs with each target's best sources, equal ones by smaller source."""
        self._merge()
        sources, targets = np.divmod(self._keys[0], max(self._num_items, 1))
        users = np.sqrt((self._num_users[sources] * self._num_users[targets]).astype(np.float64))
        similarities = (self._counts[0] * WEIGHT_UNIT / (users + SHRINKAGE)).astype(np.float32)
        order = np.lexsort((sources, -similarities, targets))
        firsts = np.searchsorted(targets[order], targets[order])
        kept = order[np.arange(len(order)) - firsts < NUM_SOURCES]
        return _Pairs(sources[kept], targets[kept], similarities[kept])

    def _note(self, sources: NDArray[np.int64], targets: NDArray[np.int64], worth: NDArray[np.float64]) -> None:
        chosen = self._is_target[targets]
        self._keys.append(sources[chosen] * self._num_items + targets[chosen])
        self._counts.append(np.rint(worth[chosen] / WEIGHT_UNIT).astype(np.int64))
        self._num_waiting += len(self._keys[-1])

    def _merge(self) -> None:
        keys, slots = np.unique(np.concatenate(self._keys), return_inverse=True)
        counts = np.zeros(len(keys), dtype=np.int64)
        np.add.at(counts, slots, np.concatenate(self._counts))
        self._keys, self._counts, self._num_waiting = [keys], [counts], 0


def pairs_by_gap(users: NDArray[np.int64], window: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Gaps from 1 to ``window``, each with the places (p,) of the earlier of two interactions of one user, ``users`` (n,), so far apart."""
    for gap in range(1, min(window, len(users) - 1) + 1):
        yield gap, np.flatnonzero(users[gap:] == users[:-gap])


def nearness(earlier: NDArray[np.int64], later: NDArray[np.int64], scale_s: float) -> NDArray[np.float64]:
    """(p,) what pairs are worth for the time between their two, (1 + 1 / (1 + time / scale)) / 2; 1 where that is unknown."""
    between = np.where((earlier == NO_TIMESTAMP) | (later == NO_TIMESTAMP), 0, later - earlier)
    worth: NDArray[np.float64] = 0.5 + 0.5 / (1 + between / scale_s)
    return worth


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs in any order, (p,) each."""

    sources: NDArray[np.int64]
    targets: NDArray[np.int64]
    similarities: NDArray[np.float32]


def count_pairs(
    sequences: Callable[[], Iterable[ItemSequences]], targets: NDArray[np.int64], counts: NDArray[np.int64], num_items: int
) -> ItemPairs:
    """Pairs of the items ``targets`` (v,), ascending, over all user sequences.

    Args:
        sequences: a new pass over them, each user's whole in one part. There are as many passes as keep the pairs of one in memory.
        counts: (v,) how often the items stand in them, about.
        num_items: of the catalogue.
    """
    parts = [_Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
    passes = np.cumsum(counts * 2 * WINDOW) // MAX_PAIRS
    for number in np.unique(passes):
        counter = _Counter(targets[passes == number], num_items)
        for part in sequences():
            counter.add(part)
        parts.append(counter.result())
    sources, their_targets, similarities = (np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(_Pairs))
    order = np.lexsort((their_targets, sources))
    starts = np.searchsorted(sources[order], np.arange(num_items + 1)).astype(np.int64)
    return ItemPairs(starts, np.searchsorted(targets, their_targets[order]).astype(np.int32), similarities[order])
