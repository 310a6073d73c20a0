"""One search over all shards, cut where the network is: which shard is asked for what, and the merge. In one process and in Serve alike.

An ``Exchange`` holds a search's whole state and does no input or output of its own, so that one loop drives it whatever carries the
messages: ``search_shards`` here, the service over its handles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from l2d_ray.decode.linear import GlobalDecoder, WhitenedDecoder, WhitenedRule
from l2d_ray.decode.local import LocalCandidates, LocalRequest, local_candidates
from l2d_ray.decode.local_merge import LearntSpread, LocalMerge
from l2d_ray.decode.lookup import ItemVectors, Reasons, ReasonsRequest, VectorsRequest, item_vectors, reasons
from l2d_ray.decode.paired import PairLookup, PairReason, RecentItems, older_items
from l2d_ray.decode.settings import DECODERS, DecoderName, DecoderSettings
from l2d_ray.decode.topk import TopK, merge_top_k
from l2d_ray.index.shard import Shard
from l2d_ray.memory.statistics import PooledStatistics


@dataclass(frozen=True, eq=False)
class SearchRequest:
    """A batch of queries that share a decoder.

    Attributes:
        queries: (b, d) float32 hidden states.
        num_neighbors: for the local decoder.
        excluded: for each query the item indexes that must not be recommended.
        allowed: for each query the only ones that may be, ascending; None: any. They limit which items are ranked, never which
            neighbours are found.
        recent: for the paired decoder, for each query the latest items of its history (``paired.recent_items``).
    """

    queries: NDArray[np.float32]
    decoder: DecoderName
    k: int
    num_neighbors: int
    excluded: tuple[NDArray[np.int64], ...]
    allowed: tuple[NDArray[np.int64] | None, ...]
    recent: tuple[RecentItems, ...] = ()


ShardRequest = SearchRequest | LocalRequest | VectorsRequest | ReasonsRequest
"""What a shard is asked: the search itself where it only ranks its items, for some of its nearest entries, or about single items."""
ShardAnswer = TopK | LocalCandidates | ItemVectors | Reasons


class Exchange(Protocol):
    """A search: the questions of the next round, their answers, and in the end the ranked items."""

    def requests(self) -> Mapping[int, ShardRequest]:
        """What to ask now, by shard; empty when the answer is known."""

    def add(self, answers: Mapping[int, ShardAnswer]) -> None:
        """Take the answers to ``requests()``, in any order; a shard that is missing is not asked again."""

    def top_k(self) -> TopK:
        """The answer over all shards that answered, the same for any partition and any order of the shards."""


@dataclass(frozen=True)
class ShardHoldings:
    """What the process that answers for a shard holds.

    Attributes:
        num_entries, num_items: of the shard, also where its entries are not loaded.
        statistics_bytes: in memory, for all decoders but the local one; item pairs included.
    """

    num_entries: int
    num_items: int
    statistics_bytes: int
    has_entries: bool


def available_decoders(shards: Sequence[Shard]) -> tuple[DecoderName, ...]:
    """Those that can answer from shards as they were loaded."""
    missing = set()
    if not all(shard.has_entries for shard in shards):
        missing.add("local")
    if any(shard.pairs is None for shard in shards):
        missing.add("paired")
    return tuple(name for name in DECODERS if name not in missing)


class ShardSearcher:
    """Answers for one shard.

    Args:
        pooled: over all shards.
        decoders: those that will be asked for, all that can answer where None; the others are not made.
    """

    def __init__(
        self,
        shard: Shard,
        pooled: PooledStatistics,
        settings: DecoderSettings,
        *,
        decoders: Sequence[DecoderName] | None = None,
    ) -> None:
        decoders = available_decoders([shard]) if decoders is None else decoders
        self.shard = shard
        self._title_map = pooled.title_map
        statistics, device = shard.statistics, shard.device
        self._linear: dict[DecoderName, GlobalDecoder | WhitenedDecoder] = {}
        self._settings = settings
        self._pairs: PairLookup | None = None
        self._means = statistics.means() if set(decoders) - {"local"} else np.zeros((0, 0), dtype=np.float32)
        if "global" in decoders:
            self._linear["global"] = GlobalDecoder(statistics, means=self._means, device=device)
        if {"whitened", "paired"} & set(decoders):
            rule = WhitenedRule.of(pooled, settings)
            self._linear["whitened"] = WhitenedDecoder(statistics, rule, shard.titles, means=self._means, device=device)
        if "paired" in decoders:
            assert shard.pairs is not None
            self._pairs = PairLookup(shard.pairs, statistics.item_indexes)

    def search(self, request: ShardRequest) -> ShardAnswer:
        match request:
            case LocalRequest():
                return local_candidates(self.shard, request)
            case VectorsRequest():
                return item_vectors(self.shard, request, self._title_map)
            case ReasonsRequest():
                return replace(reasons(self.shard, request), pairs=self._pair_reasons(request))
        if request.decoder == "paired":
            return self._paired(request)
        return self._linear[request.decoder].top_k(request.queries, request.k, request.excluded, request.allowed)

    def _paired(self, request: SearchRequest) -> TopK:
        whitened = self._linear["whitened"]
        assert isinstance(whitened, WhitenedDecoder)
        assert self._pairs is not None
        shifts = []
        for recent in request.recent:
            older = whitened.ranked(older_items(recent))
            shifts.append(self._pairs.evidence(recent, self._settings.pair_recency_power).shifts(older, self._settings))
        return whitened.top_k(request.queries, request.k, request.excluded, request.allowed, shifts=shifts)

    def _pair_reasons(self, request: ReasonsRequest) -> tuple[dict[int, tuple[PairReason, ...]], ...]:
        lookup, power = self._pairs, self._settings.pair_recency_power
        if lookup is None or not request.recent:
            return ()
        per_query = zip(request.recent, request.item_indexes, strict=True)
        return tuple(lookup.reasons(recent, power, items) for recent, items in per_query)

    def holdings(self) -> ShardHoldings:
        statistics = self.shard.statistics
        arrays = (getattr(statistics, field.name) for field in fields(statistics))
        num_bytes = sum(array.nbytes for array in arrays if not isinstance(array, np.memmap))
        num_bytes += self._means.nbytes + sum(decoder.num_bytes for decoder in self._linear.values())
        num_bytes += 0 if self.shard.pairs is None else self.shard.pairs.num_bytes
        return ShardHoldings(len(self.shard), len(statistics.item_indexes), num_bytes, self.shard.has_entries)


def begin_search(request: SearchRequest, num_entries: Sequence[int], spread: LearntSpread) -> Exchange:
    """The exchange of a search over shards of so many entries; it learns from local searches."""
    return LocalExchange(request, num_entries, spread) if request.decoder == "local" else LinearExchange(request, len(num_entries))


def search_shards(searchers: Sequence[ShardSearcher], request: SearchRequest, spread: LearntSpread | None = None) -> TopK:
    """The whole search in one process."""
    exchange = begin_search(request, [len(searcher.shard) for searcher in searchers], spread or LearntSpread())
    while asked := exchange.requests():
        exchange.add({shard: searchers[shard].search(question) for shard, question in asked.items()})
    return exchange.top_k()


class LinearExchange:
    """Global, whitened or paired: every shard ranks its items, one merge."""

    def __init__(self, request: SearchRequest, num_shards: int) -> None:
        self._request = request
        self._num_shards = num_shards
        self._parts: list[TopK] | None = None

    def requests(self) -> Mapping[int, ShardRequest]:
        return dict.fromkeys(range(self._num_shards), self._request) if self._parts is None else {}

    def add(self, answers: Mapping[int, ShardAnswer]) -> None:
        self._parts = [answer for answer in answers.values() if isinstance(answer, TopK)]

    def top_k(self) -> TopK:
        nothing = TopK.padding(len(self._request.queries), self._request.k)
        return merge_top_k([nothing, *(self._parts or ())], self._request.k)


class LocalExchange:
    """Local: see ``decode.local_merge``."""

    def __init__(self, request: SearchRequest, num_entries: Sequence[int], spread: LearntSpread) -> None:
        self._request = request
        self._spread = spread
        self._is_first_round = True
        self._merge = LocalMerge(request.queries, request.num_neighbors, num_entries, spread=spread.value)

    def requests(self) -> Mapping[int, ShardRequest]:
        return self._merge.requests()

    def add(self, answers: Mapping[int, ShardAnswer]) -> None:
        self._merge.add({shard: answer for shard, answer in answers.items() if isinstance(answer, LocalCandidates)})
        if self._is_first_round:
            self._spread.learn(self._merge.share_asked_again)
            self._is_first_round = False

    def top_k(self) -> TopK:
        return self._merge.top_k(self._request.k, excluded=self._request.excluded, allowed=self._request.allowed)
