"""Per-item statistics of memory entries: what the global and the whitened decoder are made of, in closed form.

Stored vectors are float16: whole multiples of 2**-24 below 2**16. A float64 holds every sum of up to 2**13 of the largest of them, and of
millions of usual ones, exactly; so sums do not depend on the order of addition, add-then-remove is the identity, and merging
over any partition gives the same bits. (These laws are worth the wider type.) Decayed counts are sums of whole multiples of 2**-32 for
the same reason. Only the scatter, a sum of products, is rounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from l2d_ray.memory.titles import TitledMeans, TitleMap, TitleStates

NO_TIMESTAMP: Final = -1
WEIGHT_UNIT: Final = 2.0**-32
"""Weights of decayed counts are rounded to whole multiples of this."""

ITEM_BLOCK: Final = 4096


@dataclass(frozen=True, eq=False)
class ItemStatistics:
    """Statistics of v items over their entries.

    Attributes:
        item_indexes: (v,) int64, ascending, unique.
        counts: (v,) int64, at least 1.
        sums: (v, d) float64, sum of the item's vectors; may be memory-mapped.
        last_timestamps: (v,) int64 seconds; NO_TIMESTAMP where unknown.
        decayed_counts: (v,) float64, the entries' weights (``decay_weights``) added up; equal to counts where nothing decays.
        scatter: (d, d) float64, sum over all entries of h h'.
    """

    item_indexes: NDArray[np.int64]
    counts: NDArray[np.int64]
    sums: NDArray[np.float64]
    last_timestamps: NDArray[np.int64]
    decayed_counts: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @property
    def num_entries(self) -> int:
        return int(self.counts.sum())

    def means(self) -> NDArray[np.float32]:
        """(v, d) float32: the global item representations c_v."""
        means = np.empty(self.sums.shape, dtype=np.float32)
        for rows in self._blocks():
            means[rows] = self.sums[rows] / self.counts[rows, None]
        return means

    def titled(self, titles: TitleStates) -> TitledMeans:
        """What a title map is fitted on."""
        return TitledMeans(titles.states[titles.places_of(self.item_indexes)], self.counts, self.sums)

    def total(self) -> NDArray[np.float64]:
        """(d,) sum of all entries; exact, like the sums."""
        total: NDArray[np.float64] = np.zeros(self.sums.shape[1])
        for rows in self._blocks():
            total += self.sums[rows].sum(axis=0)
        return total

    def within_scatter(self) -> NDArray[np.float64]:
        """(d, d): sum over entries of (h - c)(h - c)' with c the item's own mean; adds up over disjoint sets of items."""
        between = np.zeros_like(self.scatter)
        for rows in self._blocks():
            between += self.sums[rows].T @ (self.sums[rows] / self.counts[rows, None])
        return self.scatter - between

    def _blocks(self) -> list[slice]:
        """Blocks of items, so that memory-mapped sums are read piece by piece."""
        return [slice(start, start + ITEM_BLOCK) for start in range(0, len(self.counts), ITEM_BLOCK)]


@dataclass(frozen=True)
class Decay:
    """How entries lose weight: half of it every ``half_life_s`` seconds before ``reference_time``; never where half_life_s is None."""

    half_life_s: int | None = None
    reference_time: int = 0

    def weights(self, timestamps: NDArray[np.integer]) -> NDArray[np.int64]:
        """(n,) 2**(-age / half_life_s) in units of WEIGHT_UNIT, rounded; entries without a time, or later than the reference, weigh 1."""
        whole = int(1 / WEIGHT_UNIT)
        if self.half_life_s is None:
            return np.full(len(timestamps), whole, dtype=np.int64)
        ages = np.where(timestamps == NO_TIMESTAMP, 0, self.reference_time - timestamps.astype(np.int64)).clip(min=0)
        weights: NDArray[np.int64] = np.rint(np.exp2(-ages / self.half_life_s) * whole).astype(np.int64)
        return weights


NO_DECAY: Final = Decay()


class StatisticsBuilder:
    """Counts and sums over a stream of entries whose items are known before.

    Args:
        item_indexes: (v,) int64, ascending, unique: every item that will come.
    """

    def __init__(self, item_indexes: NDArray[np.int64], dim: int, decay: Decay = NO_DECAY) -> None:
        self._items = item_indexes
        self._decay = decay
        self._counts = np.zeros(len(item_indexes), dtype=np.int64)
        self._sums = np.zeros((len(item_indexes), dim))
        self._last = np.full(len(item_indexes), NO_TIMESTAMP, dtype=np.int64)
        self._weights = np.zeros(len(item_indexes), dtype=np.int64)
        self._scatter = np.zeros((dim, dim))

    def add(self, item_indexes: NDArray[np.integer], vectors: NDArray[np.float16], timestamps: NDArray[np.integer]) -> None:
        """Take in n entries, in any order: items (n,), vectors (n, d), timestamps (n,)."""
        if not len(item_indexes):
            return
        order = np.argsort(item_indexes, kind="stable")
        items, starts, counts = np.unique(item_indexes[order], return_index=True, return_counts=True)
        slots = np.searchsorted(self._items, items)
        wide, times = vectors[order].astype(np.float64), timestamps[order]
        self._counts[slots] += counts
        self._sums[slots] += np.add.reduceat(wide, starts, axis=0)
        self._last[slots] = np.maximum(self._last[slots], np.maximum.reduceat(times, starts))
        self._weights[slots] += np.add.reduceat(self._decay.weights(times), starts)
        self._scatter += wide.T @ wide

    def result(self) -> ItemStatistics:
        """The statistics of the items that had an entry."""
        seen = self._counts > 0
        sums = self._sums if seen.all() else self._sums[seen]
        decayed = _counts_of(self._weights[seen])
        return ItemStatistics(self._items[seen], self._counts[seen], sums, self._last[seen], decayed, self._scatter)


def statistics_of(
    item_indexes: NDArray[np.int64], vectors: NDArray[np.float16], timestamps: NDArray[np.int64], *, decay: Decay = NO_DECAY
) -> ItemStatistics:
    """Statistics of a batch of n entries: item_indexes (n,), vectors (n, d), timestamps (n,) with NO_TIMESTAMP where unknown."""
    builder = StatisticsBuilder(np.unique(item_indexes).astype(np.int64), vectors.shape[1], decay)
    builder.add(item_indexes, vectors, timestamps)
    return builder.result()


def merge_statistics(parts: Sequence[ItemStatistics]) -> ItemStatistics:
    """Statistics of the union of the parts' entries; at least one part, items may stand in several."""
    items, slots = np.unique(np.concatenate([p.item_indexes for p in parts]), return_inverse=True)
    counts = np.zeros(len(items), dtype=np.int64)
    np.add.at(counts, slots, np.concatenate([p.counts for p in parts]))
    sums, decayed = np.zeros((len(items), parts[0].sums.shape[1])), np.zeros(len(items))
    np.add.at(sums, slots, np.concatenate([p.sums for p in parts]))
    np.add.at(decayed, slots, np.concatenate([p.decayed_counts for p in parts]))
    last = np.full(len(items), NO_TIMESTAMP, dtype=np.int64)
    np.maximum.at(last, slots, np.concatenate([p.last_timestamps for p in parts]))
    return ItemStatistics(items, counts, sums, last, decayed, np.sum([p.scatter for p in parts], axis=0))


def subtract_statistics(whole: ItemStatistics, part: ItemStatistics) -> ItemStatistics:
    """Statistics of the entries of ``whole`` that are not in ``part``, a subset of them; items without any entry left are dropped.

    The last timestamps stay those of ``whole``, since a maximum cannot be taken back: follow with ``with_times``.
    """
    slots = np.searchsorted(whole.item_indexes, part.item_indexes)
    counts, sums, decayed = whole.counts.copy(), np.array(whole.sums), whole.decayed_counts.copy()
    counts[slots] -= part.counts
    sums[slots] -= part.sums
    decayed[slots] -= part.decayed_counts
    kept = counts > 0
    scatter = whole.scatter - part.scatter
    return ItemStatistics(whole.item_indexes[kept], counts[kept], sums[kept], whole.last_timestamps[kept], decayed[kept], scatter)


def with_times(
    statistics: ItemStatistics, entries: Iterable[tuple[NDArray[np.int64], NDArray[np.integer]]], *, decay: Decay
) -> ItemStatistics:
    """The same, with last timestamps and decayed counts anew from all entries: blocks of (item_indexes (n,), timestamps (n,))."""
    last = np.full(len(statistics.item_indexes), NO_TIMESTAMP, dtype=np.int64)
    weights = np.zeros(len(statistics.item_indexes), dtype=np.int64)
    for item_indexes, timestamps in entries:
        slots = np.searchsorted(statistics.item_indexes, item_indexes)
        np.maximum.at(last, slots, timestamps)
        np.add.at(weights, slots, decay.weights(timestamps))
    return replace(statistics, last_timestamps=last, decayed_counts=_counts_of(weights))


@dataclass(frozen=True, eq=False)
class PooledStatistics:
    """What all shards share.

    Attributes:
        within_covariance: (d, d) float64, of entries about their own item's mean, unbiased where some item has two entries or more.
        mean: (d,) float64, of all entries; zero where there is none.
        title_map: from a title's state to the mean of the item's entries; None where titles were not encoded.
    """

    within_covariance: NDArray[np.float64]
    mean: NDArray[np.float64]
    title_map: TitleMap | None = None

    @classmethod
    def of(cls, parts: Sequence[ItemStatistics]) -> PooledStatistics:
        """Of parts with disjoint items, at least one."""
        sums = ([p.within_scatter() for p in parts], [p.total() for p in parts])
        return cls.from_sums(*sums, num_entries=sum(p.num_entries for p in parts), num_items=sum(len(p.counts) for p in parts))

    @classmethod
    def from_sums(
        cls, within_scatters: Sequence[NDArray[np.float64]], totals: Sequence[NDArray[np.float64]], *, num_entries: int, num_items: int
    ) -> PooledStatistics:
        """Of the parts' ``within_scatter()`` and ``total()``, and the numbers of all parts together."""
        covariance: NDArray[np.float64] = np.sum(within_scatters, axis=0) / max(num_entries - num_items, 1)
        mean: NDArray[np.float64] = np.sum(totals, axis=0) / max(num_entries, 1)
        return cls(covariance, mean)


def decayed_counts(
    item_indexes: NDArray[np.int64], entries: Iterable[tuple[NDArray[np.int64], NDArray[np.integer]]], decays: Sequence[Decay]
) -> list[NDArray[np.float64]]:
    """For each of some decays the decayed counts (v,) of items, in one pass over all entries: blocks of (item_indexes, timestamps) (n,)."""
    weights = np.zeros((len(decays), len(item_indexes)), dtype=np.int64)
    for items, timestamps in entries:
        slots = np.searchsorted(item_indexes, items)
        for row, decay in enumerate(decays):
            np.add.at(weights[row], slots, decay.weights(timestamps))
    return [_counts_of(row) for row in weights]


def _counts_of(weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums of weights as counts."""
    counts: NDArray[np.float64] = weights.astype(np.float64) * WEIGHT_UNIT
    return counts
