"""What a shard tells of single items: the vectors that represent them, and the entries that speak for them at a query.

The entries of an item that lie nearest to a query are the training samples in which somebody with a like history chose it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from l2d_ray.decode.paired import PairReason, RecentItems
from l2d_ray.index.search import squared_distances
from l2d_ray.index.shard import Shard
from l2d_ray.memory.titles import TitleMap


@dataclass(frozen=True, eq=False)
class VectorsRequest:
    """The representations of items (m,); a shard answers for those it has."""

    item_indexes: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ItemVectors:
    """Items (m,) int64 ascending, and their representations (m, d) float32."""

    item_indexes: NDArray[np.int64]
    vectors: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ReasonsRequest:
    """For each of b queries (b, d) the ``count`` nearest entries of each of its items; a shard answers for those it has.

    Attributes:
        count: 0 asks for no entries, and so needs none loaded.
        recent: for each query the latest items of its history, where what their pairs say is to be told too.
    """

    queries: NDArray[np.float32]
    item_indexes: tuple[NDArray[np.int64], ...]
    count: int
    recent: tuple[RecentItems, ...] = ()


@dataclass(frozen=True)
class NearEntry:
    """A memory entry and its L2 distance from the request."""

    sample_id: int
    distance: float


@dataclass(frozen=True)
class Reasons:
    """For each query, by item: its nearest entries, nearest first, and the pairs that raised it, the one that did most first.

    Items of other shards, and those without entries or pairs, are missing; ``pairs`` is empty where they were not asked for.
    """

    entries: tuple[dict[int, tuple[NearEntry, ...]], ...]
    pairs: tuple[dict[int, tuple[PairReason, ...]], ...] = ()


@dataclass(frozen=True, eq=False)
class ItemReasons:
    """What speaks for items at one query, by item, over all shards; missing where nothing does, or the item's shard did not answer."""

    entries: Mapping[int, Sequence[NearEntry]]
    pairs: Mapping[int, Sequence[PairReason]]

    @classmethod
    def of_query(cls, answers: Iterable[Reasons], query: int) -> ItemReasons:
        """What the shards' answers say for the query at that position of the request."""
        entries: dict[int, Sequence[NearEntry]] = {}
        pairs: dict[int, Sequence[PairReason]] = {}
        for answer in answers:
            entries |= answer.entries[query]
            pairs |= answer.pairs[query] if answer.pairs else {}
        return cls(entries, pairs)


def item_vectors(shard: Shard, request: VectorsRequest, title_map: TitleMap | None = None) -> ItemVectors:
    """The means of the items' entries; for items without any, where there is a map, what their titles say."""
    statistics = shard.statistics
    items = np.unique(request.item_indexes)
    places = np.flatnonzero(np.isin(statistics.item_indexes, items))
    means = (statistics.sums[places] / statistics.counts[places, None]).astype(np.float32)
    warm = ItemVectors(statistics.item_indexes[places], means)
    if shard.titles is None or title_map is None:
        return warm
    cold = np.intersect1d(np.setdiff1d(items, warm.item_indexes), shard.titles.item_indexes)
    found = np.concatenate([warm.item_indexes, cold])
    order = np.argsort(found)
    known = title_map.means(shard.titles.states[shard.titles.places_of(cold)])
    return ItemVectors(found[order], np.concatenate([warm.vectors, known])[order])


def reasons(shard: Shard, request: ReasonsRequest) -> Reasons:
    """What the shard's entries say; ArtefactError where they are asked for and it has none loaded."""
    if not request.count:
        return Reasons(({},) * len(request.queries))
    per_query = zip(request.queries, request.item_indexes, strict=True)
    return Reasons(tuple(_reasons_of(shard, query, items, request.count) for query, items in per_query))


def nearest_entries_of_item(shard: Shard, query: NDArray[np.float32], item_index: int, count: int) -> list[NearEntry]:
    """The item's entries nearest to a query (d,), by (distance, sample_id); none where the item is another shard's."""
    positions = shard.positions_of_item(item_index)
    if not len(positions):
        return []
    distances = np.sqrt(squared_distances(query, shard.vectors_at(positions)))
    ids = shard.sample_ids_at(positions)
    order = np.lexsort((ids, distances))[:count]
    return [NearEntry(int(ids[i]), float(distances[i])) for i in order]


def _reasons_of(shard: Shard, query: NDArray[np.float32], items: NDArray[np.int64], count: int) -> dict[int, tuple[NearEntry, ...]]:
    found = {int(item): tuple(nearest_entries_of_item(shard, query, int(item), count)) for item in items}
    return {item: entries for item, entries in found.items() if entries}
