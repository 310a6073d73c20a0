"""``Backend`` whose parts are deployments: shared calls, deadlines, answers from the shards that are there, and the served generation.

Requests that wait at the same time share one call of the encoder, and one call of each shard (``serve.batching``, ``serve.shared_search``).
A shard that does not answer by the deadline is left out; a replica that died is asked for again elsewhere (``parts``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from l2d_ray.decode.search import ShardAnswer, ShardHoldings, ShardRequest
from l2d_ray.errors import L2DError, UnavailableError
from l2d_ray.serve.arguments import ServeArguments
from l2d_ray.serve.artefacts import ServedArtefacts
from l2d_ray.serve.backend import ServedVersions
from l2d_ray.serve.batching import RETRY_AFTER_S, Batch, Batcher, BatchLimits
from l2d_ray.serve.generations import Generations
from l2d_ray.serve.on_ray.metrics import IngressMetrics
from l2d_ray.serve.on_ray.parts import LOST, PING_TIMEOUT_S, Part
from l2d_ray.serve.on_ray.tracing import SharedCalls
from l2d_ray.serve.shared_search import joined, sharing_key, split
from l2d_ray.serve.state_cache import StateCache
from l2d_ray.text.prompts import TokenIds

logger = logging.getLogger("ray.serve")

LOAD_TIMEOUT_S: Final = 600.0
Answer = TypeVar("Answer")
Prepare = Callable[[int], Awaitable[None]]


class HandleBackend:
    """See the module.

    Args:
        artefacts: what the application was deployed with.
        shards: in order.
    """

    def __init__(
        self, artefacts: ServedArtefacts, encoder: Part, shards: Sequence[Part], arguments: ServeArguments, *, metrics: IngressMetrics
    ) -> None:
        self.prepare: Prepare = _nothing_to_prepare
        """Called with a memory version before it becomes current."""
        self._metrics = metrics
        self._encoder = encoder
        self._shards = shards
        self._longest_wait_s = arguments.longest_wait_s
        self._states = StateCache(arguments.cached_states)
        self._generations = Generations.of(artefacts)
        self._refreshing = asyncio.Lock()
        shared = SharedCalls()
        calls, jobs = arguments.calls_per_replica, arguments.max_batch_size
        budget = BatchLimits(jobs, arguments.max_batch_tokens, calls * arguments.encoder_replicas, arguments.max_waiting)
        self._encoding: Batcher[TokenIds, NDArray[np.float32]] = Batcher(
            self._call_encoder, budget, note=metrics.batch(encoder.name), context=shared
        )
        per_shard = BatchLimits(jobs, max_calls=calls * arguments.shard_replicas, max_waiting=arguments.max_waiting)
        self._searching: list[Batcher[ShardRequest, ShardAnswer]] = [
            Batcher(partial(self._call_shard, shard), per_shard, note=metrics.batch(shard.name), context=shared) for shard in shards
        ]

    async def encode(self, prompts: Sequence[TokenIds], deadline: float | None) -> NDArray[np.float32]:
        until = self._until(deadline)
        try:
            return np.stack(await asyncio.gather(*(self._state(prompt, until) for prompt in prompts)))
        except TimeoutError:
            raise UnavailableError("The encoder did not answer in time; try again later.", RETRY_AFTER_S) from None

    async def search(self, requests: Mapping[int, ShardRequest], version: int, deadline: float | None) -> Mapping[int, ShardAnswer]:
        generation, until = self._generations.of_version(version).manifest.generation, self._until(deadline)
        asked = {
            shard: asyncio.ensure_future(self._searching[shard].submit(request, key=(generation, sharing_key(request)), deadline=until))
            for shard, request in requests.items()
        }
        return await self._of_those_that_answer(asked)

    async def holdings(self, version: int) -> Mapping[int, ShardHoldings]:
        generation, until = self._generations.of_version(version).manifest.generation, time.monotonic() + PING_TIMEOUT_S
        asked = {
            number: asyncio.ensure_future(shard.call("holdings", generation, deadline=until)) for number, shard in enumerate(self._shards)
        }
        return await self._of_those_that_answer(asked)

    async def missing_parts(self) -> list[str]:
        parts = [self._encoder, *self._shards]
        answered = await asyncio.gather(*(part.is_there() for part in parts))
        return [part.name for part, is_there in zip(parts, answered, strict=True) if not is_there]

    async def versions(self) -> ServedVersions:
        return self._generations.versions

    async def activate(self, version: int | None) -> ServedVersions:
        await asyncio.to_thread(self._generations.pin, version)
        await self.refresh()
        return self._generations.versions

    def artefacts_of(self, version: int) -> ServedArtefacts:
        return self._generations.of_version(version)

    async def refresh(self) -> None:
        """Look for newer generations, and switch once every replica of every shard has loaded the wanted one."""
        async with self._refreshing:
            seen = await asyncio.to_thread(self._generations.seen)
            before = self._generations
            if seen.current != before.current:
                self._generations = seen.staying_at(before.current, is_pinned=before.is_pinned)
                await self._load_everywhere(seen.current)
                await self.prepare(seen.versions.current)
                self._metrics.switched(seen.versions)
            self._generations = seen

    async def _load_everywhere(self, generation: str) -> None:
        """UnavailableError where a shard could not load the generation."""
        loads = (shard.handle.broadcast("load", generation) for shard in self._shards)
        done = await asyncio.gather(*(load.results_async(timeout_s=LOAD_TIMEOUT_S, return_exceptions=True) for load in loads))
        failed = [error for results in done for error in results if isinstance(error, BaseException)]
        if failed:
            raise UnavailableError(
                f"The index {generation} could not be loaded by every shard ({failed[0]}); it is tried again."
            ) from failed[0]

    async def _state(self, prompt: TokenIds, deadline: float) -> NDArray[np.float32]:
        """Query vector (d,) of a prompt."""
        state = self._states.get(prompt)
        if state is not None:
            self._metrics.cached()
            return state
        state = await self._encoding.submit(prompt, weight=len(prompt), deadline=deadline)
        self._states.put(prompt, state)
        return state

    async def _call_encoder(self, batch: Batch[TokenIds]) -> Sequence[NDArray[np.float32]]:
        return list(await self._encoder.call("encode", batch.jobs, deadline=batch.deadline))

    async def _call_shard(self, shard: Part, batch: Batch[ShardRequest]) -> Sequence[ShardAnswer]:
        assert isinstance(batch.key, tuple)
        answer = await shard.call("search", joined(batch.jobs), batch.key[0], deadline=batch.deadline)
        return split(answer, batch.jobs)

    async def _of_those_that_answer(self, asked: Mapping[int, asyncio.Future[Answer]]) -> dict[int, Answer]:
        if asked:
            await asyncio.wait(asked.values())
        answers = {}
        for shard, future in asked.items():
            try:
                answers[shard] = future.result()
            except (TimeoutError, L2DError, *LOST) as error:
                self._metrics.unanswered(self._shards[shard].name)
                logger.warning("%s gave no answer: %s", self._shards[shard].name, str(error) or type(error).__name__)
        return answers

    def _until(self, deadline: float | None) -> float:
        return time.monotonic() + self._longest_wait_s if deadline is None else deadline


async def _nothing_to_prepare(version: int) -> None:
    """Where nobody keeps anything by version."""
