"""Items that no shard has yet: ranked from the states of their titles, beside the shards, until an index has them.

An item is represented by what its title says (``memory.titles``), or by the mean of all entries where the index has no title map. The
whitened decoder counts it as ``cold_count`` entries, none where that is not set, and the paired one knows no pairs of it. It has no
entries among any neighbours, so for the local decoder it has the distance of its representation, as for the global one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from l2d_ray.decode.linear import GlobalDecoder, WhitenedDecoder, WhitenedRule
from l2d_ray.decode.restriction import Allowed, Excluded
from l2d_ray.decode.settings import BY_DISTANCE, DecoderName
from l2d_ray.decode.topk import TopK
from l2d_ray.memory.statistics import ItemStatistics, PooledStatistics
from l2d_ray.memory.titles import TitleMap, TitleStates


class ColdItems:
    """v items, ranked exactly.

    Args:
        titles: their items, of any indexes, and the states of their titles.
        rule: of the index that they stand beside; ``pooled``: its statistics.
    """

    def __init__(self, titles: TitleStates, rule: WhitenedRule, pooled: PooledStatistics) -> None:
        title_map = pooled.title_map or _mean_of_all(pooled)
        self.item_indexes = titles.item_indexes
        self.vectors = title_map.means(titles.states)
        nothing, dim = np.zeros(0, dtype=np.int64), len(pooled.mean)
        no_statistics = ItemStatistics(nothing, nothing, np.zeros((0, dim)), nothing, np.zeros(0), np.zeros((dim, dim)))
        rule = replace(rule, title_map=title_map, cold_count=rule.cold_count or 0.0)
        self._global = GlobalDecoder(replace(no_statistics, item_indexes=self.item_indexes), means=self.vectors)
        self._whitened = WhitenedDecoder(no_statistics, rule, titles)

    def top_k(self, queries: NDArray[np.float32], decoder: DecoderName, k: int, *, excluded: Excluded, allowed: Allowed) -> TopK:
        """The k best of them for queries (b, d); scores are on the scale of the shards'."""
        ranking = self._global if decoder in BY_DISTANCE else self._whitened
        return ranking.top_k(queries, k, excluded, allowed)


def _mean_of_all(pooled: PooledStatistics) -> TitleMap:
    """The map that says the same of every title."""
    dim = len(pooled.mean)
    return TitleMap(np.concatenate([np.zeros((dim, dim)), pooled.mean[None]]))
