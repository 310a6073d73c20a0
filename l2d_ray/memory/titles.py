"""What an item's title alone says of its representation: for items with few entries, and for those without any (DESIGN: cold items).

A title's state is the hidden state of a request whose history is that title and nothing else. A ridge map, fitted on the items that have
entries (each weighs as many as it has), takes it to the mean of the item's entries:

    minimise  sum_v n_v |c_v - W' x_v - b|^2 + ridge tr(X'NX)/d |W|^2,    p_v = W' x_v + b.

Its sums add up over disjoint sets of items, so shards and versions merge; nothing is trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

RIDGE: Final = 1e-3
"""Share of the mean squared feature that is added to the diagonal."""

ITEM_BLOCK: Final = 4096


@dataclass(frozen=True, eq=False)
class TitleStates:
    """States of the titles of v items.

    Attributes:
        item_indexes: (v,) int64, ascending, unique; every item that has an entry is among them.
        states: (v, d) float16; may be memory-mapped.
    """

    item_indexes: NDArray[np.int64]
    states: NDArray[np.float16]

    def places_of(self, item_indexes: NDArray[np.int64]) -> NDArray[np.int64]:
        """(m,) positions of items that are all here."""
        places = np.searchsorted(self.item_indexes, item_indexes)
        assert np.array_equal(self.item_indexes[places], item_indexes)
        return places

    @classmethod
    def joined(cls, parts: Sequence[TitleStates]) -> TitleStates:
        """Of at least one part with disjoint items."""
        items = np.concatenate([part.item_indexes for part in parts])
        order = np.argsort(items)
        return cls(items[order], np.concatenate([part.states for part in parts])[order])


@dataclass(frozen=True, eq=False)
class TitleMap:
    """The ridge map.

    Attributes:
        weights: (d + 1, d) float64, W over b'.
    """

    weights: NDArray[np.float64]

    def means(self, states: NDArray[np.floating]) -> NDArray[np.float32]:
        """(v, d) float32: p_v for states (v, d)."""
        found = np.empty((len(states), self.weights.shape[1]), dtype=np.float32)
        for start in range(0, len(states), ITEM_BLOCK):
            rows = slice(start, start + ITEM_BLOCK)
            found[rows] = states[rows].astype(np.float64) @ self.weights[:-1] + self.weights[-1]
        return found

    @classmethod
    def fit(cls, parts: Iterable[TitledMeans], *, ridge: float = RIDGE) -> TitleMap | None:
        """Of parts with disjoint items; None where no item has an entry."""
        sums = [_sums(part) for part in parts if len(part.counts)]
        if not sums:
            return None
        gram, products = (np.sum(of_all, axis=0) for of_all in zip(*sums, strict=True))
        dim = len(gram) - 1
        penalty = np.full(dim + 1, ridge * np.trace(gram[:-1, :-1]) / dim)
        penalty[-1] = 0.0
        weights: NDArray[np.float64] = np.linalg.lstsq(gram + np.diag(penalty), products, rcond=None)[0]
        return cls(weights)


@dataclass(frozen=True, eq=False)
class TitledMeans:
    """What the map is fitted on.

    Attributes:
        states: (v, d) float16 of the titles of items that have entries.
        counts: (v,) int64, their entries.
        sums: (v, d) float64, of their entries; may be memory-mapped.
    """

    states: NDArray[np.float16]
    counts: NDArray[np.int64]
    sums: NDArray[np.float64]


def _sums(part: TitledMeans) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """X'NX (d + 1, d + 1) and X'NC (d + 1, d), a column of ones last in X."""
    dim = part.states.shape[1]
    gram, products = np.zeros((dim + 1, dim + 1)), np.zeros((dim + 1, dim))
    for start in range(0, len(part.counts), ITEM_BLOCK):
        rows = slice(start, start + ITEM_BLOCK)
        states = np.pad(part.states[rows].astype(np.float64), ((0, 0), (0, 1)), constant_values=1.0)
        gram += (states * part.counts[rows, None]).T @ states
        products += states.T @ part.sums[rows]
    return gram, products
