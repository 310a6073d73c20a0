"""The HTTP API over a ``Recommender``: routes and their documentation, knowing no Ray. ``/docs`` and ``/openapi.json`` come with it."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI

from l2d_ray.errors import UnavailableError
from l2d_ray.serve import page, problems
from l2d_ray.serve.messages import Health, RecommendationAnswer, RecommendationRequest, ServiceStatus
from l2d_ray.serve.service import Recommender

DESCRIPTION = "Recommendations from an LLM's hidden state, without generating a word. Errors are problem answers (RFC 9457)."


def build_api(recommender: Recommender) -> FastAPI:
    """Routes that answer with this recommender."""
    api = FastAPI(title="l2d_ray", description=DESCRIPTION)
    problems.install(api)
    page.install(api)

    @api.post(
        "/v1/recommendations",
        summary="Items that follow a history",
        responses=problems.documented(
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            HTTPStatus.UNPROCESSABLE_ENTITY,
            HTTPStatus.SERVICE_UNAVAILABLE,
        ),
    )
    async def recommend(request: RecommendationRequest) -> RecommendationAnswer:
        return await recommender.recommend(request)

    @api.get(
        "/v1/status",
        summary="What is served: memory version, model, decoders, shards and their bytes",
        responses=problems.documented(HTTPStatus.SERVICE_UNAVAILABLE),
    )
    async def status() -> ServiceStatus:
        return await recommender.status()

    @api.get("/healthz", summary="Whether the process lives")
    async def healthz() -> Health:
        return Health()

    @api.get(
        "/readyz",
        summary="Whether encoder and shards all answer",
        responses=problems.documented(HTTPStatus.SERVICE_UNAVAILABLE),
    )
    async def readyz() -> Health:
        missing = await recommender.backend.missing_parts()
        if missing:
            raise UnavailableError(f"Not ready: no answer from {', '.join(missing)}; wait until they have started.", retry_after_s=1)
        return Health()

    return api
