"""The routes beside recommendations: items, interactions, users, versions, the experiment, status."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, FastAPI, Path, Query, Request

from l2d_ray.serve import problems
from l2d_ray.serve.access import AccessControl, Caller
from l2d_ray.serve.catalogue_search import MAX_ORDERED
from l2d_ray.serve.management import Management
from l2d_ray.serve.state_messages import (
    Experiment,
    ForgottenAnswer,
    FoundItems,
    InteractionsAnswer,
    InteractionsRequest,
    Item,
    ItemPatch,
    NewItem,
    RunningExperiment,
    ServiceStatus,
    VersionChoice,
    VersionsAnswer,
)
from l2d_ray.serve.wire import MAX_TEXT

Id = Annotated[str, Path(min_length=1, max_length=MAX_TEXT)]


def add_state_routes(api: FastAPI, management: Management, access: AccessControl) -> None:
    """All of them; reads, writes and what operators do need scopes of their own."""
    _add_items(api, management, access)
    _add_users(api, management, access)
    _add_operations(api, management, access)


def _add_items(api: FastAPI, management: Management, access: AccessControl) -> None:
    read, write = Depends(access.require("read")), Depends(access.require("write"))
    documented, documented_write = problems.documented(*problems.OF_ITEMS), problems.documented(*problems.OF_ITEM_BODIES)

    @api.get(
        "/v1/items",
        summary="Items by the beginnings of their titles' words",
        tags=["items"],
        responses=problems.documented(*problems.OF_ALL),
        dependencies=[read],
    )
    async def find_items(
        query: Annotated[str, Query(max_length=MAX_TEXT)] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        offset: Annotated[int, Query(ge=0, le=MAX_ORDERED)] = 0,
    ) -> FoundItems:
        return await management.find_items(query, limit=limit, offset=offset)

    @api.get("/v1/items/{item_id:path}", summary="An item", tags=["items"], responses=documented, dependencies=[read])
    async def get_item(item_id: Id) -> Item:
        return await management.item(item_id)

    @api.put("/v1/items/{item_id:path}", summary="Make or replace an item", tags=["items"], responses=documented_write)
    async def put_item(item_id: Id, body: NewItem, request: Request, caller: Caller = write) -> Item:
        return await management.put_item(item_id, body, caller.author(request.state.request_id))

    @api.patch("/v1/items/{item_id:path}", summary="Change title or attributes of an item", tags=["items"], responses=documented_write)
    async def patch_item(item_id: Id, body: ItemPatch, request: Request, caller: Caller = write) -> Item:
        return await management.patch_item(item_id, body, caller.author(request.state.request_id))

    @api.delete(
        "/v1/items/{item_id:path}",
        summary="Recommend an item no more",
        tags=["items"],
        responses=documented,
        status_code=HTTPStatus.NO_CONTENT,
    )
    async def delete_item(item_id: Id, request: Request, caller: Caller = write) -> None:
        await management.delete_item(item_id, caller.author(request.state.request_id))


def _add_users(api: FastAPI, management: Management, access: AccessControl) -> None:
    write = Depends(access.require("write"))

    @api.post(
        "/v1/interactions",
        summary="Store what users met; answered once it is on disk",
        tags=["users"],
        responses=problems.documented(*problems.OF_BODIES),
    )
    async def add_interactions(body: InteractionsRequest, request: Request, caller: Caller = write) -> InteractionsAnswer:
        access.charge(caller, len(body.events))
        return await management.add_interactions(body.events, caller.author(request.state.request_id))

    @api.delete(
        "/v1/users/{user_id:path}",
        summary="Forget a user: the history now, memory and index with their next version",
        tags=["users"],
        responses=problems.documented(*problems.OF_ALL),
    )
    async def forget_user(user_id: Id, request: Request, caller: Caller = write) -> ForgottenAnswer:
        return await management.forget_user(user_id, caller.author(request.state.request_id))


def _add_operations(api: FastAPI, management: Management, access: AccessControl) -> None:
    read, admin = Depends(access.require("read")), Depends(access.require("admin"))
    documented, documented_write = problems.documented(*problems.OF_ALL), problems.documented(*problems.OF_BODIES)

    @api.get("/v1/status", summary="What is served, and what it holds", tags=["operations"], responses=documented, dependencies=[read])
    async def status() -> ServiceStatus:
        return await management.status()

    @api.get("/v1/versions", summary="Memory versions that can answer", tags=["operations"], responses=documented, dependencies=[read])
    async def versions() -> VersionsAnswer:
        return await management.versions()

    @api.put(
        "/v1/versions/current",
        summary="Answer from another memory version: roll back, or follow the newest again",
        tags=["operations"],
        responses=documented_write,
        dependencies=[admin],
    )
    async def activate(body: VersionChoice) -> VersionsAnswer:
        return await management.activate(body.version)

    @api.get("/v1/experiment", summary="The running experiment", tags=["operations"], responses=documented, dependencies=[read])
    async def experiment() -> RunningExperiment:
        return RunningExperiment(experiment=await management.experiment())

    @api.put("/v1/experiment", summary="Begin or change the experiment", tags=["operations"], responses=documented_write)
    async def begin(body: Experiment, request: Request, caller: Caller = admin) -> RunningExperiment:
        author = caller.author(request.state.request_id)
        return RunningExperiment(experiment=await management.set_experiment(body, author))

    @api.delete("/v1/experiment", summary="End the experiment", tags=["operations"], responses=documented)
    async def end(request: Request, caller: Caller = admin) -> RunningExperiment:
        author = caller.author(request.state.request_id)
        return RunningExperiment(experiment=await management.set_experiment(None, author))
