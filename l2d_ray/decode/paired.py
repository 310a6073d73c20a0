"""L2D-P: the whitened decoder, and what the item pairs of the memory's user sequences say for the same history.

    score(v) = score of L2D-W + gamma log(1 + lambda e_v) + rho [v is an older one of these items]
    e_v = sum over the last items j of the history: (1 + age)^-delta similarity(j, v)

The language model knows what titles tell, pairs (``memory.pairs``) what they do not: that those who took one item took the other. An item
without pairs keeps the score that it has, so nothing is lost where nothing is known; and every term belongs to one item, so a shard ranks
its items alone, exactly, in the one product that L2D-W takes. An item that stands several times in a history speaks once, from its latest
place; titles from outside the catalogue have an age and no pairs. rho says how far users come back to what they took before their latest
item: below 0 where they hardly do, as with books or albums, above where they do. It is learnt, not a rule: what must not be shown is
excluded by the request. Of the latest item its pair with itself speaks: a double entry is common where coming back is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from l2d_ray.decode.linear import ScoreShifts
from l2d_ray.decode.settings import DecoderSettings
from l2d_ray.memory.pairs import ItemPairs

NUM_RECENT: Final = 20
"""Items of a history, the latest ones, whose pairs count."""

RecentItems = NDArray[np.int64]
"""(m,) the latest items of a history, newest first, at most NUM_RECENT; -1 where one has no pairs or spoke already."""


def recent_items(history: Sequence[int | str]) -> RecentItems:
    """Of a history, oldest first, of item indexes and titles."""
    latest = [-1 if isinstance(item, str) else item for item in history[: -NUM_RECENT - 1 : -1]]
    return np.array([-1 if item in latest[:age] else item for age, item in enumerate(latest)], dtype=np.int64)


def older_items(recent: RecentItems) -> NDArray[np.int64]:
    """Those before the latest one that are of the catalogue."""
    older = recent[1:]
    return older[older >= 0]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What pairs say for one history: item_indexes (m,) int64 ascending, amounts (m,) float64, positive."""

    item_indexes: NDArray[np.int64]
    amounts: NDArray[np.float64]

    @classmethod
    def joined(cls, parts: Sequence[Evidence]) -> Evidence:
        """Of disjoint items, at least one part."""
        items, amounts = (np.concatenate([getattr(part, name) for part in parts]) for name in ("item_indexes", "amounts"))
        order = np.argsort(items)
        return cls(items[order], amounts[order])

    def shifts(self, older: NDArray[np.int64], settings: DecoderSettings) -> ScoreShifts:
        """What it, found with the settings' recency power, and the history's older items (m,), distinct ones, add to the scores."""
        items, amounts = self.item_indexes, settings.pair_weight * np.log1p(settings.pair_scale * self.amounts)
        if not len(older) or not settings.repeat_weight:
            return ScoreShifts(items, amounts)
        places = np.searchsorted(items, older)
        is_silent = items.take(places, mode="clip") != older if len(items) else np.ones(len(older), dtype=np.bool_)
        if is_silent.any():
            silent = np.sort(older[is_silent])
            at = np.searchsorted(items, silent)
            items, amounts = np.insert(items, at, silent), np.insert(amounts, at, 0.0)
            places = np.searchsorted(items, older)
        amounts[places] += settings.repeat_weight
        return ScoreShifts(items, amounts)


@dataclass(frozen=True)
class PairReason:
    """An item of a history, and what its pair with a recommended item adds to that item's evidence: (1 + age)^-delta similarity."""

    item_index: int
    amount: float


def shares_of(reasons: Sequence[PairReason]) -> list[float]:
    """What part each is of an item's whole evidence."""
    total = sum(reason.amount for reason in reasons)
    return [reason.amount / total for reason in reasons]


class PairLookup:
    """The pairs of one shard, whose items are ``item_indexes`` (v,)."""

    def __init__(self, pairs: ItemPairs, item_indexes: NDArray[np.int64]) -> None:
        self._pairs = pairs
        self._item_indexes = item_indexes

    def evidence(self, recent: RecentItems, recency_power: float) -> Evidence:
        """What the latest items of a history say for the shard's items; ``recency_power`` is delta."""
        items, weights = self._speakers(recent, recency_power)
        firsts = self._pairs.starts[items]
        counts = self._pairs.starts[items + 1] - firsts
        rows = np.arange(counts.sum()) + np.repeat(firsts - (np.cumsum(counts) - counts), counts)
        amounts = np.repeat(weights, counts) * self._pairs.similarities[rows]
        totals = np.bincount(self._pairs.places[rows], amounts, minlength=len(self._item_indexes))
        found = np.flatnonzero(totals)
        return Evidence(self._item_indexes[found], totals[found].astype(np.float64, copy=False))

    def reasons(self, recent: RecentItems, recency_power: float, items: NDArray[np.int64]) -> dict[int, tuple[PairReason, ...]]:
        """The terms of the evidence of some items (m,), largest first, of equal ones the newer item's; items without any are missing."""
        told: dict[int, list[PairReason]] = {}
        speakers, weights = self._speakers(recent, recency_power)
        for source, weight in zip(speakers.tolist(), weights.tolist(), strict=True):
            rows = slice(self._pairs.starts[source], self._pairs.starts[source + 1])
            targets, amounts = self._item_indexes[self._pairs.places[rows]], weight * self._pairs.similarities[rows].astype(np.float64)
            for at in np.flatnonzero(np.isin(targets, items)).tolist():
                told.setdefault(int(targets[at]), []).append(PairReason(source, float(amounts[at])))
        return {item: tuple(sorted(terms, key=lambda term: -term.amount)) for item, terms in told.items()}

    def _speakers(self, recent: RecentItems, recency_power: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Those of the latest items that have pairs, (s,), and what each is worth."""
        ages = np.flatnonzero((recent >= 0) & (recent < len(self._pairs.starts) - 1))
        return recent[ages], np.array([(1 + age) ** -recency_power for age in ages.tolist()])
