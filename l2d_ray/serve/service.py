"""One request from end to end, knowing no Ray: request -> prompt -> query vector -> shards -> merge -> answer with titles.

``RecommendationLogic`` is the arithmetic at both ends, ``Backend`` what stands between: the encoder and the shards, wherever they run.
The steps are those of ``LatentDecoder``, so the ids are the oracle's (tested). Every answer is from one version over all shards.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

from l2d_ray.decode.decoder import HistoryItem
from l2d_ray.decode.local_merge import LearntSpread
from l2d_ray.decode.search import Exchange, SearchRequest, ShardAnswer, ShardRequest, begin_search
from l2d_ray.serve.backend import Backend
from l2d_ray.serve.logic import RecommendationLogic
from l2d_ray.serve.messages import RecommendationAnswer, RecommendationRequest, ServiceStatus, ShardStatus, TimingsMs
from l2d_ray.text.prompts import TokenIds

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


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

    Args:
        load_logic: the logic of a served version; called once for each version, on that thread.
    """

    def __init__(self, load_logic: Callable[[int], RecommendationLogic], backend: Backend) -> None:
        self.backend = backend
        self._load_logic = load_logic
        self._logics: dict[int, RecommendationLogic] = {}
        self._spread = LearntSpread()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recommender")

    async def prepare(self, version: int) -> None:
        """Load what a version's requests need here, before it becomes the current one."""
        await self._off_loop(self._logic, version)

    async def recommend(self, request: RecommendationRequest) -> RecommendationAnswer:
        """The answer; RequestError where the request cannot be used, UnavailableError where a part cannot answer now."""
        watch = _Stopwatch.started()
        version = (await self.backend.versions()).current
        logic, history, prompt = await self._off_loop(self._read, request, version)
        tokenize = watch.lap_ms()
        query = (await self.backend.encode([prompt], None))[0]
        encode = watch.lap_ms()
        search_request = logic.search_request(request, history, query)
        exchange = await self._search(search_request, logic)
        search = watch.lap_ms()
        items = await self._off_loop(lambda: logic.name_items(exchange.top_k(), search_request))
        merge = watch.lap_ms()
        return RecommendationAnswer(
            items=items,
            decoder=search_request.decoder,
            memory_version=logic.manifest.memory_version,
            model_fingerprint=logic.manifest.fingerprint,
            timings_ms=TimingsMs(tokenize=tokenize, encode=encode, search=search, merge=merge, total=watch.total_ms()),
        )

    async def status(self) -> ServiceStatus:
        """What is served."""
        version = (await self.backend.versions()).current
        holdings = await self.backend.holdings(version)
        logic = await self._off_loop(self._logic, version)
        manifest = logic.manifest
        shards = [
            ShardStatus(
                shard=shard,
                num_entries=held.num_entries,
                num_items=held.num_items,
                statistics_bytes=held.statistics_bytes,
                entries_bytes=manifest.entries_bytes[shard] if held.has_entries else 0,
            )
            for shard, held in sorted(holdings.items())
        ]
        return ServiceStatus(
            memory_version=manifest.memory_version,
            model_fingerprint=manifest.fingerprint,
            index_kind=manifest.kind,
            decoders=list(logic.decoders),
            default_decoder=logic.settings.decoder,
            shards=shards,
            statistics_bytes=sum(shard.statistics_bytes for shard in shards),
            entries_bytes=sum(shard.entries_bytes for shard in shards),
        )

    def _logic(self, version: int) -> RecommendationLogic:
        if version not in self._logics:
            self._logics[version] = self._load_logic(version)
        return self._logics[version]

    def _read(self, request: RecommendationRequest, version: int) -> tuple[RecommendationLogic, list[HistoryItem], TokenIds]:
        logic = self._logic(version)
        logic.check_decoder(request.decoder)
        history = logic.read_history(request.history)
        return logic, history, logic.write_prompt(history)

    async def _search(self, request: SearchRequest, logic: RecommendationLogic) -> Exchange:
        """The search with all its answers in, after as many rounds as it takes."""
        exchange = begin_search(request, logic.manifest.num_entries, self._spread)
        asked = exchange.requests()
        while asked:
            answers = await self.backend.search(asked, logic.manifest.memory_version, None)
            asked = await self._off_loop(_next_round, exchange, answers)
        return exchange

    async def _off_loop(self, work: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *arguments, **named))


def _next_round(exchange: Exchange, answers: Mapping[int, ShardAnswer]) -> Mapping[int, ShardRequest]:
    exchange.add(answers)
    return exchange.requests()
