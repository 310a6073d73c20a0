"""Items that no shard ranks, ranked at the ingress from the states of their titles: new ones, and edited ones that nobody has chosen yet.

An item that was put through the API is recommended from then on, also once an index has it and still no entry of it. Only the whitened
decoder's shards rank items without entries, where the settings say so (``cold_count``); for those the ingress then leaves it to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from l2d_ray.decode.cold import ColdItems
from l2d_ray.decode.linear import WhitenedRule
from l2d_ray.decode.search import SearchRequest
from l2d_ray.decode.settings import BY_DISTANCE, DecoderSettings
from l2d_ray.decode.topk import TopK
from l2d_ray.memory.statistics import PooledStatistics
from l2d_ray.memory.titles import TitleStates
from l2d_ray.serve.live_catalogue import LiveCatalogue

SPARE_STATES = 1000
"""States of titles that are no item's any more, which are kept before they are dropped."""


@dataclass(frozen=True, eq=False)
class Cold:
    """What is ranked at one moment: by distance (global, local), and by the whitened and the paired decoder."""

    by_distance: ColdItems | None = None
    whitened: ColdItems | None = None

    def top_k(self, request: SearchRequest) -> TopK | None:
        """The k best of them for each query; None where there are none."""
        items = self.by_distance if request.decoder in BY_DISTANCE else self.whitened
        if items is None:
            return None
        return items.top_k(request.queries, request.decoder, request.k, excluded=request.excluded, allowed=request.allowed)

    def vector(self, index: int) -> NDArray[np.float32] | None:
        """Representation (d,) of an item; None of one that is not among them."""
        if self.by_distance is None or index not in self.by_distance.item_indexes:
            return None
        found: NDArray[np.float32] = self.by_distance.vectors[np.searchsorted(self.by_distance.item_indexes, index)]
        return found


class ColdRanking:
    """Of one served version.

    Args:
        warm_items: (m,) int64, items of the index that have entries.
        shards_rank_cold: whether the whitened decoder's shards rank the index's other items.

    Attributes:
        current: replaced as a whole by ``update`` and ``take``.
        awaited: titles whose states are missing.
        states: by title; versions of one model may share it.
    """

    def __init__(
        self, warm_items: NDArray[np.int64], pooled: PooledStatistics, settings: DecoderSettings, *, shards_rank_cold: bool
    ) -> None:
        self.current = Cold()
        self.awaited: list[str] = []
        self.states: dict[str, NDArray[np.float16]] = {}
        self._warm = frozenset(warm_items.tolist())
        self._pooled = pooled
        self._settings = settings
        self._shards_rank_cold = shards_rank_cold
        self._titles: Mapping[int, str] = {}
        self._num_base = 0

    def update(self, catalogue: LiveCatalogue) -> None:
        """Rank what the catalogue now has."""
        self._num_base = len(catalogue.base)
        self._titles = {index: title for index, title in catalogue.edited_titles().items() if index not in self._warm}
        self._rank()

    def take(self, states: Mapping[str, NDArray[np.float32]]) -> None:
        """States (d,) of awaited titles."""
        self.states |= {title: state.astype(np.float16) for title, state in states.items()}
        self._rank()

    @cached_property
    def _rule(self) -> WhitenedRule:
        return WhitenedRule.of(self._pooled, self._settings)

    def _rank(self) -> None:
        self.awaited = sorted({title for title in self._titles.values() if title not in self.states})
        if len(self.states) > len(self._titles) + SPARE_STATES:
            wanted = set(self._titles.values())
            self.states = {title: state for title, state in self.states.items() if title in wanted}
        everything = self._items(lambda index: True)
        new_ones = self._items(lambda index: index >= self._num_base) if self._shards_rank_cold else everything
        self.current = Cold(everything, new_ones)

    def _items(self, is_wanted: Callable[[int], bool]) -> ColdItems | None:
        known = sorted(index for index, title in self._titles.items() if title in self.states and is_wanted(index))
        if not known:
            return None
        states = np.stack([self.states[self._titles[index]] for index in known])
        return ColdItems(TitleStates(np.array(known, dtype=np.int64), states), self._rule, self._pooled)
