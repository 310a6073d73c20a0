"""Per-item statistics of memory entries: what the global and the whitened decoder are made of, in closed form.

Stored vectors are float16: whole multiples of 2**-24 below 2**16. A float64 holds every sum of up to 2**13 of the largest of them, and of
millions of usual ones, exactly; so sums do not depend on the order of addition, add-then-remove is the identity, and merging
over any partition gives the same bits. (These laws are worth the wider type.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_TIMESTAMP = -1


@dataclass(frozen=True, eq=False)
class ItemStatistics:
    """Statistics of v items over their entries.

    Attributes:
        item_indexes: (v,) int64, ascending, unique.
        counts: (v,) int64, at least 1.
        sums: (v, d) float64, sum of the item's vectors.
        last_timestamps: (v,) int64 seconds; NO_TIMESTAMP where unknown.
        scatter: (d, d) float64, sum over all entries of h h'.
    """

    item_indexes: NDArray[np.int64]
    counts: NDArray[np.int64]
    sums: NDArray[np.float64]
    last_timestamps: NDArray[np.int64]
    scatter: NDArray[np.float64]

    @property
    def num_entries(self) -> int:
        return int(self.counts.sum())

    def means(self) -> NDArray[np.float32]:
        """(v, d) float32: the global item representations c_v."""
        return (self.sums / self.counts[:, None]).astype(np.float32)

    def within_scatter(self) -> NDArray[np.float64]:
        """(d, d): sum over entries of (h - c)(h - c)' with c the item's own mean; adds up over disjoint sets of items."""
        return self.scatter - self.sums.T @ (self.sums / self.counts[:, None])


def statistics_of(item_indexes: NDArray[np.int64], vectors: NDArray[np.float16], timestamps: NDArray[np.int64]) -> ItemStatistics:
    """Statistics of a batch of n entries: item_indexes (n,), vectors (n, d), timestamps (n,) with NO_TIMESTAMP where unknown."""
    items, slots = np.unique(item_indexes, return_inverse=True)
    wide = vectors.astype(np.float64)
    sums = np.zeros((len(items), vectors.shape[1]))
    np.add.at(sums, slots, wide)
    last = np.full(len(items), NO_TIMESTAMP, dtype=np.int64)
    np.maximum.at(last, slots, timestamps)
    return ItemStatistics(items.astype(np.int64), np.bincount(slots, minlength=len(items)).astype(np.int64), sums, last, wide.T @ wide)


def merge_statistics(parts: Sequence[ItemStatistics]) -> ItemStatistics:
    """Statistics of the union of the parts' entries; at least one part, items may stand in several."""
    items, slots = np.unique(np.concatenate([p.item_indexes for p in parts]), return_inverse=True)
    counts = np.zeros(len(items), dtype=np.int64)
    np.add.at(counts, slots, np.concatenate([p.counts for p in parts]))
    sums = np.zeros((len(items), parts[0].sums.shape[1]))
    np.add.at(sums, slots, np.concatenate([p.sums for p in parts]))
    last = np.full(len(items), NO_TIMESTAMP, dtype=np.int64)
    np.maximum.at(last, slots, np.concatenate([p.last_timestamps for p in parts]))
    return ItemStatistics(items, counts, sums, last, np.sum([p.scatter for p in parts], axis=0))


def within_covariance(parts: Sequence[ItemStatistics]) -> NDArray[np.float64]:
    """(d, d) pooled within-item covariance over parts with disjoint items, unbiased where some item has two entries or more."""
    degrees = sum(p.num_entries - len(p.counts) for p in parts)
    total: NDArray[np.float64] = np.sum([p.within_scatter() for p in parts], axis=0)
    return total / max(degrees, 1)
