"""The service's logic, knowing no Ray: request -> prompt -> query vector -> shards -> merge -> answer with titles.

``RecommendationLogic`` is the arithmetic at both ends, ``Recommender`` one request's way from end to end, ``Backend`` what stands
between: the encoder and the shards, wherever they run. The steps are those of ``LatentDecoder``, so the ids are the oracle's (tested).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.titles import clean_title
from l2d_ray.decode.decoder import HistoryItem, PromptWriter, edge_scores
from l2d_ray.decode.local_merge import LearntSpread
from l2d_ray.decode.search import Exchange, SearchRequest, ShardAnswer, ShardHoldings, ShardRequest, begin_search
from l2d_ray.decode.settings import DECODERS, DecoderName, DecoderSettings
from l2d_ray.decode.topk import TopK
from l2d_ray.errors import RequestError
from l2d_ray.index.layout import IndexManifest
from l2d_ray.serve.messages import (
    HistoryEntry,
    RecommendationAnswer,
    RecommendationRequest,
    RecommendedItem,
    ServiceStatus,
    ShardStatus,
    TimingsMs,
    TitledItem,
)
from l2d_ray.text.prompts import TokenIds

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class Backend(Protocol):
    """The encoder and all shards of one index. Each method raises UnavailableError where a part cannot answer now."""

    async def encode(self, prompt: TokenIds) -> NDArray[np.float32]:
        """Query vector (d,) of a prompt."""

    async def search(self, requests: Mapping[int, ShardRequest]) -> Mapping[int, ShardAnswer]:
        """The answers of the shards that are asked, by shard."""

    async def holdings(self) -> Sequence[ShardHoldings]:
        """What every shard holds, in the order of the shards."""

    async def missing_parts(self) -> list[str]:
        """Names of the parts that do not answer a ping; empty when a request can be served."""


class RecommendationLogic:
    """What a request means, and what its answer says.

    Args:
        catalogue: the index's, to which item indexes refer.
        settings: the tuned ones, for what a request leaves open.
        decoders: those that a request may name.
    """

    def __init__(
        self, catalogue: Catalogue, writer: PromptWriter, settings: DecoderSettings, *, decoders: Sequence[DecoderName] = DECODERS
    ) -> None:
        self.settings = settings
        self.decoders = tuple(decoders)
        self._catalogue = catalogue
        self._writer = writer

    def check_decoder(self, decoder: DecoderName | None) -> None:
        """RequestError where a request names a decoder that is not served."""
        if decoder is not None and decoder not in self.decoders:
            raise RequestError(
                "decoder",
                f"The decoder {decoder!r} is not served here; name one of {', '.join(self.decoders)}, or none for {self.settings.decoder}.",
            )

    def read_history(self, history: Sequence[HistoryEntry]) -> list[HistoryItem]:
        """Item indexes of what the catalogue has, clean titles of the rest; RequestError names the entry that is neither."""
        return [self._read_entry(entry, position) for position, entry in enumerate(history)]

    def write_prompt(self, history: Sequence[HistoryItem]) -> TokenIds:
        return self._writer.write(history)

    def search_request(self, request: RecommendationRequest, history: Sequence[HistoryItem], query: NDArray[np.float32]) -> SearchRequest:
        """What the shards are asked for a query (d,)."""
        banned = {item for item in history if isinstance(item, int)} if request.exclude_history else set()
        return SearchRequest(
            queries=query[None, :],
            decoder=request.decoder or self.settings.decoder,
            k=request.k,
            num_neighbors=request.num_neighbors or self.settings.num_neighbors,
            excluded=(np.array(sorted(banned), dtype=np.int64),),
        )

    def name_items(self, found: TopK, request: SearchRequest) -> list[RecommendedItem]:
        """The answer's items from what a request of one query found, padding dropped."""
        found = edge_scores(found, request.decoder)
        ranked = zip(found.ids[0].tolist(), found.scores[0].tolist(), strict=True)
        return [
            RecommendedItem(item_id=self._catalogue.item_ids[item], title=self._catalogue.titles[item], score=score, rank=rank)
            for rank, (item, score) in enumerate(ranked, start=1)
            if item >= 0
        ]

    def _read_entry(self, entry: HistoryEntry, position: int) -> HistoryItem:
        if isinstance(entry, TitledItem):
            return self._read_title(entry.title, position)
        index = self._catalogue.item_id_to_index.get(entry)
        if index is None:
            raise RequestError(
                f"history.{position}",
                f"Item {entry!r} is not among the {len(self._catalogue)} items of the catalogue; "
                'give an item_id of the catalogue, or {"title": "..."} for an item outside it.',
            )
        return index

    def _read_title(self, title: str, position: int) -> HistoryItem:
        index = self._catalogue.title_to_index.get(title)
        if index is not None:
            return index
        cleaned = clean_title(title)
        if not cleaned:
            raise RequestError(
                f"history.{position}.title", f"Nothing is left of the title {title!r} once it is cleaned; give readable text."
            )
        return self._catalogue.title_to_index.get(cleaned, cleaned)


@dataclass
class _Stopwatch:
    """Milliseconds since the lap before."""

    start: float
    lap_start: float

    @classmethod
    def started(cls) -> _Stopwatch:
        now = time.perf_counter()
        return cls(now, now)

    def lap_ms(self) -> float:
        before, self.lap_start = self.lap_start, time.perf_counter()
        return round((self.lap_start - before) * 1000, 3)

    def total_ms(self) -> float:
        return round((self.lap_start - self.start) * 1000, 3)


class Recommender:
    """One request from end to end; many at once on one event loop, which never waits for arithmetic.

    Reading and merging run on one thread of their own: a fast tokenizer must not be entered by two threads at once.
    """

    def __init__(self, logic: RecommendationLogic, backend: Backend, manifest: IndexManifest) -> None:
        self.backend = backend
        self._logic = logic
        self._manifest = manifest
        self._spread = LearntSpread()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recommender")

    async def recommend(self, request: RecommendationRequest) -> RecommendationAnswer:
        """The answer; RequestError where the request cannot be used, UnavailableError where a part cannot answer now."""
        watch = _Stopwatch.started()
        history, prompt = await self._off_loop(self._read, request)
        tokenize = watch.lap_ms()
        query = await self.backend.encode(prompt)
        encode = watch.lap_ms()
        search_request = self._logic.search_request(request, history, query)
        exchange = await self._search(search_request)
        search = watch.lap_ms()
        items = await self._off_loop(lambda: self._logic.name_items(exchange.top_k(), search_request))
        merge = watch.lap_ms()
        return RecommendationAnswer(
            items=items,
            decoder=search_request.decoder,
            memory_version=self._manifest.memory_version,
            model_fingerprint=self._manifest.fingerprint,
            timings_ms=TimingsMs(tokenize=tokenize, encode=encode, search=search, merge=merge, total=watch.total_ms()),
        )

    async def status(self) -> ServiceStatus:
        """What is served; UnavailableError where a shard cannot answer now."""
        manifest, holdings = self._manifest, await self.backend.holdings()
        shards = [
            ShardStatus(
                shard=shard,
                num_entries=held.num_entries,
                num_items=held.num_items,
                statistics_bytes=held.statistics_bytes,
                entries_bytes=manifest.entries_bytes[shard] if held.has_entries else 0,
            )
            for shard, held in enumerate(holdings)
        ]
        return ServiceStatus(
            memory_version=manifest.memory_version,
            model_fingerprint=manifest.fingerprint,
            index_kind=manifest.kind,
            decoders=list(self._logic.decoders),
            default_decoder=self._logic.settings.decoder,
            shards=shards,
            statistics_bytes=sum(shard.statistics_bytes for shard in shards),
            entries_bytes=sum(shard.entries_bytes for shard in shards),
        )

    def _read(self, request: RecommendationRequest) -> tuple[list[HistoryItem], TokenIds]:
        self._logic.check_decoder(request.decoder)
        history = self._logic.read_history(request.history)
        return history, self._logic.write_prompt(history)

    async def _search(self, request: SearchRequest) -> Exchange:
        """The search with all its answers in, after as many rounds as it takes."""
        exchange = begin_search(request, self._manifest.num_entries, self._spread)
        asked = exchange.requests()
        while asked:
            answers = await self.backend.search(asked)
            asked = await self._off_loop(_next_round, exchange, answers)
        return exchange

    async def _off_loop(self, work: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *arguments, **named))


def _next_round(exchange: Exchange, answers: Mapping[int, ShardAnswer]) -> Mapping[int, ShardRequest]:
    exchange.add(answers)
    return exchange.requests()
