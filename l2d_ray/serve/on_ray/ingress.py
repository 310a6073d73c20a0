"""The deployment that speaks HTTP: the API over a recommender whose backend is the other deployments."""

from __future__ import annotations

import asyncio
import logging

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle

from l2d_ray.errors import L2DError
from l2d_ray.serve.api import build_api
from l2d_ray.serve.arguments import ServeArguments
from l2d_ray.serve.artefacts import ServedArtefacts
from l2d_ray.serve.latent_map import map_of
from l2d_ray.serve.on_ray.backend import HandleBackend
from l2d_ray.serve.on_ray.parts import LOST, Part
from l2d_ray.serve.overload import Bounded
from l2d_ray.serve.service import Recommender

logger = logging.getLogger("ray.serve")


class Ingress:
    """HTTP in and out; the recommender does the rest. Follows the index: a newer version is served once every shard has loaded it."""

    def __init__(
        self, artefacts: ServedArtefacts, arguments: ServeArguments, encoder: DeploymentHandle, shards: dict[str, DeploymentHandle]
    ) -> None:
        self._arguments = arguments
        parts = [Part(name, handle) for name, handle in shards.items()]
        self._backend = HandleBackend(artefacts, Part("Encoder", encoder), parts, arguments)
        self._recommender = Recommender(lambda version: self._backend.artefacts_of(version).load_logic(), self._backend)
        self._backend.prepare = self._recommender.prepare
        self._following = asyncio.get_running_loop().create_task(self._follow())

    def __serve_build_asgi_app__(self) -> FastAPI:
        api = build_api(self._recommender, draw_map=lambda version: map_of(self._backend.artefacts_of(version).index))
        api.add_middleware(Bounded, max_requests=self._arguments.max_requests)
        return api

    async def _follow(self) -> None:
        await self._recommender.prepare((await self._backend.versions()).current)
        while True:
            await asyncio.sleep(self._arguments.refresh_s)
            try:
                await self._backend.refresh()
            except (L2DError, OSError, *LOST) as error:
                logger.warning("The newest index is not served yet: %s", error)
