"""The deployment that keeps memory and index up with the state: one replica, in the background, no request waits for it.

It has no model of its own: the encoder's replicas encode for it, a few windows at a time, between the requests. Where it dies, Serve starts
another one, which does again what was not finished (``serve.upkeep``). The ingresses find the new index by themselves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from ray.serve.handle import DeploymentHandle
from transformers import AutoTokenizer

from l2d_ray.errors import L2DError
from l2d_ray.model.loading import LanguageModel
from l2d_ray.serve.arguments import ServeArguments
from l2d_ray.serve.artefacts import ServedArtefacts
from l2d_ray.serve.on_ray.metrics import UpdaterMetrics, repeat_gauges
from l2d_ray.serve.on_ray.parts import LOST, Part
from l2d_ray.serve.upkeep import TextEncoder, Upkeep, Writing
from l2d_ray.store.open import open_store
from l2d_ray.text.prompts import TokenIds, TokenWindow

logger = logging.getLogger("ray.serve")

TEXTS_AT_ONCE: Final = 16
"""Windows of one call: few, so that requests wait for the encoder no longer than for each other."""
ENCODE_TIMEOUT_S: Final = 300.0


class Updater:
    """Rounds of upkeep, ``update_s`` apart while there is nothing to do."""

    def __init__(self, artefacts: ServedArtefacts, arguments: ServeArguments, encoder: DeploymentHandle) -> None:
        assert arguments.state_url is not None
        assert arguments.memory_uri is not None
        self._loop = asyncio.get_running_loop()
        self._encoder = Part("Encoder", encoder)
        self._metrics = UpdaterMetrics()
        self._update_s = arguments.update_s
        self._store = open_store(arguments.state_url)
        self._upkeep = Upkeep(
            self._store,
            arguments.memory_uri,
            artefacts.index.index_dir,
            writing=_writing_of(artefacts),
            encoder=TextEncoder(self._windows, self._prompts),
            num_previous=arguments.kept_versions,
        )
        self._working = self._loop.create_task(self._work())
        self._repeating = self._loop.create_task(repeat_gauges(self._metrics))

    async def ping(self) -> int:
        """The process's id."""
        return os.getpid()

    async def check_health(self) -> None:
        """Serve starts another one where the work has ended."""
        if self._working.done():
            self._working.result()

    async def _work(self) -> None:
        while True:
            started = time.monotonic()
            try:
                version = await asyncio.to_thread(self._upkeep.round)
                backlog = await asyncio.to_thread(self._store.backlog)
            except (L2DError, OSError, TimeoutError, *LOST) as error:
                logger.warning("What was written is not in the memory yet, it is tried again: %s", error)
                self._metrics.failed()
                version, backlog = None, None
            if version is not None:
                self._metrics.updated(version, time.monotonic() - started)
            if backlog is not None:
                self._metrics.backlog(backlog)
            if version is None:
                await asyncio.sleep(self._update_s)

    def _windows(self, windows: Sequence[TokenWindow]) -> NDArray[np.float32]:
        return self._encoded("encode_windows", windows)

    def _prompts(self, prompts: Sequence[TokenIds]) -> NDArray[np.float32]:
        return self._encoded("encode", prompts)

    def _encoded(self, method: str, texts: Sequence[Any]) -> NDArray[np.float32]:
        """Called from the thread of a round; the calls are made on the replica's loop, where its handles live."""
        states = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            deadline = time.monotonic() + ENCODE_TIMEOUT_S
            call = self._encoder.call(method, texts[start : start + TEXTS_AT_ONCE], deadline=deadline)
            states.append(asyncio.run_coroutine_threadsafe(call, self._loop).result())
        return np.concatenate(states)


def _writing_of(artefacts: ServedArtefacts) -> Writing:
    tokenizer = AutoTokenizer.from_pretrained(str(artefacts.checkpoint_dir), trust_remote_code=False)
    language_model = LanguageModel(None, tokenizer, artefacts.prompts, artefacts.manifest.fingerprint)
    return Writing(tokenizer, language_model.prompts, artefacts.prompts.max_title_tokens)
