"""What the shards are asked in the course of a request: the search in its rounds, items' representations, and what speaks for items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from l2d_ray.decode.local_merge import LearntSpread
from l2d_ray.decode.lookup import ItemReasons, ItemVectors, Reasons, ReasonsRequest, VectorsRequest
from l2d_ray.decode.paired import RecentItems
from l2d_ray.decode.search import Exchange, SearchRequest, ShardAnswer, ShardRequest, begin_search
from l2d_ray.errors import RequestError, UnavailableError
from l2d_ray.serve.backend import Backend
from l2d_ray.serve.batching import RETRY_AFTER_S
from l2d_ray.serve.logic import RecommendationLogic
from l2d_ray.serve.loop import OffLoop
from l2d_ray.serve.messages import Completeness


@dataclass(frozen=True, eq=False)
class Searched:
    """A search with all its answers in, and how many shards they came from."""

    exchange: Exchange
    complete: Completeness


class Shards:
    """The shards of every served version."""

    def __init__(self, backend: Backend, off_loop: OffLoop) -> None:
        self._backend = backend
        self._off_loop = off_loop
        self._spread = LearntSpread()

    async def search(
        self, request: SearchRequest, logic: RecommendationLogic, deadline: float | None, *, require_complete: bool
    ) -> Searched:
        """As many rounds as it takes; UnavailableError where no shard answers, or not all that must."""
        version, total = logic.manifest.memory_version, logic.manifest.num_shards
        exchange = begin_search(request, logic.manifest.num_entries, self._spread)
        asked, missing = exchange.requests(), set[int]()
        while asked:
            answers = await self._backend.search(asked, version, deadline)
            missing |= asked.keys() - answers.keys()
            if request.decoder == "local":
                asked = await self._off_loop(_next_round, exchange, answers)
            else:
                asked = _next_round(exchange, answers)  # only keeps the answers: less work than changing threads
        complete = Completeness(shards_ok=total - len(missing), shards_total=total)
        if missing and (require_complete or not complete.shards_ok):
            raise UnavailableError(
                f"{len(missing)} of {total} shards did not answer in time; try again later"
                + (", or take a partial answer (require_complete: false)." if complete.shards_ok else "."),
                RETRY_AFTER_S,
            )
        return Searched(exchange, complete)

    async def vectors(self, logic: RecommendationLogic, items: Sequence[int], deadline: float | None) -> NDArray[np.float32]:
        """(m, d) representations of items; zero where no shard that answers has one."""
        asked = {shard: VectorsRequest(mine) for shard, mine in logic.by_shard(items).items()}
        answers = await self._ask(asked, logic, deadline)
        found = {index: vector for index in items if (vector := logic.cold.current.vector(index)) is not None}
        for answer in answers:
            if isinstance(answer, ItemVectors):
                found |= dict(zip(answer.item_indexes.tolist(), answer.vectors, strict=True))
        unknown = np.zeros(logic.manifest.dim, dtype=np.float32)
        return np.stack([found.get(index, unknown) for index in items]) if items else unknown[None][:0]

    async def vector(self, logic: RecommendationLogic, index: int, deadline: float | None) -> NDArray[np.float32]:
        """(d,) representation of an item; UnavailableError where its shard does not answer, RequestError where it has none."""
        asked = {shard: VectorsRequest(mine) for shard, mine in logic.by_shard([index]).items()}
        known = logic.cold.current.vector(index)
        for answer in await self._ask(asked, logic, deadline):
            if isinstance(answer, ItemVectors):
                return answer.vectors[0] if len(answer.vectors) else _existing(known)
        if known is None:
            raise UnavailableError("The shard of this item did not answer in time; try again later.", RETRY_AFTER_S)
        return known

    async def reasons(
        self,
        logic: RecommendationLogic,
        query: NDArray[np.float32],
        items: Sequence[int],
        count: int,
        deadline: float | None,
        *,
        recent: RecentItems | None,
    ) -> ItemReasons:
        """The ``count`` nearest entries of each item to a query (d,), and what pairs with the items of ``recent`` say, where given."""
        recents = () if recent is None else (recent,)
        asked = {shard: ReasonsRequest(query[None], (mine,), count, recents) for shard, mine in logic.by_shard(items).items()}
        answers = await self._ask(asked, logic, deadline)
        return ItemReasons.of_query((answer for answer in answers if isinstance(answer, Reasons)), 0)

    async def _ask(
        self, asked: Mapping[int, VectorsRequest | ReasonsRequest], logic: RecommendationLogic, deadline: float | None
    ) -> Sequence[ShardAnswer]:
        if not asked:
            return ()
        return list((await self._backend.search(asked, logic.manifest.memory_version, deadline)).values())


def _existing(vector: NDArray[np.float32] | None) -> NDArray[np.float32]:
    if vector is None:
        raise RequestError(
            "item_id", "Nobody has chosen this item yet, and the index has no state of its title: nothing is known to be like it."
        )
    return vector


def _next_round(exchange: Exchange, answers: Mapping[int, ShardAnswer]) -> Mapping[int, ShardRequest]:
    exchange.add(answers)
    return exchange.requests()
