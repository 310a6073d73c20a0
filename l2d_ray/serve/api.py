"""The HTTP API: routes and their documentation over a ``Recommender``, knowing no Ray. ``/docs`` and ``/openapi.json`` come with it."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, FastAPI, Path, Query, Request, Response
from fastapi_offline import FastAPIOffline

from l2d_ray.decode.settings import DecoderName
from l2d_ray.errors import UnavailableError
from l2d_ray.serve import problems
from l2d_ray.serve.access import AccessControl, Caller
from l2d_ray.serve.edge import MAX_BODY_BYTES, MAX_BODY_S, BodyLimit, RequestIds
from l2d_ray.serve.latent_map import DrawnMap, LatentMap
from l2d_ray.serve.management import Management
from l2d_ray.serve.messages import (
    MAX_K,
    MAX_NUM_NEIGHBORS,
    MAX_TIMEOUT_MS,
    BatchAnswer,
    BatchRequest,
    Health,
    RankingOptions,
    RecommendationAnswer,
    RecommendationRequest,
)
from l2d_ray.serve.page import add_page
from l2d_ray.serve.service import Recommender
from l2d_ray.serve.state_routes import add_state_routes
from l2d_ray.serve.wire import MAX_TEXT

DESCRIPTION = "Recommendations from an LLM's hidden state, without generating a word. Errors are problem answers (RFC 9457)."


def build_api(
    recommender: Recommender,
    access: AccessControl | None = None,
    *,
    draw_map: Callable[[int], LatentMap] | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    max_body_s: float = MAX_BODY_S,
) -> FastAPI:
    """Routes that answer with this recommender.

    Args:
        access: who may call them; None: everybody.
        draw_map: the map of a served version, for the page; None: there is none.
    """
    access = access or AccessControl(None)
    management = Management(recommender)
    api = FastAPIOffline(title="l2d_ray", description=DESCRIPTION)
    problems.install(api)
    _add_recommendations(api, recommender, access)
    add_state_routes(api, management, access)
    _add_health(api, recommender)
    add_page(api)
    if draw_map is not None:
        _add_map(api, recommender, access, DrawnMap(draw_map))
    api.add_middleware(BodyLimit, max_bytes=max_body_bytes, max_s=max_body_s)
    api.add_middleware(RequestIds)
    return api


def _add_recommendations(api: FastAPI, recommender: Recommender, access: AccessControl) -> None:
    read = Depends(access.require("read"))

    @api.post(
        "/v1/recommendations",
        summary="Items that follow a history",
        tags=["recommendations"],
        response_model=RecommendationAnswer,
        responses=problems.documented(*problems.OF_BODIES),
        dependencies=[read],
    )
    async def recommend(body: RecommendationRequest, request: Request) -> Response:
        return _written(await recommender.recommend(body, request.state.request_id))

    @api.post(
        "/v1/recommendations/batch",
        summary="Items that follow many histories, encoded and searched together",
        tags=["recommendations"],
        response_model=BatchAnswer,
        responses=problems.documented(*problems.OF_BODIES),
    )
    async def recommend_batch(body: BatchRequest, request: Request, caller: Caller = read) -> Response:
        access.charge(caller, len(body.requests))
        return _written(BatchAnswer(answers=await recommender.recommend_all(body.requests, request.state.request_id)))

    @api.get(
        "/v1/items/{item_id:path}/similar",
        summary="Items whose histories are like an item's",
        tags=["recommendations"],
        response_model=RecommendationAnswer,
        responses=problems.documented(*problems.OF_ITEMS),
        dependencies=[read],
    )
    async def similar(
        item_id: Annotated[str, Path(min_length=1, max_length=MAX_TEXT)],
        request: Request,
        k: Annotated[int, Query(ge=1, le=MAX_K)] = 10,
        decoder: DecoderName | None = None,
        num_neighbors: Annotated[int | None, Query(ge=1, le=MAX_NUM_NEIGHBORS)] = None,
        diversity: Annotated[float, Query(ge=0, le=1, allow_inf_nan=False)] = 0.0,
        timeout_ms: Annotated[int | None, Query(ge=1, le=MAX_TIMEOUT_MS)] = None,
        require_complete: bool = False,
    ) -> Response:
        options = RankingOptions(
            k=k,
            decoder=decoder,
            num_neighbors=num_neighbors,
            diversity=diversity,
            timeout_ms=timeout_ms,
            require_complete=require_complete,
        )
        return _written(await recommender.similar(item_id, options, request.state.request_id))


def _written(answer: RecommendationAnswer | BatchAnswer) -> Response:
    """What FastAPI would answer, which checks it once more and copies it twice: for 500 items that is ten times the work."""
    return Response(answer.model_dump_json(), media_type="application/json")


def _add_health(api: FastAPI, recommender: Recommender) -> None:
    @api.get("/healthz", summary="Whether the process lives", tags=["operations"])
    async def healthz() -> Health:
        return Health()

    @api.get(
        "/readyz",
        summary="Whether encoder and shards all answer",
        tags=["operations"],
        responses=problems.documented(HTTPStatus.SERVICE_UNAVAILABLE),
    )
    async def readyz() -> Health:
        missing = await recommender.backend.missing_parts()
        if missing:
            raise UnavailableError(f"Not ready: no answer from {', '.join(missing)}; wait until they have started.", retry_after_s=1)
        return Health()


def _add_map(api: FastAPI, recommender: Recommender, access: AccessControl, drawn: DrawnMap) -> None:
    @api.get(
        "/v1/map",
        summary="The best known items on a plane, where their representations lie",
        tags=["operations"],
        responses=problems.documented(*problems.OF_ALL),
        dependencies=[Depends(access.require("read"))],
    )
    async def latent_map() -> LatentMap:
        return await drawn.of((await recommender.backend.versions()).current)
