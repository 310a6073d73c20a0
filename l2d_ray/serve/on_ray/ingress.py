"""The deployment that speaks HTTP: the API over a recommender whose backend is the other deployments."""

from __future__ import annotations

import asyncio
import logging
import os

from fastapi import FastAPI
from ray.serve.context import _get_serve_request_context
from ray.serve.handle import DeploymentHandle
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from l2d_ray.errors import L2DError
from l2d_ray.serve.access import AccessControl
from l2d_ray.serve.api import build_api
from l2d_ray.serve.arguments import ServeArguments
from l2d_ray.serve.artefacts import ServedArtefacts
from l2d_ray.serve.audit import AuditLog, AuditMiddleware
from l2d_ray.serve.edge import REQUEST_ID
from l2d_ray.serve.latent_map import map_of
from l2d_ray.serve.messages import RecommendationAnswer
from l2d_ray.serve.observed import Observed
from l2d_ray.serve.on_ray.backend import HandleBackend
from l2d_ray.serve.on_ray.metrics import IngressMetrics, repeat_gauges
from l2d_ray.serve.on_ray.parts import LOST, Part
from l2d_ray.serve.on_ray.tracing import note_stages
from l2d_ray.serve.service import Recommender
from l2d_ray.serve.state import State
from l2d_ray.store.open import open_store

logger = logging.getLogger("ray.serve")


class Ingress:
    """HTTP in and out; the recommender does the rest. Follows the index: a newer version is served once every shard has loaded it."""

    def __init__(
        self,
        artefacts: ServedArtefacts,
        arguments: ServeArguments,
        encoder: DeploymentHandle,
        shards: dict[str, DeploymentHandle],
        updater: DeploymentHandle | None,
    ) -> None:
        self._updater = updater  # never called: naming it here makes it a part of the application
        self._arguments = arguments
        self._metrics = IngressMetrics()
        self._store = None if arguments.state_url is None else open_store(arguments.state_url)
        self._backend = HandleBackend(
            artefacts, self._part("Encoder", encoder, arguments.encoder_replicas), self._parts(shards), arguments, metrics=self._metrics
        )
        self._recommender = Recommender(
            lambda version: self._backend.artefacts_of(version).load_logic(),
            self._backend,
            State(self._store),
            decoders=artefacts.decoders,
            observe=self._observe,
        )
        self._backend.prepare = self._recommender.prepare
        self._following = asyncio.get_running_loop().create_task(self._follow())
        self._repeating = asyncio.get_running_loop().create_task(repeat_gauges(self._metrics))

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Middlewares from the inside out."""
        keys = self._store if self._arguments.access_control else None
        api = build_api(
            self._recommender,
            AccessControl(keys, share=1 / self._arguments.ingress_replicas),
            draw_map=lambda version: map_of(self._backend.artefacts_of(version).index),
        )
        api.add_middleware(AuditMiddleware, log=AuditLog(self._arguments.audit_log))
        api.add_middleware(Observed, note=self._metrics.request)
        api.add_middleware(ServeRequestIds)
        return api

    def _observe(self, answer: RecommendationAnswer) -> None:
        self._metrics.answer(answer)
        note_stages(answer)

    async def check_health(self) -> None:
        """Serve starts another one where this one no longer follows the index."""
        if self._following.done():
            self._following.result()

    async def ping(self) -> int:
        """The process's id."""
        return os.getpid()

    def _part(self, name: str, handle: DeploymentHandle, num_replicas: int) -> Part:
        doubled_after_s = self._arguments.doubled_after_s if num_replicas > 1 else None
        return Part(name, handle, note_retry=self._metrics.retried, doubled_after_s=doubled_after_s)

    def _parts(self, handles: dict[str, DeploymentHandle]) -> list[Part]:
        return [self._part(name, handle, self._arguments.shard_replicas) for name, handle in handles.items()]

    async def _follow(self) -> None:
        versions = await self._backend.versions()
        await self._recommender.prepare(versions.current)
        self._metrics.switched(versions)
        while True:
            await asyncio.sleep(self._arguments.refresh_s)
            try:
                await self._backend.refresh()
            except (L2DError, OSError, *LOST) as error:
                logger.warning("The newest index is not served yet: %s", error)


class ServeRequestIds:
    """Gives a request without an id the one that Serve has made for it, which stands in the log lines of every deployment."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and REQUEST_ID not in Headers(scope=scope):
            request_id = _get_serve_request_context().request_id
            scope = {**scope, "headers": [*scope["headers"], (REQUEST_ID.lower().encode(), request_id.encode())]}
        await self._app(scope, receive, send)
