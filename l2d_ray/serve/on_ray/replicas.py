"""The deployments behind the ingress: encoder and shards. Arithmetic runs in threads, so that an event loop always answers pings."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from l2d_ray.decode.search import ShardAnswer, ShardHoldings, ShardRequest, ShardSearcher
from l2d_ray.model.grown import GrowingEncoder
from l2d_ray.model.loading import resolve_device
from l2d_ray.serve.arguments import ServeArguments
from l2d_ray.serve.artefacts import ServedArtefacts
from l2d_ray.serve.batching import Batch, Batcher, BatchLimits
from l2d_ray.serve.loaded import Loaded
from l2d_ray.serve.on_ray.metrics import EncoderMetrics
from l2d_ray.text.prompts import TokenIds, TokenWindow

Prompts = Sequence[TokenIds]


class EncoderReplica:
    """Prompts of all ingress replicas, those that wait together encoded together, up to a budget of tokens."""

    def __init__(self, artefacts: ServedArtefacts, arguments: ServeArguments) -> None:
        device = resolve_device(arguments.device)
        self._encoder = artefacts.load_encoder(device=device, max_batch_tokens=arguments.max_batch_tokens)
        kept_bytes = arguments.kept_history_mib << 20 if artefacts.prompts.prompt_format == "sequence" else 0
        self._requests = GrowingEncoder(self._encoder, kept_bytes, note=EncoderMetrics().tokens) if kept_bytes else self._encoder
        self._requests.encode([np.zeros(1, dtype=np.int32)])  # the first pass is slow: now, before this replica counts as ready
        limits = BatchLimits(arguments.max_batch_size, arguments.max_batch_tokens)
        self._batcher: Batcher[Prompts, NDArray[np.float32]] = Batcher(self._encode, limits)

    async def encode(self, prompts: Prompts) -> NDArray[np.float32]:
        """(n, d) query vectors."""
        return await self._batcher.submit(prompts, weight=sum(map(len, prompts)))

    async def encode_windows(self, windows: Sequence[TokenWindow]) -> NDArray[np.float32]:
        """Every state of every window, (n, d): for the updater, beside the requests."""
        return await asyncio.to_thread(self._encoder.encode_windows, windows)

    async def ping(self) -> int:
        """The process's id, which says that the model is loaded."""
        return os.getpid()

    async def _encode(self, batch: Batch[Prompts]) -> list[NDArray[np.float32]]:
        together = [prompt for prompts in batch.jobs for prompt in prompts]
        states = await asyncio.to_thread(self._requests.encode, together)
        return np.split(states, np.cumsum([len(prompts) for prompts in batch.jobs])[:-1])


class ShardReplica:
    """One shard of the index, in every generation that requests name: a replica that does not have one loads it then."""

    def __init__(self, artefacts: ServedArtefacts, shard: int, arguments: ServeArguments) -> None:
        self._artefacts = artefacts
        self._shard = shard
        self._device = resolve_device(arguments.shard_device)
        self._loaded: Loaded[ShardSearcher] = Loaded(self._load, arguments.loaded_versions)
        self._loaded.get(artefacts.manifest.generation)

    async def search(self, request: ShardRequest, generation: str) -> ShardAnswer:
        return await asyncio.to_thread(lambda: self._loaded.get(generation).search(request))

    async def load(self, generation: str) -> None:
        """Return once the generation is loaded here."""
        await asyncio.to_thread(self._loaded.get, generation)

    async def holdings(self, generation: str) -> ShardHoldings:
        return (await asyncio.to_thread(self._loaded.get, generation)).holdings()

    async def ping(self) -> int:
        """The process's id, which says that the shard is loaded."""
        return os.getpid()

    def _load(self, generation: str) -> ShardSearcher:
        return self._artefacts.of_generation(generation).load_searcher(self._shard, device=self._device)
